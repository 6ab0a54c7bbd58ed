"""The demo, run once for all tests, also where several workers run them."""

import json
import os

import pytest
from filelock import FileLock

from annotate.api import demo


@pytest.fixture
def finished_demo(tmp_path_factory):
    """The folder of the demo, and a dict of what it measured; one test at a time has them."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers of this run
    out, measured = base / "finished-demo", base / "finished-demo.json"
    with FileLock(f"{out}.lock"):
        if not measured.exists():
            measured.write_text(json.dumps(demo.run_demo(out)))
        yield out, dict(json.loads(measured.read_text()))

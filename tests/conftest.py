"""Shared fixtures: the bundled clip, a vocabulary, a header, the command line, a browser."""

import json
import os
import shutil
import sys
import tempfile

import pytest
from hypothesis import settings
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")
# tests have another HOME, in which matplotlib would make its folder and list all fonts again
os.environ.setdefault("MPLCONFIGDIR", f"{tempfile.gettempdir()}/annotate-matplotlib")

from sample_data import CLIPS, SHARED

from annotate.items import masks
from annotate.items.records import Header, Vocabulary
from annotate.video import reader

pytest_plugins = ["demo_fixtures", "labelstudio_fixtures", "map_fixtures", "search_fixtures"]
# the same examples on every machine; for others: pytest --hypothesis-profile default
settings.register_profile("repeatable", derandomize=True, deadline=None)  # no clock in a test
settings.load_profile("repeatable")

OPEN = Image.open  # Ultralytics, once imported, replaces it for the whole process
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def pytest_collection_modifyitems(items):
    # one after the other and first, so that no worker waits for the demo that another one runs
    items.sort(key=lambda item: "finished_demo" not in item.fixturenames)
    absent = pytest.mark.skip(reason="needs ../shared")
    for item in items:
        if "shared" in item.keywords and not SHARED.is_dir():
            item.add_marker(absent)


@pytest.fixture(autouse=True)
def _own_world(tmp_path, monkeypatch):
    """Give every test a folder of its own, without the settings of this machine's user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Image, "open", OPEN)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """Start Chromium without a window, once for the tests of a file."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium: apt-get install chromium, or CHROMIUM=PATH")
    home = {**os.environ, "HOME": str(tmp_path_factory.mktemp("chromium"))}
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], env=home)
        yield chromium
        chromium.close()


@pytest.fixture
def browser(chromium):
    """Chromium, without the pages and the memory of earlier tests."""
    yield chromium
    for context in chromium.contexts:
        context.close()


@pytest.fixture
def demo():
    """The bundled clip: 140 frames of 800x600, 35 a second, keyframes 0, 35, 70, 105."""
    return CLIPS / "demo.mp4"


@pytest.fixture
def annotate(capfd, monkeypatch):
    """Run a command line as a user would; return (exit code, stdout, stderr)."""

    def run(*words):
        from annotate.__main__ import main

        monkeypatch.setattr("sys.argv", ["annotate", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
            if isinstance(stop.code, str):
                sys.stderr.write(f"{stop.code}\n")
        out, err = capfd.readouterr()
        return code or 0, out, err

    return run


@pytest.fixture
def vocabulary():
    return Vocabulary("mugs.v1", {"plate": {}, "mug": {"yolo-world": ["cup"]}}, "5e1f" * 16)


@pytest.fixture
def header():
    words = {"name": "mugs.v1", "sha256": "5e1f" * 16, "labels": ["plate", "mug"]}
    return Header("detect", {"detector": "colour", "smallest": 25}, vocabulary=words)


@pytest.fixture
def monsters(demo):
    """The first picture of the demo clip, and the masks of its three monsters."""
    [frame] = reader.frames(demo, stop=1)
    annotations = json.loads((demo.parent / "demo.gt.json").read_text())["annotations"]
    first = [each for each in annotations if each["image_id"] == 0 and "segmentation" in each]
    by_track = {each.get("track_id"): masks.decode(each["segmentation"]) for each in first}
    return frame.image, [by_track[track] for track in (223, 224, 225)]

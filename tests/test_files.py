import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from annotate import files
from annotate.errors import UnknownName

ROOT = Path(__file__).parents[1]


def test_a_miss_names_the_nearest():
    with pytest.raises(UnknownName, match="no file in clips 'dmeo.mp4'; did you mean 'demo.mp4'"):
        files.packaged_file("clips", "dmeo.mp4")


@pytest.mark.slow
def test_a_wheel_carries_what_ships(tmp_path):
    """Prompts, models and the clip are in the wheel, and found from there."""
    build = "import hatchling.build as b, sys; print(b.build_wheel(sys.argv[1]))"
    words = [sys.executable, "-c", build, str(tmp_path)]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / made.stdout.split()[-1]) as wheel:
        wheel.extractall(tmp_path / "site")
    probe = (
        "import annotate.files as s; print(s.__file__);"
        "print(s.shipped('clips', 'demo.mp4'), s.shipped('models', 'manifest.toml'),"
        "s.shipped('prompts', 'vocabulary/designator.v1.toml'),"
        "s.shipped('models', 'efficientnet-lite0-s16.onnx'))"
    )
    words = [sys.executable, "-c", probe]
    site = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    found = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, check=True, env=site
    )
    assert all(str(tmp_path / "site") in word for word in found.stdout.split())

import csv

import numpy as np
import pytest
from PIL import Image

from annotate import sample, video
from annotate.errors import OutputError
from annotate.sample import Choice


def opened(path):
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize(
    "choice, expected",
    [
        (Choice(), list(range(140))),
        (Choice(every=50), [0, 50, 100]),
        (Choice(every=50, start=3, stop=104), [3, 53, 103]),
        (Choice(rate=1), [0, 35, 70, 105]),
        (Choice(keyframes=True), [0, 35, 70, 105]),
        (Choice(keyframes=True, start=1, stop=105), [35, 70]),
        (Choice(maximum=3), [0, 70, 139]),
        (Choice(keyframes=True, maximum=2), [0, 105]),
        (Choice(every=70, maximum=9), [0, 70]),
    ],
    ids=str,
)
def test_which_frames(choice, expected, demo):
    assert [frame.index for frame in choice.frames(demo)] == expected
    count = choice.count(video.probe(demo))
    assert count == len(expected) or choice.keyframes or choice.maximum == 9


def test_they_are_saved_as_they_are(demo, tmp_path):
    saved = list(sample.save(Choice(every=70).frames(demo), tmp_path / "out"))
    assert [path.name for path in saved] == ["demo-000000.png", "demo-000070.png"]
    np.testing.assert_array_equal(opened(saved[1]), video.seek(demo, 70).image)
    with (tmp_path / "out" / "frames.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[1] == {"file": saved[1].name, "video": "demo.mp4", "frame": "70", "seconds": "2"}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "demo-000000.png",
        "demo-000070.png",
        "frames.csv",
    ]


def test_jpeg_is_jpeg(demo, tmp_path):
    [path] = sample.save(Choice(stop=1).frames(demo), tmp_path, image_format="jpg")
    with Image.open(path) as image:
        assert image.format == "JPEG" and path.suffix == ".jpg"


def test_a_file_in_the_way(demo, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="out: cannot write there: File exists"):
        list(sample.save(Choice(stop=1).frames(demo), tmp_path / "out"))

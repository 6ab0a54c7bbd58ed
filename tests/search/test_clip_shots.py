import pytest
from PIL import Image
from search_fixtures import SHOT_FRAMES, shot_images

from annotate.search.clip_shots import cut_into_shots

pytest.importorskip("scenedetect")


def test_shots_are_cached(search_clips):
    decoded = []
    first = cut_into_shots([search_clips / "ep1.mp4"], lambda: decoded.append(1))
    assert [(s.start, s.stop) for s in first.shots] == [(0, 30), (30, 60), (60, 90), (90, 120)]
    again = cut_into_shots([search_clips / "ep1.mp4"])
    assert [(s.start, s.stop) for s in again.shots] == [(s.start, s.stop) for s in first.shots]
    assert len(decoded) == 120


def test_truncated_clip_is_used_up_to_the_damage(demo, tmp_path):
    data = demo.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    truncated = cut_into_shots([tmp_path / "cut.mp4"])
    [message] = truncated.decode_errors
    assert "cut short at frame" in message and "cut.mp4" in message
    assert 0 < truncated.shots[-1].stop < 140


def test_an_unreadable_image_of_a_folder_is_passed_over(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for n, image in enumerate(shot_images(1, ())):
        Image.fromarray(image).save(images / f"{n:02}.png")
    (images / "20.png").write_bytes((images / "20.png").read_bytes()[:-40])
    cut = cut_into_shots([images])
    assert not cut.decode_errors and cut.shots[-1].stop == SHOT_FRAMES

"""The clips of a batch are found by paths, patterns and lists, and known by their content."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from annotate.batch.clips import clip_digest, clip_state, expand_sources
from annotate.errors import VideoError


def test_sources_are_clips_patterns_and_lists(tmp_path):
    for name in ("b.mp4", "a.mp4", "deep/c.mp4", "[1].mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "deep" / "list.txt").write_text("c.mp4\n\n../a.mp4\n", encoding="utf-8-sig")
    sources = [Path("b.mp4"), Path("*.mp4"), Path("deep/list.txt"), Path("[1].mp4")]
    names = [path.relative_to(tmp_path).as_posix() for path in expand_sources(sources)]
    assert names[0] == "b.mp4" and sorted(names) == ["[1].mp4", "a.mp4", "b.mp4", "deep/c.mp4"]


@pytest.mark.parametrize("source", ["none.mp4", "none/*.mp4", "list.txt"])
def test_a_source_without_a_clip_is_an_error_before_anything_runs(source, tmp_path):
    (tmp_path / "list.txt").write_text("gone.mp4\n")
    with pytest.raises(VideoError, match="no such clip"):
        expand_sources([Path(source)])


def picture_folder(folder, level):
    folder.mkdir()
    for number in range(3):
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(folder / f"{number}.bmp")
    return folder


def test_folders_whose_files_have_equal_names_and_sizes_are_told_apart(tmp_path):
    dark, light = (picture_folder(tmp_path / str(level), level) for level in (10, 200))
    assert clip_digest(dark) != clip_digest(light)
    copy = shutil.copytree(dark, tmp_path / "copy")
    assert clip_digest(copy) == clip_digest(dark)


def test_files_of_one_size_that_begin_and_end_alike_are_told_apart(tmp_path):
    for name, middle in (("a.mp4", b"\x01"), ("b.mp4", b"\x02")):
        (tmp_path / name).write_bytes(bytes(2**20) + middle * 2**20 + bytes(2**20))
    assert clip_digest(tmp_path / "a.mp4") != clip_digest(tmp_path / "b.mp4")


def test_the_state_of_a_clip_changes_with_its_files(tmp_path):
    folder = picture_folder(tmp_path / "pictures", 10)
    before = clip_state(folder)
    assert clip_state(folder) == before
    with (folder / "0.bmp").open("ab") as file:
        file.write(b"\0")
    assert clip_state(folder) != before

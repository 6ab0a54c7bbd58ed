from dataclasses import replace

import pytest

from annotate.active_learning.frame_list import (
    ListedFrame,
    frames_by_clip,
    frames_of_clip,
    read_frame_list,
    read_ranks,
    write_frame_list,
)
from annotate.errors import ItemsError, OutputError
from annotate.video import reader

LISTED = [
    ListedFrame("b.mp4", 75, 2.5, 1.25, 'mech missing, "far"', 1),
    ListedFrame("a, b.mp4", 3, 0.1, 0.0, "random", 2),
    ListedFrame("b.mp4", 4, 0.125, 0.5, "", 3),
]


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "next.csv"
    write_frame_list(path, LISTED)
    assert read_frame_list(path) == LISTED
    assert path.read_text().startswith("clip,frame,seconds,worth,why,rank\nb.mp4,75,2.500,1.2500,")
    assert read_ranks(path)["b.mp4", 4] == {"rank": 3, "why": "", "worth": 0.5}
    assert frames_by_clip(LISTED) == {"b.mp4": [4, 75], "a, b.mp4": [3]}


def test_a_list_is_replaced_only_by_force_and_only_if_it_is_one(tmp_path):
    path = tmp_path / "next.csv"
    write_frame_list(path, LISTED)
    with pytest.raises(OutputError, match="already there"):
        write_frame_list(path, LISTED)
    write_frame_list(path, LISTED[:1], force=True)
    assert len(read_frame_list(path)) == 1
    path.write_text("my own notes")
    with pytest.raises(OutputError, match="not made by annotate"):
        write_frame_list(path, LISTED, force=True)


def test_a_list_of_another_program_needs_clip_and_frame_and_is_sorted_by_rank(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("frame,clip\n7,b.mp4\n3,a.mp4\n")
    listed = read_frame_list(path)
    assert [(each.key, each.rank) for each in listed] == [(("b.mp4", 7), 1), (("a.mp4", 3), 2)]
    path.write_text("clip,frame,rank\na.mp4,1,9\na.mp4,2,4\n")
    assert [each.frame for each in read_frame_list(path)] == [2, 1]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "no column 'clip'"),
        ("clip,seconds\n", "no column 'frame'"),
        ("clip,frame\n", "it lists no frame"),
        ("clip,frame\na.mp4,x\n", "list.csv:2, column frame: expected a whole number, got 'x'"),
        ("clip,frame\na.mp4,\n", "column frame: expected a whole number, got ''"),
        ("clip,frame\na.mp4,-1\n", "expected a number from 0, got -1"),
        ("clip,frame\n,1\n", "column clip: expected the name of a clip"),
        ("clip,frame,worth\na.mp4,1,x\n", "column worth: expected a number, got 'x'"),
        ("clip,frame\na.mp4,1\na.mp4,1\n", "list.csv:3: a.mp4#1 is there twice"),
        (b"\xff\xfe\x00", "not a CSV table"),
    ],
)
def test_a_damaged_list_is_refused_with_its_line(tmp_path, text, error):
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ItemsError) as caught:
        read_frame_list(path)
    assert error in str(caught.value)


def test_a_list_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ItemsError, match="no such list of frames"):
        read_frame_list(tmp_path / "next.csv")


def test_the_frames_of_a_clip_are_those_of_its_name(demo):
    video = reader.probe(demo)
    two_clips = f"demo-{video.fingerprint[:8]}.mp4"  # as `next` names the second of two
    frames = [replace(LISTED[0], clip=clip) for clip in ("b.mp4", "demo.mp4", two_clips)]
    assert frames_of_clip(frames, video, "next.csv") == frames[1:]
    with pytest.raises(ItemsError, match=r"next.csv: none of its .* demo.mp4, but of b.mp4, a, b"):
        frames_of_clip(LISTED, video, "next.csv")
    beyond = [replace(frames[1], frame=140)]
    with pytest.raises(ItemsError, match="frame 140 of demo.mp4, whose last one is 139"):
        frames_of_clip(beyond, video, "next.csv")

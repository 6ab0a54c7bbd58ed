import pytest

from annotate.video import reader
from annotate.video.reader import FrameSelection


@pytest.mark.parametrize(
    "choice, expected",
    [
        (FrameSelection(), list(range(140))),
        (FrameSelection(every=50), [0, 50, 100]),
        (FrameSelection(every=50, start=3, stop=104), [3, 53, 103]),
        (FrameSelection(rate=1), [0, 35, 70, 105]),
        (FrameSelection(keyframes=True), [0, 35, 70, 105]),
        (FrameSelection(keyframes=True, start=1, stop=105), [35, 70]),
        (FrameSelection(maximum=3), [0, 70, 139]),
        (FrameSelection(keyframes=True, maximum=2), [0, 105]),
        (FrameSelection(every=70, maximum=9), [0, 70]),
    ],
    ids=str,
)
def test_which_frames(choice, expected, demo):
    assert [frame.index for frame in choice.frames(demo)] == expected
    count = choice.count(reader.probe(demo))
    assert count == len(expected) or choice.keyframes or choice.maximum == 9

import pytest

from annotate import video
from annotate.sample import Choice


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

"""Answers of Moondream that are changed at random.

A list of boxes or points is taken whole, or refused: every one is in the picture, and none is
missing. A frame has no box only if the model's list is empty.
"""

import io
import json
from fractions import Fraction
from unittest.mock import patch

import numpy as np
from hypothesis import given
from mutations import fuzz, json_bytes, outcome

from annotate.detectors.run import DETECTORS
from annotate.items.records import Frame, Vocabulary
from annotate.vlm.moondream import Moondream
from annotate.vlm.retry import RetryPolicy

VALID = {
    "objects": [
        {"x_min": 0.1, "y_min": 0.2, "x_max": 0.5, "y_max": 0.6},
        {"x_min": 0.5, "y_min": 0.5, "x_max": 1.002, "y_max": 0.9},
    ],
    "points": [{"x": 0.25, "y": 0.5}, {"x": 1.0, "y": 0}],
    "caption": " A monster in a hall. ",
    "answer": "Two.",
}
WORDS = Vocabulary("demo.v1", {"monster": {"moondream": "Demon"}}, "5e1f")
FRAME = Frame("dock.mp4", 0, Fraction(0), np.zeros((48, 64, 3), np.uint8))


@fuzz
@given(json_bytes(VALID))
def test_every_box_and_point_is_there(data):
    model = Moondream(cached=False, retry_policy=RetryPolicy(1, 0))
    detector = DETECTORS.load("moondream", WORDS)
    detector.__dict__["moondream"] = model
    image = model.encode_image(FRAME.image)
    with patch("urllib.request.urlopen", lambda request: io.BytesIO(data)):
        caption, text = outcome(image.caption), outcome(lambda: image.query("How many?"))
        points = outcome(lambda: image.points("Demon"))
        found = outcome(lambda: detector.propose([FRAME]))
    try:
        answer = json.loads(data.decode())
    except (ValueError, RecursionError):
        assert caption is text is points is found is None
        return
    assert caption is None or caption == answer["caption"].strip()
    assert text is None or text == answer["answer"].strip()
    if points is not None:
        assert len(points) == len(answer["points"])
        assert all(0 <= x < 64 and 0 <= y < 48 for x, y in points)
    if found is not None:
        [detections] = found
        assert len(detections) or not answer["objects"] or detector.notes.open_frames

"""The contract of all detectors."""

import numpy as np


def check(detector, frames):
    """Check that a detector returns valid Detections for each frame, equal in a second call."""
    for batch in ([], frames[:1], frames):
        detections = detector.propose(batch)
        assert len(detections) == len(batch)
        for frame, one in zip(batch, detections, strict=True):
            _check(one, frame.size_wh, len(detector.vocabulary.labels))
    repeated = detector.propose(frames)
    for one, other in zip(detections, repeated, strict=True):
        np.testing.assert_array_equal(one.xyxy, other.xyxy)
        np.testing.assert_array_equal(one.confidence, other.confidence)
    return detections


def _check(one, size_wh, classes):
    assert one.xyxy.shape == (len(one), 4) and np.isfinite(one.xyxy).all()
    assert (one.xyxy[:, :2] < one.xyxy[:, 2:]).all()
    assert (one.xyxy >= 0).all() and (one.xyxy <= [*size_wh] * 2).all()
    assert one.class_id is not None and one.confidence is not None
    assert set(one.class_id.tolist()) <= set(range(classes))
    assert set(one.data) <= {"phrase"} and not one.metadata
    phrases = one.data.get("phrase", np.full(len(one), "")).tolist()
    assert len(phrases) == len(one) and all(type(each) is str for each in phrases)

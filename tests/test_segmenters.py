import dataclasses
import importlib.util
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from annotate import segmenters
from annotate.errors import PromptError, SettingsDiffer, UnknownName
from annotate.items import journal, masks
from annotate.items.records import Frame
from annotate.video.reader import FrameSelection

torch_and_sam2 = pytest.mark.skipif(
    not (importlib.util.find_spec("torch") and importlib.util.find_spec("sam2")),
    reason="needs torch and sam2",
)


@pytest.fixture
def quarters():
    """A frame of four colours."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:24, :32], image[:24, 32:], image[24:, :32] = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    return Frame("dock.png", 0, Fraction(0), image)


def test_superpixels_cover_the_picture_once(demo):
    from annotate.video import reader

    frame = reader.seek(demo, 70)
    segments = segmenters.SEGMENTERS.load("slic", n_segments=60).segment(frame)
    assert 40 <= len(segments) <= 80 and np.isnan(segments.confidence).all()
    assert (np.sum(list(segments.mask), axis=0) == 1).all()


def test_superpixels_follow_colours(quarters):
    segments = segmenters.SEGMENTERS.load("slic", n_segments=4, sigma=0.0).segment(quarters)
    parts = [{tuple(c) for c in quarters.image[mask]} for mask in segments.mask]
    assert len(parts) == 4 and all(len(colours) == 1 for colours in parts)
    assert segments.xyxy.tolist()[0] == [0, 0, 32, 24]


@pytest.mark.parametrize("wrong", [{"n_segments": 0}, {"compactness": 0.0}, {"sigma": -1.0}])
def test_options_below_zero_are_refused(wrong):
    with pytest.raises(PromptError, match="must be above 0"):
        segmenters.SEGMENTERS.load("slic", **wrong)


def test_empty_masks_are_left_out():
    full, empty = (masks.encode(np.full((6, 8), value)) for value in (True, False))
    segments = segmenters.segments_to_detections([empty, full], [0.5, 0.25], (8, 6))
    assert segments.confidence.tolist() == [0.25] and segments.xyxy.tolist() == [[0, 0, 8, 6]]
    assert len(segmenters.segments_to_detections([empty], [0.5], (8, 6))) == 0


def test_a_clip_is_segmented_into_a_file_of_items(demo, tmp_path):
    job = segmenters.Job(
        segmenters.SEGMENTERS.load("slic", n_segments=20),
        "slic",
        demo,
        FrameSelection(every=7, stop=15),
    )
    assert segmenters.run_to_file(job, tmp_path / "s.jsonl") is True
    written = journal.read(tmp_path / "s.jsonl")
    assert written.header.stage == "segment" and written.header.settings["n_segments"] == 20
    items = list(written)
    assert [item.frame for item in items] == [0, 7, 14]
    objects = items[0].objects
    assert {(o.label, o.score, o.source) for o in objects} == {("segment", None, "slic")}
    assert sum(masks.area(o.mask) for o in objects) == 800 * 600
    assert segmenters.run_to_file(job, tmp_path / "s.jsonl") is False
    other = dataclasses.replace(job, segmenter=segmenters.SEGMENTERS.load("slic", n_segments=21))
    with pytest.raises(SettingsDiffer, match="n_segments: 20 in the file, 21 now"):
        segmenters.run_to_file(other, tmp_path / "s.jsonl")


def test_a_stopped_run_is_resumed_after_its_last_frame(demo, tmp_path):
    job = segmenters.Job(
        segmenters.SEGMENTERS.load("slic", n_segments=5),
        "slic",
        demo,
        FrameSelection(every=5, stop=12),
    )
    segmenters.run_to_file(job, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_bytes()
    (tmp_path / "cut.jsonl").write_bytes(whole[: whole.index(b"\n", whole.index(b"\n") + 1) + 9])
    steps = []
    segmenters.run_to_file(
        job, tmp_path / "cut.jsonl", progress=lambda item: steps.append(item.frame)
    )
    assert steps == [5, 10] and (tmp_path / "cut.jsonl").read_bytes() == whole


def test_the_segment_command_reads_one_picture(annotate, quarters, tmp_path):
    Image.fromarray(quarters.image).save(tmp_path / "q.png")
    command = ["segment", "q.png", "-o", "s.jsonl", "--set", "n_segments=4", "--set", "sigma=0"]
    code, out, err = annotate(*command)
    assert (code, out.strip()) == (0, "s.jsonl"), err
    [item] = journal.read(tmp_path / "s.jsonl")
    assert len(item.objects) == 4
    code, _, err = annotate("segment", "q.png", "-o", "t.jsonl", "--engine", "silc")
    assert code == 1 and "no segmenter 'silc'; did you mean 'slic'?" in err
    code, _, err = annotate("segment", "q.png", "-o", "t.jsonl", "--random-weights", "0")
    assert code == 1 and "no option of slic 'random_weights'" in err


def test_unknown_segmenters_name_the_nearest():
    with pytest.raises(UnknownName, match="There are: sam2, slic"):
        segmenters.SEGMENTERS.load("watershed")


@torch_and_sam2
def test_sam2_options_filter_the_segments(demo):
    """With random weights the masks have no meaning, but the filters are the real ones."""
    from annotate.segmenters import Sam2Segmenter
    from annotate.video import reader

    frame = reader.seek(demo, 70)
    options = {
        "random_weights": 1,
        "size": 256,
        "points_per_side": 4,
        "pred_iou_thresh": 0.0,
        "device": "cpu",
    }
    loose = Sam2Segmenter(**options, stability_score_thresh=0.0, box_nms_thresh=1.0).segment(frame)
    apart = Sam2Segmenter(**options, stability_score_thresh=0.0, box_nms_thresh=0.3).segment(frame)
    strict = Sam2Segmenter(
        **{**options, "pred_iou_thresh": 1.1}, stability_score_thresh=0.0
    ).segment(frame)
    assert 0 < len(apart) < len(loose) <= 3 * 4 * 4 and len(strict) == 0
    assert loose.mask.shape[1:] == (600, 800) and np.isfinite(loose.confidence).all()
    again = Sam2Segmenter(**options, stability_score_thresh=0.0, box_nms_thresh=0.3).segment(frame)
    np.testing.assert_array_equal(np.asarray(again.mask), np.asarray(apart.mask))

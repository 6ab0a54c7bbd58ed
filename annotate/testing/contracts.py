"""Check that a plugin keeps its contract: detector, propagator, segmenter, format, trainer.

Each function raises AssertionError with the clause that does not hold. The frames are made here,
without files: grey pictures with a coloured square that moves.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from annotate.items.records import Frame, Header, Item, Object, Prompt, Vocabulary

if TYPE_CHECKING:
    import supervision as sv

    from annotate.dataset.export import Format
    from annotate.dataset.folder import Dataset
    from annotate.detectors.run import Detector
    from annotate.propagators.job import Propagator, Session
    from annotate.segmenters import Segmenter
    from annotate.training.trainer import EpochReport

_SIDE_PX = 24
_STEP_PX = 2


def sample_frames(count: int = 4, size_wh: tuple[int, int] = (160, 120)) -> list[Frame]:
    """Make frames of one clip: a red square that moves to the right over noise; always the same."""
    width, height = size_wh
    noise = np.random.default_rng(7).integers(60, 120, (height, width, 3), np.uint8)
    frames = []
    for index in range(count):
        image = noise.copy()
        x1, y1, x2, y2 = (round(side) for side in sample_box(index))
        image[y1:y2, x1:x2] = (230, 30, 30)
        frames.append(Frame("sample.mp4", index, Fraction(index, 30), image))
    return frames


def sample_box(index: int) -> tuple[float, float, float, float]:
    """Return the xyxy box of the square on frame `index` of `sample_frames`, in pixels."""
    x1 = 40.0 + _STEP_PX * index
    return x1, 40.0, x1 + _SIDE_PX, 40.0 + _SIDE_PX


def sample_vocabulary(detector: str, entry: Any = "red square") -> Vocabulary:
    """Make a vocabulary of two classes, of which the second has an entry for `detector`."""
    classes: dict[str, Mapping[str, Any]] = {"background": {}, "square": {detector: entry}}
    return Vocabulary("contract.v1", classes, "0" * 64)


def check_detector(detector: Detector, frames: Sequence[Frame] | None = None) -> None:
    """Check that a detector gives one complete `Detections` a frame, repeatably.

    Raises:
        AssertionError: names the clause that does not hold.
    """
    frames = list(frames or sample_frames())
    for batch in ([], frames[:1], frames):
        proposed = detector.propose(batch)
        assert len(proposed) == len(batch), "propose must return one Detections for each frame"
        for frame, detections in zip(batch, proposed, strict=True):
            _check_boxes(detections, frame.size_wh, len(detector.vocabulary.labels))
    for first, second in zip(proposed, detector.propose(frames), strict=True):
        repeatable = "the same frames must give the same boxes and scores"
        np.testing.assert_array_equal(first.xyxy, second.xyxy, repeatable)
        np.testing.assert_array_equal(first.confidence, second.confidence, repeatable)


def _check_boxes(detections: sv.Detections, size_wh: tuple[int, int], class_count: int) -> None:
    xyxy = detections.xyxy
    assert xyxy.shape == (len(detections), 4), "xyxy must be (n, 4)"
    assert np.isfinite(xyxy).all(), "boxes must be finite numbers"
    assert (xyxy[:, :2] < xyxy[:, 2:]).all(), "boxes must have x1 < x2 and y1 < y2"
    assert (xyxy >= 0).all() and (xyxy <= [*size_wh] * 2).all(), "boxes must be in the picture"
    assert detections.class_id is not None, "class_id must be set, also on an empty result"
    assert detections.confidence is not None, "confidence must be set; NaN where there is no score"
    ids = set(np.asarray(detections.class_id).tolist())
    assert ids <= set(range(class_count)), f"class ids {sorted(ids)} beyond {class_count} classes"
    assert set(detections.data) <= {"phrase"}, "data may hold `phrase` and nothing else"
    assert not detections.metadata, "metadata must be empty"
    phrases = detections.data.get("phrase", np.full(len(detections), ""))
    assert len(phrases) == len(detections), "phrase must have one entry a box"
    assert all(isinstance(phrase, str) for phrase in np.asarray(phrases).tolist())


def check_propagator(propagator: Propagator, frames: Sequence[Frame] | None = None) -> None:
    """Check that a propagator follows a box prompt, and goes on exactly from a saved state.

    Raises:
        AssertionError: names the clause that does not hold.
    """
    from annotate.propagators.job import PromptedFrame

    frames = list(frames or sample_frames(6))
    prompt = Prompt(frames[0].index, 5, box=sample_box(frames[0].index))
    session = propagator.begin([PromptedFrame(frames[0], (prompt,))])
    middle, saved = len(frames) // 2, None
    results = []
    for number, frame in enumerate(frames):
        if number == middle:
            saved = {key: np.array(array) for key, array in session.state().items()}
        results.append(_step(session, frame, [prompt] if number == 0 else []))
    assert len(results[0]), "an object must be seen on the frame of its own box"
    restored = propagator.begin([PromptedFrame(frames[0], (prompt,))])
    assert saved is not None
    restored.restore(saved)
    for frame, expected in zip(frames[middle:], results[middle:], strict=True):
        again = _step(restored, frame, [])
        exact = "a restored session must go on to the same masks"
        np.testing.assert_array_equal(again.tracker_id, expected.tracker_id, exact)
        np.testing.assert_array_equal(again.mask, expected.mask, exact)


def check_interactive(propagator: Propagator) -> None:
    """Check that a session with stops and corrections ends with the file of one run.

    Raises:
        AssertionError: names the clause that does not hold.
    """
    import cv2

    from annotate.prompts import PromptTable
    from annotate.propagators.interactive import InteractiveSession
    from annotate.propagators.job import Job
    from annotate.propagators.run import run_to_file

    frames = sample_frames(6)
    start, correction = (Prompt(index, 5, box=sample_box(index)) for index in (0, 3))
    labels = {5: "square"}
    with tempfile.TemporaryDirectory() as folder:
        for frame in frames:
            cv2.imwrite(f"{folder}/{frame.index}.png", frame.image[..., ::-1])
        job = Job(propagator, "contract", Path(folder), PromptTable((start,), labels))
        session = InteractiveSession(job, state_interval=2)
        before = [tracked.item for _, tracked in zip(range(3), session.run(), strict=False)]
        preview = session.preview(frames[3], [correction])
        ids = [] if preview.tracker_id is None else preview.tracker_id.tolist()
        assert ids == [5], "a preview must show the object of its prompt, and no other one"
        assert list(session.items()) == before, "a preview must change nothing"
        gone = Prompt(5, 5, gone=True)
        session.set_prompts(PromptTable((start, correction, gone), labels))
        next(session.run(start=3), None)
        with tempfile.TemporaryDirectory() as out:
            session.save(Path(out) / "session.jsonl")
            run_to_file(session.job, Path(out) / "run.jsonl")
            same = "a session with corrections must end with the bytes of one run"
            assert (Path(out) / "session.jsonl").read_bytes() == (
                Path(out) / "run.jsonl"
            ).read_bytes(), same
        *_, last = session.items()
        assert not last.objects and not last.lost, "an object that is gone is not seen"
        session.close()


def _step(session: Session, frame: Frame, prompts: Sequence[Prompt]) -> sv.Detections:
    detections = session.step(frame, prompts)
    width, height = frame.size_wh
    if not len(detections):
        return detections
    assert detections.tracker_id is not None, "tracker_id must hold the object's id"
    assert set(detections.tracker_id.tolist()) <= {5}, "only objects that have started are returned"
    assert detections.mask is not None, "every object that is seen has a mask"
    mask = np.asarray(detections.mask)
    assert mask.shape == (len(detections), height, width), "mask must be (n, H, W)"
    assert mask.dtype == bool, "mask must be bool"
    assert detections.confidence is not None, "confidence must be set"
    confidence = np.asarray(detections.confidence)
    assert ((confidence >= 0) & (confidence <= 1)).all(), "confidence must be in 0..1"
    return detections


def check_segmenter(segmenter: Segmenter, frames: Sequence[Frame] | None = None) -> None:
    """Check that a segmenter gives masks of the picture's size, with class id 0, repeatably.

    Raises:
        AssertionError: names the clause that does not hold.
    """
    for frame in list(frames or sample_frames(2)):
        detections, again = segmenter.segment(frame), segmenter.segment(frame)
        width, height = frame.size_wh
        assert detections.mask is not None, "mask must be set"
        mask = np.asarray(detections.mask)
        assert mask.shape == (len(detections), height, width), "mask must be (n, H, W)"
        assert detections.confidence is not None, "confidence must be set; NaN without a score"
        assert detections.class_id is not None, "class_id must be set"
        assert set(np.asarray(detections.class_id).tolist()) <= {0}, "class_id must be 0"
        np.testing.assert_array_equal(mask, np.asarray(again.mask), "segment must be repeatable")


def check_format(dataset_format: Format) -> None:
    """Check that a format writes a small dataset, and reads the same objects back both ways.

    Raises:
        AssertionError: names the clause that does not hold.
        ExportDiffers: an object is not read back as what was written.
    """
    from annotate.dataset.export import export_dataset, import_dataset

    with tempfile.TemporaryDirectory() as folder:
        dataset = sample_dataset(Path(folder) / "dataset")
        report = export_dataset(dataset, dataset_format, Path(folder) / "export")
        assert report.objects == 3, f"3 objects were written, {report.objects} were read back"
        source = Path(folder) / "export"
        imported = import_dataset(source, dataset_format, Path(folder) / "imported")
        assert imported.classes == dataset.classes, "the classes must keep their order"
        counts = [sorted(obj.label for obj in sample.item.objects) for sample in imported]
        expected = [sorted(obj.label for obj in sample.item.objects) for sample in dataset]
        assert sorted(counts) == sorted(expected), "read must give every frame, the empty ones too"


def sample_dataset(path: Path) -> Dataset:
    """Write a dataset of three frames with two classes; the last frame is empty, a negative."""
    import cv2

    from annotate.dataset.folder import Dataset, create_dataset, load_dataset

    clips = {"sample.mp4": {"frame_count": 3, "width": 160, "height": 120}}
    dataset = Dataset(path, ("background", "square"), clips)
    labels = [["square", "background"], ["square"], []]
    header = Header("build", vocabulary={"labels": list(dataset.classes)})
    with create_dataset(dataset, header) as draft:
        for frame, names in zip(sample_frames(3), labels, strict=True):
            width, height = frame.size_wh
            objects = tuple(Object(name, sample_box(frame.index)) for name in names)
            item = Item(frame.video, frame.index, frame.seconds, width, height, objects)
            name = f"sample-{frame.index:06d}.png"
            draft.add(name, item)
            cv2.imwrite(str(draft.images / name), frame.image[..., ::-1])
    return load_dataset(path)


def check_trainer(name: str, options: Mapping[str, Any]) -> None:
    """Check that a trainer makes a model that its detector runs, and the same one again.

    Raises:
        AssertionError: names the clause that does not hold.
    """
    from annotate.dataset.folder import SplitRange, with_split
    from annotate.training.run import Training, train

    reports: list[EpochReport] = []
    with tempfile.TemporaryDirectory() as folder:
        dataset = sample_dataset(Path(folder) / "dataset")
        ranges = [SplitRange("sample.mp4", 0, 1, "train"), SplitRange("sample.mp4", 1, 3, "val")]
        with_split(dataset, ranges)
        training = Training(dataset.path, Path(folder) / "model", name, options, 2, 160)
        model = train(training, report=reports.append)
        numbers = [each.epoch for each in reports]
        assert numbers == [1, 2], f"report must be called once after each epoch, got {numbers}"
        assert model.classes == ("background", "square"), "classes must be in alphabetical order"
        assert model.lineage.licence, "the licence of the weights must be given"
        again = train(replace(training, output=Path(folder) / "again"))
        same = model.lineage.tensor_sha256 == again.lineage.tensor_sha256
        assert same or not model.lineage.deterministic, "deterministic, but the tensors differ"

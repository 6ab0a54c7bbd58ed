"""Run the whole pipeline on the packaged demo clip, and measure the result."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from annotate import files, prompts, vocabulary
from annotate.dataset import frame_sources
from annotate.dataset.build import build_dataset
from annotate.dataset.export import FORMATS, export_dataset
from annotate.dataset.folder import Dataset, SplitRange, dataset_sha256, with_split
from annotate.detectors import run as detectors_run
from annotate.errors import OutputError, SettingsDiffer
from annotate.evaluation import ground_truth, metrics
from annotate.evaluation.gold.before_after import ModelOnGold, compare_models
from annotate.evaluation.gold.before_after_report import write_before_after
from annotate.evaluation.gold.gold_set import GoldSet, open_gold
from annotate.items import journal
from annotate.items.records import Header, Object, Vocabulary
from annotate.propagators import job
from annotate.propagators import run as propagators_run
from annotate.training.run import Training, train
from annotate.video import reader
from annotate.viewing import draw
from annotate.weights.lineage import VOCABULARY_FILE, TrainedModel, is_model, read_model_folder

MIN_SCORE = 0.5  # of objects in the dataset and the pictures
GOLD_START = 105  # frame from which on nothing is trained on
EPOCHS, SIDE, OPTIONS = 8, 512, {"copies": 2, "min_steps": 40, "dropout": 0.1}
LEAST_SCORE = 0.05  # of the boxes of the model that are compared


def run_demo(
    out: Path, *, force: bool = False, say: Callable[[str], None] = lambda line: None
) -> list[tuple[str, str]]:
    """Run all stages into the folder `out`, and measure against the ground truth: (measure, value).

    A run that was stopped continues. `say` gets a line for each stage.

    Raises:
        OutputError: `out` is a file, or a folder with other things in it.
    """
    clip, truth = (
        files.packaged_file("clips", "demo.mp4"),
        files.packaged_file("clips", "demo.gt.json"),
    )
    _prepare_folder(out, force)

    say("colour: finding the target designators")
    boxes, tracks = out / "boxes.jsonl", out / "masks.jsonl"
    designator = vocabulary.read_vocabulary("designator.v1")
    detectors_run.run_to_file(
        detectors_run.Job(detectors_run.DETECTORS.load("colour", designator), "colour", clip),
        boxes,
        force=force,
    )

    say("light: propagating one click on each monster")
    clicks = _read_clicks(clip)
    engine = job.PROPAGATORS.load("light")
    propagators_run.run_to_file(job.Job(engine, "light", clip, clicks), tracks, force=force)

    say("building the dataset, exporting it as COCO and YOLO")
    dataset = build_dataset(
        [boxes, tracks], out / "dataset", every=5, min_score=MIN_SCORE, force=True
    )
    for name in ("coco", "yolo", "yolo-seg"):
        export_dataset(dataset, FORMATS.load(name), out / name, force=True)

    measured = _train_once(out, clip, truth, dataset, boxes, say)

    say("drawing the overlay, a contact sheet and the grid of prompts")
    [located] = frame_sources.locate_clips(
        [journal.read(boxes), journal.read(tracks)], {clip.name: clip}, MIN_SCORE
    )
    merged = frame_sources.MergedItems(located)
    draw.overlay(merged, clip, out / "overlay.mp4", force=True)
    draw.overlay(merged, clip, out / "sheet.png", count=12, force=True)
    draw.draw_prompts(clicks, clip, merged, out / "prompts.png", force=True)
    rows = [*_measure(truth, boxes, tracks, clicks), *measured]
    return [*rows, ("all results are in", str(out))]


def _train_once(
    out: Path, clip: Path, truth: Path, dataset: Dataset, boxes: Path, say: Callable[[str], None]
) -> list[tuple[str, str]]:
    """Train on the first frames of the clip, and compare on the last: before and after.

    The clip is one shot: this shows the way, and measures no model. Two clips or more are split by
    `annotate split`.
    """
    say("light: training a detector on the first three seconds")
    ranges = [("train", 0, 90), ("unused", 90, GOLD_START), ("val", GOLD_START, 140)]
    dataset = with_split(
        dataset, [SplitRange(clip.name, start, stop, name) for name, start, stop in ranges]
    )
    training = Training(
        dataset.path, out / "model", "light", OPTIONS, EPOCHS, image_size=SIDE, threads=1
    )
    model = _train_model(training, dataset, say)

    say("detecting with the model, and comparing it with the colours on the last frames")
    found = out / "model.jsonl"
    words = vocabulary.read_vocabulary(model.folder / VOCABULARY_FILE)
    _detect_by_model(model, words, clip, found)
    [located] = frame_sources.locate_clips(
        [journal.read(found)], {clip.name: clip}, model.threshold
    )
    draw.overlay(frame_sources.MergedItems(located), clip, out / "model.mp4", force=True)
    gold = _build_gold(out, clip, truth, boxes, words.labels)
    before = ModelOnGold("colour", list(journal.read(boxes)), 0.0)
    after = ModelOnGold("model", list(journal.read(found)), model.threshold)
    comparison = compare_models(gold, [after], before)
    (out / "before-after").mkdir(exist_ok=True)
    write_before_after(comparison, out / "before-after")
    row = next(each for each in comparison.measures if each.name.startswith("AP50"))
    return [
        ("boxes before training: AP50", f"{row.before.value:.3f}" if row.before else ""),
        ("boxes of the trained model: AP50", f"{row.after.value:.3f}"),
    ]


def _train_model(training: Training, dataset: Dataset, say: Callable[[str], None]) -> TrainedModel:
    """Train a model, unless one was trained on the same dataset."""
    if is_model(training.output):
        model = read_model_folder(training.output)
        if model.lineage.dataset["sha256"] == dataset_sha256(dataset):
            return model
        shutil.rmtree(training.output)
    return train(training, say=say)


def _detect_by_model(model: TrainedModel, words: Vocabulary, clip: Path, found: Path) -> None:
    """Write the boxes of a model into `found`, unless it has them; those of another one go."""
    detector = detectors_run.DETECTORS.load(
        "trained", words, model=str(model.folder), min_score=LEAST_SCORE
    )
    detection = detectors_run.Job(detector, "trained", clip)
    try:
        detectors_run.run_to_file(detection, found)
    except SettingsDiffer:
        detectors_run.run_to_file(detection, found, force=True)


def _build_gold(out: Path, clip: Path, truth: Path, boxes: Path, labels: Sequence[str]) -> GoldSet:
    """Build a gold set of the true boxes on the clip's last frames; the dataset has others."""
    true_objects = {key[1]: each for key, each in ground_truth.read(truth).objects.items()}
    items = []
    for item in journal.read(boxes):
        if item.frame >= GOLD_START and item.frame % 5 == 2:
            objects = [o for o in true_objects.get(item.frame, ()) if o.label in labels]
            plain = tuple(Object(each.label, each.box) for each in objects)
            items.append(replace(item, objects=plain))
    video = reader.probe(clip)
    header = Header("truth", vocabulary={"labels": list(labels)}, videos=reader.header_entry(video))
    journal.write(out / "truth.jsonl", header, items)
    shutil.rmtree(out / "gold", ignore_errors=True)
    build_dataset([out / "truth.jsonl"], out / "gold")
    return open_gold(out / "gold")


def _prepare_folder(out: Path, force: bool) -> None:
    is_file = out.exists() and not out.is_dir()
    is_other = out.is_dir() and any(out.iterdir()) and not (out / "boxes.jsonl").exists()
    if is_file or (is_other and not force):
        raise OutputError(f"{out}: exists already and is no demo; give another `output`")
    out.mkdir(parents=True, exist_ok=True)


def _read_clicks(clip: Path) -> prompts.PromptTable:
    video = reader.probe(clip)
    scope = prompts.clip_scope(video)
    points = prompts.read_points(files.packaged_file("clips", "demo.points.csv"), scope)
    return prompts.prompt_table(points, scope=scope)


def _measure(
    truth_path: Path, boxes_path: Path, tracks_path: Path, prompt_table: prompts.PromptTable
) -> list[tuple[str, str]]:
    detected = metrics.box_metrics(truth_path, journal.read(boxes_path), "designator")
    rows = [
        ("designators: AP50", f"{detected.ap50:.3f}"),
        ("designators: AP", f"{detected.ap:.3f}"),
    ]
    for track in metrics.track_metrics(truth_path, journal.read(tracks_path), prompt_table.labels):
        rows.append((f"{track.label}: mean IoU over {track.frame_count} frames", f"{track.j:.3f}"))
    return rows

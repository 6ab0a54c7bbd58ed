"""Run the whole pipeline on the packaged demo clip, and measure the result."""

from collections.abc import Callable
from pathlib import Path

from annotate import files, prompts, vocabulary
from annotate.dataset import frame_sources
from annotate.dataset.build import build_dataset
from annotate.dataset.export import FORMATS, export_dataset
from annotate.detectors import run as detectors_run
from annotate.errors import OutputError
from annotate.evaluation import metrics
from annotate.items import journal
from annotate.propagators import job
from annotate.propagators import run as propagators_run
from annotate.video import reader
from annotate.viewing import draw

MIN_SCORE = 0.5  # of objects in the dataset and the pictures


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

    say("drawing the overlay, a contact sheet and the grid of prompts")
    [located] = frame_sources.locate_clips(
        [journal.read(boxes), journal.read(tracks)], {clip.name: clip}, MIN_SCORE
    )
    merged = frame_sources.MergedItems(located)
    draw.overlay(merged, clip, out / "overlay.mp4", force=True)
    draw.overlay(merged, clip, out / "sheet.png", count=12, force=True)
    draw.draw_prompts(clicks, clip, merged, out / "prompts.png", force=True)
    return [*_measure(truth, boxes, tracks, clicks), ("all results are in", str(out))]


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

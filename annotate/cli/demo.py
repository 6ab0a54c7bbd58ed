"""Run the whole pipeline on the demo clip that ships, and measure the result."""

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

MIN_SCORE = 0.5  # of a score: what goes into the dataset and the pictures


def run_demo(
    out: Path, *, force: bool = False, say: Callable[[str], None] = lambda line: None
) -> list[tuple[str, str]]:
    """Make everything in the folder `out`; what was measured against the ground truth, in words.

    A run that was stopped goes on where it was.

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
    words = vocabulary.read_vocabulary("designator.v1")
    detectors_run.run_to_file(
        detectors_run.Job(detectors_run.DETECTORS.load("colour", words), "colour", clip),
        boxes,
        force=force,
    )

    say("light: following each monster from one click")
    told = _read_clicks(clip)
    engine = job.PROPAGATORS.load("light")
    propagators_run.run_to_file(job.Job(engine, "light", clip, told), tracks, force=force)

    say("building the dataset, and exporting it as COCO and YOLO")
    made = build_dataset([boxes, tracks], out / "dataset", every=5, min_score=MIN_SCORE, force=True)
    for name in ("coco", "yolo", "yolo-seg"):
        export_dataset(made, FORMATS.load(name), out / name, force=True)

    say("drawing the overlay, a contact sheet and the grid of prompts")
    [seen] = frame_sources.locate_clips(
        [journal.read(boxes), journal.read(tracks)], {clip.name: clip}, MIN_SCORE
    )
    both = frame_sources.MergedItems(seen)
    draw.overlay(both, clip, out / "overlay.mp4", force=True)
    draw.overlay(both, clip, out / "sheet.png", count=12, force=True)
    draw.draw_prompts(told, clip, both, out / "prompts.png", force=True)
    return [*_measure(truth, boxes, tracks, told), ("everything is in", str(out))]


def _prepare_folder(out: Path, force: bool) -> None:
    strange = out.exists() and not out.is_dir()
    other = out.is_dir() and any(out.iterdir()) and not (out / "boxes.jsonl").exists()
    if strange or (other and not force):
        raise OutputError(f"{out}: is there already and is no demo: give another -o")
    out.mkdir(parents=True, exist_ok=True)


def _read_clicks(clip: Path) -> prompts.PromptTable:
    seen = reader.probe(clip)
    scope = prompts.PromptScope((seen.width, seen.height), seen.frame_count)
    points = prompts.read_points(files.packaged_file("clips", "demo.points.csv"), scope)
    return prompts.prompt_table(points, scope=scope)


def _measure(
    truth_path: Path, boxes_path: Path, tracks_path: Path, prompt_table: prompts.PromptTable
) -> list[tuple[str, str]]:
    found = metrics.box_metrics(truth_path, journal.read(boxes_path), "designator")
    rows = [("designators: AP50", f"{found.ap50:.3f}"), ("designators: AP", f"{found.ap:.3f}")]
    for track in metrics.track_metrics(truth_path, journal.read(tracks_path), prompt_table.labels):
        rows.append((f"{track.label}: mean IoU over {track.frame_count} frames", f"{track.j:.3f}"))
    return rows

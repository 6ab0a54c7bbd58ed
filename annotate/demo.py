"""The whole way on the clip that ships: boxes, masks, a dataset, exports, pictures, scores."""

from collections.abc import Callable
from pathlib import Path

from annotate import (
    clips,
    dataset,
    detect,
    draw,
    exports,
    journal,
    prompts,
    propagate,
    score,
    shipped,
    video,
)
from annotate.errors import OutputError

LEAST = 0.5  # of a score: what goes into the dataset and the pictures


def run(
    out: Path, *, force: bool = False, say: Callable[[str], None] = lambda line: None
) -> list[tuple[str, str]]:
    """Make everything in the folder `out`; what was measured against the ground truth, in words.

    A run that was stopped goes on where it was.

    Raises:
        OutputError: `out` is a file, or a folder with other things in it.
    """
    clip, truth = shipped.shipped("clips", "demo.mp4"), shipped.shipped("clips", "demo.gt.json")
    _open(out, force)

    say("colour: finding the target designators")
    boxes, tracks = out / "boxes.jsonl", out / "masks.jsonl"
    words = prompts.read_vocabulary("designator.v1")
    detect.into(detect.Job(detect.load("colour", words), "colour", clip), boxes, force=force)

    say("light: following each monster from one click")
    told = _clicks(clip)
    engine = propagate.load("light")
    propagate.into(propagate.Job(engine, "light", clip, told), tracks, force=force)

    say("building the dataset, and exporting it as COCO and YOLO")
    made = dataset.build([boxes, tracks], out / "dataset", every=5, least=LEAST, force=True)
    for name in ("coco", "yolo", "yolo-seg"):
        exports.export(made, exports.load(name), out / name, force=True)

    say("drawing the overlay, a contact sheet and the grid of prompts")
    [seen] = clips.find([journal.read(boxes), journal.read(tracks)], {clip.name: clip}, LEAST)
    both = clips.Together(seen)
    draw.overlay(both, clip, out / "overlay.mp4", force=True)
    draw.overlay(both, clip, out / "sheet.png", count=12, force=True)
    draw.prompt_grid(told, clip, both, out / "prompts.png", force=True)
    return [*_measured(truth, boxes, tracks, told), ("everything is in", str(out))]


def _open(out: Path, force: bool) -> None:
    strange = out.exists() and not out.is_dir()
    other = out.is_dir() and any(out.iterdir()) and not (out / "boxes.jsonl").exists()
    if strange or (other and not force):
        raise OutputError(f"{out}: is there already and is no demo: give another -o")
    out.mkdir(parents=True, exist_ok=True)


def _clicks(clip: Path) -> prompts.PromptTable:
    seen = video.probe(clip)
    scope = prompts.Scope((seen.width, seen.height), seen.frame_count)
    points = prompts.read_points(shipped.shipped("clips", "demo.points.csv"), scope)
    return prompts.table(points, scope=scope)


def _measured(
    truth: Path, boxes: Path, tracks: Path, told: prompts.PromptTable
) -> list[tuple[str, str]]:
    found = score.boxes(truth, journal.read(boxes), "designator")
    rows = [("designators: AP50", f"{found.ap50:.3f}"), ("designators: AP", f"{found.ap:.3f}")]
    for track in score.tracks(truth, journal.read(tracks), told.labels):
        rows.append((f"{track.label}: mean IoU over {track.frames} frames", f"{track.j:.3f}"))
    return rows

"""Measure the search for every shot of a rare target: what each step keeps, and its cost.

    python benchmarks/find.py EP1.mp4 EP2.mp4 ... --truth EP1.gt.json EP2.gt.json ...

A local server that speaks OpenAI's chat protocol answers from the ground truth; one answer in
twenty is wrong. The reference is cropped from the largest box of the target. A question is a
request of up to ten pictures. Printed are a line for each step, and recall and precision of the
shot queries alone over `--seeds` draws of errors, for which no request is sent.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from annotate.search import judge
from annotate.search.ask import ask_shots, rank_shots
from annotate.search.clip_shots import ClipShots, cut_into_shots
from annotate.search.judge import Judgement
from annotate.video import reader
from annotate.vlm.client import Chat

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import search_server

ERRORS = 0.05
Truths = dict[str, dict[str, Any]]


def reference(clips: list[Path], truths: Truths) -> Path:
    """Crop the largest box of the target on any frame that shows it."""
    largest: tuple[float, Path, dict[str, Any]] | None = None
    for clip in clips:
        record = truths[clip.stem]
        category_ids = {
            c["id"] for c in record["categories"] if c["name"] == record["info"]["rare"]
        }
        for each in record["annotations"]:
            if each["category_id"] in category_ids and (
                largest is None or each["bbox"][3] > largest[0]
            ):
                largest = (each["bbox"][3], clip, each)
    assert largest is not None
    x, y, width, height = (int(side) for side in largest[2]["bbox"])
    image = reader.seek(largest[1], largest[2]["image_id"]).image
    path = Path(tempfile.mkdtemp()) / "reference.png"
    margin = max(width, height) // 8
    crop = image[max(y - margin, 0) : y + height + margin, max(x - margin, 0) : x + width + margin]
    Image.fromarray(crop).save(path)
    return path


def steps(clips: list[Path], truths: Truths, max_pictures: int | None) -> ClipShots:
    """Run every step once; print its time and what it leaves."""
    frames = sum(truths[clip.stem]["info"]["frames"] for clip in clips)
    start = time.perf_counter()
    keyframe_count = sum(
        1 for clip in clips for _ in reader.FrameSelection(keyframes=True).frames(clip)
    )
    print_step("keyframes", keyframe_count, start, f"of {frames} frames")
    start = time.perf_counter()
    cut = cut_into_shots(clips)
    print_step("shots", len(cut.shots), start, "")
    crop = judge.read_reference(reference(clips, truths))
    start = time.perf_counter()
    order = list(rank_shots(cut, [crop]))
    rare = [n for n, number in enumerate(order, 1) if shows_target(cut, number, truths)]
    print_step(
        "ranked", len(order), start, f"without a model; shots with the target have the ranks {rare}"
    )
    with search_server.serving(errors=ERRORS) as model:
        for clip in clips:
            model.learn(clip, search_server.rare_frames(truths[clip.stem]))
        chat = Chat(model.url, "test-model", cached=False)
        vlm_judge = judge.VlmJudge(chat, "the robot", [crop], cut.paths)
        asked_count = 0

        def count(pictures: int) -> None:
            nonlocal asked_count
            asked_count += pictures

        def left() -> int | None:
            return None if max_pictures is None else max_pictures - asked_count

        start = time.perf_counter()
        findings = ask_shots(cut, vlm_judge, order=order, pictures_left=left, on_pictures=count)
        usage = chat.meter.total
        note = (
            f"pictures in {usage.questions} questions; "
            f"a picture for {frames / findings.picture_count:.0f} frames, "
            f"a question for {frames / usage.questions:.0f}; "
            f"{usage.tokens_in:,} tokens in, {usage.tokens_out:,} out; "
            f"{model.wrong} of {model.answered} answers wrong"
        )
        print_step("asked", findings.picture_count, start, note)
    correct = {n for n in findings.occurrences if shows_target(cut, n, truths)}
    print_step(
        "hits",
        len(findings.occurrences),
        start,
        f"{len(correct)} of them correct, of {len(rare)} shots with the target",
    )
    return cut


def shows_target(cut: ClipShots, number: int, truths: Truths) -> bool:
    """Check whether a shot shows the target on any frame."""
    shot = cut.shots[number]
    rare = search_server.rare_frames(truths[Path(shot.video).stem])
    return any(frame in rare for frame in range(shot.start, shot.stop))


def print_step(step: str, left: int, start: float, note: str) -> None:
    """Print a line of the table."""
    print(f"{step:10} {left:6} {time.perf_counter() - start:7.1f} s  {note}")


def repeat(cut: ClipShots, truths: Truths, seeds: int, frames_per_shot: int) -> None:
    """Measure recall and precision over many draws of errors."""

    class ErringJudge:
        def __init__(self, seed: int) -> None:
            self.rng = np.random.default_rng(seed)

        def ask(self, frame_refs: Any, on_answers: Any) -> Any:
            wrong = self.rng.random(len(frame_refs)) < ERRORS
            answers = {}
            for (clip, frame), flip in zip(frame_refs, wrong, strict=True):
                answers[clip, frame] = Judgement((frame in rare[clip]) ^ bool(flip), 0.9)
            on_answers(answers)
            return answers

    rare = {name: search_server.rare_frames(truths[path.stem]) for name, path in cut.paths.items()}
    correct = hits = pictures = 0
    true_count = sum(shows_target(cut, n, truths) for n in range(len(cut.shots)))
    for seed in range(seeds):
        erring_judge = ErringJudge(seed)
        for shot in cut.shots:
            shot.answers.clear()
            shot.accepted = False
        findings = ask_shots(cut, erring_judge, frames_per_shot)
        correct += sum(shows_target(cut, n, truths) for n in findings.occurrences)
        hits, pictures = hits + len(findings.occurrences), pictures + findings.picture_count
    frames = cut.frame_count * seeds
    print(
        f"{frames_per_shot} frames a shot, {seeds} times: "
        f"recall {correct / (true_count * seeds):.4f}, precision {correct / max(hits, 1):.4f}, "
        f"{frames / pictures:.1f} frames per picture"
    )


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--truth", nargs="+", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--max-pictures", type=int, default=None, help="pictures to ask at most")
    arguments = parser.parse_args()
    truths = {p.name.split(".")[0]: json.loads(p.read_text("utf-8")) for p in arguments.truth}
    cut = steps(arguments.clips, truths, arguments.max_pictures)
    for frames_per_shot in (1, 2, 3):
        repeat(cut, truths, arguments.seeds, frames_per_shot)


if __name__ == "__main__":
    main()

"""The arms of a curve: ways of a simulated person to spend a number of touches on labels.

- `drawn`: boxes are drawn on frames that are spread evenly over the clips.
- `corrected`: so for a third of the touches; then the detector that learned from these proposes on
  other spread frames, and its boxes are corrected.
- `corrected-random`, `corrected-next`: the same, but the other frames are drawn by lot, or are
  those that `annotate next` chooses by the boxes of this detector.
- `clicked`: for three quarters of the touches, one click on each object where it first appears, in
  sequences that are spread over the clips, propagated to the end of the sequence; then the frames
  are corrected that `annotate review` lists first. Of the others, the third is left out whose
  least sure object scores lowest: these have more wrong boxes.
- `clicked-next`: the same, but the frames to correct are those of `annotate next`, by the
  propagated boxes and by what the detector that learned from them finds.

No arm spends more than it has. Where an arm has no more frames to choose, the rest is spent on
spread ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from annotate.dataset.frame_sources import FrameKey
from annotate.items import journal
from annotate.items.records import Item
from annotate.learning_curve.detector import TrainedHead
from annotate.learning_curve.footage import spread_order
from annotate.learning_curve.labeller import Labeller, Labels
from annotate.viewing.review import find_frames

FIRST_SHARE, CLICK_SHARE = 1 / 3, 3 / 4  # of the touches
SURE_SHARE = 2 / 3  # of the propagated frames, that are trained on though nobody looked at them
_REVIEWED = 40  # frames of a sequence

Arm = Callable[[Labeller, int], Labels]  # of so many touches


def drawn(labeller: Labeller, touches: int) -> Labels:
    """Draw boxes on spread frames."""
    labels = Labels(touches)
    labeller.draw(labels)
    return labels


def _first_detector(labeller: Labeller, touches: int) -> tuple[Labels, TrainedHead]:
    """Draw boxes for a third of the touches, and train a detector on them."""
    first = drawn(labeller, int(touches * FIRST_SHARE))
    spent = int(touches * FIRST_SHARE) - first.left
    labels = Labels(touches - spent, first.looked_at)
    return labels, labeller.laboratory.train(labels.frames, labeller.seed)


def _propose(labeller: Labeller, labels: Labels, head: TrainedHead) -> dict[FrameKey, Item]:
    """Propose boxes on all frames of the pool that are not labelled."""
    free = [key for key in labeller.footage.pool if key not in labels.looked_at]
    return labeller.laboratory.detect(head, free)


def corrected(labeller: Labeller, touches: int) -> Labels:
    """Correct the boxes of a first detector on spread frames."""
    labels, head = _first_detector(labeller, touches)
    labeller.correct_on_spread(labels, _propose(labeller, labels, head))
    return labels


def corrected_random(labeller: Labeller, touches: int) -> Labels:
    """Correct the boxes of a first detector on frames drawn by lot."""
    labels, head = _first_detector(labeller, touches)
    proposed = _propose(labeller, labels, head)
    keys = list(proposed)
    order = np.random.default_rng(labeller.seed).permutation(len(keys))
    labeller.correct(labels, {keys[n]: proposed[keys[n]] for n in order})
    return labels


def corrected_next(labeller: Labeller, touches: int) -> Labels:
    """Correct the boxes of a first detector on the frames that `annotate next` chooses."""
    labels, head = _first_detector(labeller, touches)
    footage = labeller.footage
    keys = labeller.dense_keys((c, f) for c, items in footage.truth.items() for f in items)
    proposed = labeller.laboratory.detect(head, keys)
    path = footage.write_items(footage.folder / "proposed.jsonl", proposed)
    labeller.correct_by_next(labels, proposed, [path], head)
    labeller.correct_on_spread(labels, _propose(labeller, labels, head))
    return labels


def _click(
    labeller: Labeller, labels: Labels, touches: int, clicked: int = 0
) -> tuple[dict[FrameKey, Item], list[Path]]:
    """Click sequences for so many touches, after the first `clicked` ones, and propagate.

    Returns the items of all their frames, and the files of items.
    """
    sequences = labeller.footage.sequences()
    order = spread_order(len(sequences), labeller.seed)
    items: dict[FrameKey, Item] = {}
    paths = []
    for sequence in (sequences[n] for n in order[clicked:]):
        cost = labeller.person.click(sequence.first.values())
        if cost > touches:
            break
        touches -= cost
        labels.left -= cost
        paths.append(labeller.propagation.run(sequence))
        items |= labeller.propagation.frames(sequence, paths[-1])
    pool = set(labeller.footage.pool)
    labels.proposed |= {key: item for key, item in items.items() if key in pool}
    return items, paths


def _spend_rest(labeller: Labeller, labels: Labels, clicked: int) -> None:
    """Click further sequences for the rest, then correct the least sure frames; keep sure ones."""
    _click(labeller, labels, labels.left, clicked)
    labeller.correct(labels, {key: labels.proposed[key] for key in _by_sureness(labels)})
    labels.proposed = _surest(labels)


def _by_sureness(labels: Labels) -> list[FrameKey]:
    """List the propagated frames, first those whose least sure object scores lowest."""
    sureness = {
        key: min((obj.score or 0.0 for obj in item.objects), default=1.0)
        for key, item in labels.proposed.items()
    }
    return sorted(sureness, key=lambda key: (sureness[key], key))


def _surest(labels: Labels) -> dict[FrameKey, Item]:
    """Return the propagated frames without the least sure third."""
    order = _by_sureness(labels)
    kept = set(order[round(len(order) * (1 - SURE_SHARE)) :])
    return {key: item for key, item in labels.proposed.items() if key in kept}


def clicked(labeller: Labeller, touches: int) -> Labels:
    """Click and propagate, then correct the worst frames by `annotate review`."""
    labels = Labels(touches)
    items, paths = _click(labeller, labels, int(touches * CLICK_SHARE))
    order = review_order(labeller, paths)
    labeller.correct(labels, {key: items[key] for key in order if key in items})
    _spend_rest(labeller, labels, len(paths))
    return labels


def clicked_next(labeller: Labeller, touches: int) -> Labels:
    """Click and propagate, then correct the frames that `annotate next` chooses."""
    labels = Labels(touches)
    items, paths = _click(labeller, labels, int(touches * CLICK_SHARE))
    if paths:
        head = labeller.laboratory.train(_surest(labels), labeller.seed)
        seen = labeller.laboratory.detect(head, labeller.dense_keys(items))
        other = labeller.footage.write_items(labeller.footage.folder / "seen.jsonl", seen)
        labeller.correct_by_next(labels, items, paths, head, [other])
    _spend_rest(labeller, labels, len(paths))
    return labels


def review_order(labeller: Labeller, paths: Sequence[Path]) -> list[FrameKey]:
    """List the frames of files of propagated items to review, worst first."""
    names = {
        str(clip.metadata["fingerprint"]): name for name, clip in labeller.footage.clips.items()
    }
    found: list[tuple[float, FrameKey]] = []
    for path in paths:
        items = journal.read(path)
        [entry] = items.header.videos.values()
        clip = names[str(entry["fingerprint"])]
        reviewed = find_frames(items, _REVIEWED, flagged=True)
        found += [(each.priority, (clip, each.item.frame)) for each in reviewed]
    return [key for _, key in sorted(found, key=lambda each: (-each[0], each[1]))]


ARMS: Mapping[str, Arm] = {
    "drawn": drawn,
    "corrected": corrected,
    "corrected-random": corrected_random,
    "corrected-next": corrected_next,
    "clicked": clicked,
    "clicked-next": clicked_next,
}

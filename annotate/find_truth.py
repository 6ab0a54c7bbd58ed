"""How good what was found is, against what is known of each shot."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from annotate.errors import ItemsError
from annotate.hits import Hit


@dataclass(frozen=True)
class Rated:
    """Shots that show it and how many of them were found; hits, and how many are right."""

    shots: int
    found: int
    hits: int
    right: int

    @property
    def recall(self) -> float:
        """Of the shots that show it, the share that was found; 1 where there are none."""
        return self.found / self.shots if self.shots else 1.0

    @property
    def precision(self) -> float:
        """Of the hits, the share that is right; 1 where there are none."""
        return self.right / self.hits if self.hits else 1.0


def rate(hits: Sequence[Hit], truths: Iterable[Path]) -> Rated:
    """Hold hits against files with `shots`: each has start, stop or end, and `rare_frames`.

    A file is of the clip that its `info.clip` names, else of the one that its own name begins with.
    A shot that shows the thing on any frame is to be found; a hit is right that meets such a shot.

    Raises:
        ItemsError: a file that cannot be read so.
    """
    shots: set[tuple[str, int, int]] = set()
    for path in truths:
        shots |= _rare(path)
    met = {shot: [hit for hit in hits if _meet(hit, *shot)] for shot in shots}
    right = {hit.name for some in met.values() for hit in some}
    return Rated(len(shots), sum(map(bool, met.values())), len(hits), len(right))


def _rare(path: Path) -> set[tuple[str, int, int]]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        clip = record.get("info", {}).get("clip") or path.name.split(".")[0]
        return {
            (clip, int(shot["start"]), int(shot.get("stop", shot.get("end"))))
            for shot in record["shots"]
            if shot["rare_frames"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ItemsError(f"{path}: not shots with start, end and rare_frames: {error!r}") from None


def _meet(hit: Hit, clip: str, start: int, stop: int) -> bool:
    return Path(hit.video).stem == Path(clip).stem and hit.start < stop and start < hit.stop

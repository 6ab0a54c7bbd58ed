"""Read and write lists of frames in order: CSV files such as that of `annotate next`.

The columns are `clip, frame, seconds, worth, why, rank`. A list of another program needs only
`clip` and `frame`: then the order of its rows is the rank.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate import files
from annotate.errors import ItemsError

if TYPE_CHECKING:
    from annotate.video.reader import Video

COLUMNS = ("clip", "frame", "seconds", "worth", "why", "rank")


@dataclass(frozen=True)
class ListedFrame:
    """A frame of a list: its clip, index and time, what it is worth, why, and its rank from 1."""

    clip: str
    frame: int
    seconds: float
    worth: float
    why: str
    rank: int

    @property
    def key(self) -> tuple[str, int]:
        """The name of the clip and the index of the frame."""
        return self.clip, self.frame


def write_frame_list(path: Path, listed: Iterable[ListedFrame], *, force: bool = False) -> None:
    """Write a list of frames as CSV, in the order given.

    Raises:
        OutputError: the file is there without `force`, or nothing can be written there.
    """
    files.refuse_existing(path, force)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(COLUMNS)
    for each in listed:
        seconds, worth = f"{each.seconds:.3f}", f"{each.worth:.4f}"
        rows.writerow([each.clip, each.frame, seconds, worth, each.why, each.rank])
    files.write_text(path, text.getvalue())


def read_frame_list(path: Path | str) -> list[ListedFrame]:
    """Read a list of frames, sorted by rank.

    Raises:
        ItemsError: not such a list, a wrong value, or a frame twice: names the file and the line.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            rows = [(reader.line_num, row) for row in reader]
            columns = reader.fieldnames or ()
    except FileNotFoundError:
        raise ItemsError(f"{path}: no such list of frames") from None
    except (OSError, ValueError, csv.Error) as error:  # also bytes that are not UTF-8
        raise ItemsError(f"{path}: not a CSV table that can be read: {error}") from None
    if missing := [name for name in ("clip", "frame") if name not in columns]:
        raise ItemsError(f"{path}: no column {missing[0]!r}; a list has {', '.join(COLUMNS)}")
    listed: dict[tuple[str, int], ListedFrame] = {}
    for number, (line, row) in enumerate(rows, start=1):
        each = _parse_row(row, number, f"{path}:{line}")
        if each.key in listed:
            raise ItemsError(f"{path}:{line}: {each.clip}#{each.frame} is there twice; remove one")
        listed[each.key] = each
    if not listed:
        raise ItemsError(f"{path}: it lists no frame")
    return sorted(listed.values(), key=lambda each: each.rank)


def _parse_row(row: Mapping[str, str | None], number: int, where: str) -> ListedFrame:
    clip = (row.get("clip") or "").strip()
    if not clip:
        raise ItemsError(f"{where}, column clip: expected the name of a clip, got nothing")
    values = {}
    for column, kind, default in (
        ("frame", int, None),
        ("seconds", float, 0.0),
        ("worth", float, 0.0),
        ("rank", int, number),
    ):
        text = (row.get(column) or "").strip()
        try:
            values[column] = default if not text and default is not None else kind(text)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise ItemsError(
                f"{where}, column {column}: expected {expected}, got {text!r}"
            ) from None
    if values["frame"] < 0:
        raise ItemsError(f"{where}, column frame: expected a number from 0, got {values['frame']}")
    seconds, worth = float(values["seconds"]), float(values["worth"])
    frame, rank = int(values["frame"]), int(values["rank"])
    return ListedFrame(clip, frame, seconds, worth, row.get("why") or "", rank)


def frames_by_clip(listed: Sequence[ListedFrame]) -> dict[str, list[int]]:
    """Group the frames of a list by clip, in ascending order, as `build_dataset` takes them."""
    grouped: dict[str, list[int]] = {}
    for each in listed:
        grouped.setdefault(each.clip, []).append(each.frame)
    return {clip: sorted(frames) for clip, frames in grouped.items()}


def frames_of_clip(listed: Sequence[ListedFrame], video: Video, where: object) -> list[ListedFrame]:
    """Return the frames of a list that are of a clip, by rank; `where` names the list in errors.

    The clip has its own name in the list, or where two clips have one name, that with the beginning
    of the fingerprint.

    Raises:
        ItemsError: no frame is of the clip, or the clip has no such frame.
    """
    path = Path(video.name)
    names = {video.name, f"{path.stem}-{video.fingerprint[:8]}{path.suffix}"}
    found = [each for each in listed if each.clip in names]
    if not found:
        clips = ", ".join(dict.fromkeys(each.clip for each in listed))
        raise ItemsError(f"{where}: none of its frames is of {video.name}, but of {clips}")
    last = max(each.frame for each in found)
    if video.frame_count is not None and last >= video.frame_count:
        raise ItemsError(
            f"{where}: it lists frame {last} of {video.name}, whose last one is "
            f"{video.frame_count - 1}; was the list made of another clip?"
        )
    return found


def read_ranks(path: Path | str) -> dict[tuple[str, int], dict[str, Any]]:
    """Read the rank, reason and worth of each frame of a list, as `push` writes them into tasks.

    Raises:
        ItemsError: see `read_frame_list`.
    """
    return {
        each.key: {"rank": each.rank, "why": each.why, "worth": each.worth}
        for each in read_frame_list(path)
    }

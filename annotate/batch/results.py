"""The state of a batch, and its results under the names of the clips."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from annotate.batch import archive
from annotate.batch.clips import rename_clip
from annotate.batch.plan import PLAN_FILE, Plan, Unit, read_plan
from annotate.batch.stages import ScenesStage
from annotate.batch.store import FolderStore
from annotate.errors import BatchError
from annotate.files import atomic_folder, check_writable, write_json
from annotate.items import journal
from annotate.scenes import library

COLLECTION_FILE = "batch.json"
_MAX_NAMES = 5  # of missing clips that an error lists


@dataclass(frozen=True)
class BatchStatus:
    """How far a batch is: clips by state, what failed (path, reason), and the rate of its workers.

    `running` counts what workers of this machine are at. Two names of one clip count twice.
    """

    stage: str
    done: int
    failed: Sequence[tuple[str, str]]
    running: int
    left: int
    clips_per_minute: float | None


def read_batch(folder: Path) -> Plan:
    """Read the plan of a batch.

    Raises:
        BatchError: there is none.
    """
    plan = read_plan(folder)
    if plan is None:
        raise BatchError(f"{folder}: no {PLAN_FILE} in it: not the output of a batch")
    return plan


def status(folder: Path) -> BatchStatus:
    """Count what is done, failed, running and left of a batch.

    Raises:
        BatchError: no batch is there.
    """
    plan, store = read_batch(folder), FolderStore(folder)
    done, failed = store.done_keys(), store.failed_keys()
    finished = sum(unit.key in done for unit in plan.units)
    failures = [
        (unit.path, str(store.failure(unit.key).get("reason", "")))
        for unit in plan.units
        if unit.key in failed - done
    ]
    left = len(plan.units) - finished - len(failures)
    running = min(store.running_count(), left)
    rate = _clips_per_minute(store)
    return BatchStatus(plan.header.stage, finished, failures, running, left - running, rate)


def _clips_per_minute(store: FolderStore) -> float | None:
    """Return the rate of the last runs of all workers, from their logs; None without any."""
    ends: list[tuple[float, float]] = []  # when a clip ended, and how long it took
    for record in store.log_records():
        if record.get("first"):
            ends.append((record["time"], record["seconds"]))
    if not ends:
        return None
    first = min(time - seconds for time, seconds in ends)
    return 60 * len(ends) / max(max(time for time, _ in ends) - first, 1e-3)


def collect(folder: Path, out: Path, *, partial: bool = False, force: bool = False) -> list[Path]:
    """Write the results of a batch into a folder, under the names of the clips.

    Each file has the bytes that the command for one clip would write. An archive of frames becomes
    a folder. The files are copies: the batch stays as it is, whatever is done to them. Returns the
    paths. With `partial`, clips without a result are left out; `force` replaces an earlier
    collection.

    Scenes are added to the database `out`, as `scenes.library.add` adds clips: those that it has
    already are skipped. Then the paths of the new clips are returned.

    Raises:
        BatchError: clips are missing, or no batch is there.
        OutputError: `out` exists, or nothing can be written there.
    """
    plan, store = read_batch(folder), FolderStore(folder)
    done = store.done_keys()
    missing = [unit.path for unit in plan.units if unit.key not in done]
    if missing and not partial:
        more = ", ..." if len(missing) > _MAX_NAMES else ""
        raise BatchError(
            f"{folder}: {len(missing)} of {len(plan.units)} clips have no result: "
            f"{', '.join(missing[:_MAX_NAMES])}{more}; give the command again, or `partial`"
        )
    if plan.header.stage == ScenesStage.name:
        return _add_scenes(store, [unit for unit in plan.units if unit.key in done], out, force)
    first = plan.by_key()
    names = result_names([unit.path for unit in plan.units])
    written = []
    with atomic_folder(out, marker_file=COLLECTION_FILE, force=force) as draft:
        for unit, name in zip(plan.units, names, strict=True):
            if unit.key in done:
                written.append(_write_result(store, unit, first[unit.key], draft / name))
        record = {"stage": plan.header.stage, "clips": len(written), "missing": missing}
        write_json(draft / COLLECTION_FILE, record)
    return [out / path.relative_to(out.with_name(out.name + ".part")) for path in written]


def _add_scenes(store: FolderStore, units: Sequence[Unit], db: Path, force: bool) -> list[Path]:
    """Add the scenes of clips to a database; returns the paths of the clips that are new."""
    if force:
        raise BatchError(f"{db}: scenes are added to what is there, also without `force`")
    check_writable(db)
    sources = [(store.result(u.key, ScenesStage.suffix), u.name, Path(u.path)) for u in units]
    return library.merge(sources, db)


def _write_result(store: FolderStore, unit: Unit, source: Unit, base: Path) -> Path:
    """Copy a result; that of another name of the clip, or another path, gets this one's."""
    base.parent.mkdir(parents=True, exist_ok=True)
    packed = store.result(unit.key, archive.SUFFIX)
    if packed.exists():
        archive.unpack(packed, base)
        return base
    made, path = store.result(unit.key, ".jsonl"), base.with_name(f"{base.name}.jsonl")
    [(name, entry)] = journal.read(made).header.videos.items()
    if (name, entry.get("path")) == (unit.name, unit.path):
        shutil.copyfile(made, path)
    else:
        journal.write(path, *rename_clip(made, unit.name, Path(unit.path)))
    return path


def result_names(paths: Sequence[str]) -> list[str]:
    """Name the results of clips: by the stem; where that is not unique, by what follows the
    folder that all clips are in.

    Examples:
        >>> result_names(["/v/a.mp4", "/v/b.mp4"])
        ['a', 'b']
        >>> result_names(["/v/1/ep.mp4", "/v/2/ep.mp4", "/v/2/ep.mkv"])
        ['1/ep.mp4', '2/ep.mp4', '2/ep.mkv']
    """
    clips = [PurePosixPath(path) for path in paths]
    stems = Counter(clip.stem.casefold() for clip in clips)
    if max(stems.values(), default=1) == 1:
        return [clip.stem for clip in clips]
    above = os.path.commonpath([clip.parent for clip in clips])
    return [clip.relative_to(above).as_posix() for clip in clips]

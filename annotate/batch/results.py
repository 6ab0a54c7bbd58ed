"""The state of a batch, and its results under the names of the clips."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from annotate.batch import archive
from annotate.batch.clips import rename_clip
from annotate.batch.plan import Plan, Unit, read_plan
from annotate.batch.stages import ITEMS_SUFFIX, FramesStage, ScenesStage
from annotate.batch.stores.folder import PLAN_FILE
from annotate.batch.stores.store import BatchStore, open_store
from annotate.errors import BatchError
from annotate.files import atomic_folder, check_writable, write_json
from annotate.items import journal
from annotate.scenes import library

COLLECTION_FILE = "batch.json"
_MAX_NAMES = 5  # of missing clips that an error lists
_SUFFIXES = {each.name: each.suffix for each in (FramesStage, ScenesStage)}
_COPIES = ".copies"  # of results that come from an object store
_FETCHERS = 8  # results that are fetched from an object store at a time


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


def read_batch(store: BatchStore) -> Plan:
    """Read the plan of a batch.

    Raises:
        BatchError: there is none.
    """
    plan = read_plan(store)
    if plan is None:
        raise BatchError(f"{store.place}: no {PLAN_FILE} in it: not the output of a batch")
    return plan


def status(place: Path | str) -> BatchStatus:
    """Count what is done, failed, running and left of the batch in a folder or at an address.

    Raises:
        BatchError: no batch is there.
    """
    store = open_store(place)
    plan = read_batch(store)
    done, failed = store.done_keys(), store.failed_keys()
    finished = sum(unit.key in done for unit in plan.units)
    failures = [
        (unit.path, str(store.failure(unit.key).get("reason", "")))
        for unit in plan.units
        if unit.key in failed - done
    ]
    left = len(plan.units) - finished - len(failures)
    running = min(store.running_count(), left)
    rate = store.clips_per_minute()
    return BatchStatus(plan.header.stage, finished, failures, running, left - running, rate)


def collect(
    place: Path | str, out: Path, *, partial: bool = False, force: bool = False
) -> list[Path]:
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
    store = open_store(place)
    plan = read_batch(store)
    done = store.done_keys()
    missing = [unit.path for unit in plan.units if unit.key not in done]
    if missing and not partial:
        more = ", ..." if len(missing) > _MAX_NAMES else ""
        raise BatchError(
            f"{store.place}: {len(missing)} of {len(plan.units)} clips have no result: "
            f"{', '.join(missing[:_MAX_NAMES])}{more}; give the command again, or `partial`"
        )
    if plan.header.stage == ScenesStage.name:
        return _add_scenes(store, [unit for unit in plan.units if unit.key in done], out, force)
    first = plan.by_key()
    names = result_names([unit.path for unit in plan.units])
    named = [pair for pair in zip(plan.units, names, strict=True) if pair[0].key in done]
    written = []
    with atomic_folder(out, marker_file=COLLECTION_FILE, force=force) as draft:
        copies = draft / _COPIES
        files = _fetched(store, plan.header.stage, [unit.key for unit, _ in named], copies)
        for (unit, name), made in zip(named, files, strict=True):
            written.append(_write_result(made, unit, first[unit.key], draft / name))
        shutil.rmtree(copies, ignore_errors=True)
        record = {"stage": plan.header.stage, "clips": len(written), "missing": missing}
        write_json(draft / COLLECTION_FILE, record)
    return [out / path.relative_to(out.with_name(out.name + ".part")) for path in written]


def _add_scenes(store: BatchStore, units: Sequence[Unit], db: Path, force: bool) -> list[Path]:
    """Add the scenes of clips to a database; returns the paths of the clips that are new."""
    if force:
        raise BatchError(f"{db}: scenes are added to what is there, also without `force`")
    check_writable(db)
    with TemporaryDirectory() as copies:
        files = _fetched(store, ScenesStage.name, [unit.key for unit in units], Path(copies))
        names = [(unit.name, Path(unit.path)) for unit in units]
        sources = [(file, *name) for file, name in zip(files, names, strict=True)]
        return library.merge(sources, db)


def _fetched(store: BatchStore, stage: str, keys: Sequence[str], copies: Path) -> Iterator[Path]:
    """Yield the files of results in the order of the keys; several are fetched at a time."""
    suffix = _SUFFIXES.get(stage, ITEMS_SUFFIX)
    with ThreadPoolExecutor(_FETCHERS) as pool:
        yield from pool.map(lambda key: store.fetch(key, suffix, copies), keys)


def _write_result(made: Path, unit: Unit, source: Unit, base: Path) -> Path:
    """Copy a result; that of another name of the clip, or another path, gets this one's."""
    base.parent.mkdir(parents=True, exist_ok=True)
    if made.suffix == archive.SUFFIX:
        archive.unpack(made, base)
        return base
    path = base.with_name(f"{base.name}{ITEMS_SUFFIX}")
    [(name, entry)] = journal.read(made).header.videos.items()
    if (name, entry.get("path")) == (unit.name, unit.path):
        shutil.copyfile(made, path)
    else:
        journal.write(path, *rename_clip(made, unit.name, unit.path))
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

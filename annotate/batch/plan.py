"""The plan of a batch: which clip is which unit of work, in `OUT/plan.jsonl`.

The first line is a header with the stage and its settings; each other line is a clip: its name,
path, digest and key. Two names of one clip have one key. The plan names results; what is done is
known from the results alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from annotate.batch.clips import clip_digest, clip_path, clip_state
from annotate.batch.stages import Stage, unit_key
from annotate.batch.stores.folder import PLAN_FILE
from annotate.batch.stores.remote_clips import RemoteClip
from annotate.batch.stores.store import BatchStore
from annotate.errors import AnnotateError, ItemsError, SettingsDiffer
from annotate.files import json_digest
from annotate.items.records import Header, record_from_json, record_to_json


@dataclass(frozen=True)
class Unit:
    """A clip that a stage is to run over.

    `state` is of `clips.clip_state`: while it is the same, the digest is not computed again.
    `error` says why the clip cannot be read; such a unit fails without being run.
    """

    name: str
    path: str
    digest: str
    key: str
    state: str
    error: str = ""


@dataclass(frozen=True)
class Plan:
    """A stage with its settings, and its units, in the order in which clips were given."""

    header: Header
    units: tuple[Unit, ...]

    def by_key(self) -> dict[str, Unit]:
        """Return the first unit of each key: what is run."""
        return {unit.key: unit for unit in reversed(self.units)}

    def to_text(self) -> str:
        """Format the plan as JSON lines."""
        lines = [self.header.to_json(), *(record_to_json(asdict(unit)) for unit in self.units)]
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def from_text(cls, text: str, where: str) -> Plan:
        """Parse a plan; `where` begins the error.

        Raises:
            ItemsError: it is damaged, or of a newer version.
        """
        first, *lines = text.splitlines() or [""]
        header = Header.from_json(first, f"{where}:1")
        try:
            records = (record_from_json(line, f"{where}:{n}") for n, line in enumerate(lines, 2))
            return cls(header, tuple(Unit(**record) for record in records))
        except TypeError:
            raise ItemsError(f"{where}: damaged; remove it, and give the command again") from None


def make_units(
    stage: Stage, clips: Iterable[Path | RemoteClip], known: Sequence[Unit] = ()
) -> Iterator[Unit]:
    """Make the unit of each clip; a clip of `known` that did not change is not read again."""
    known_by_path = {unit.path: unit for unit in known}
    line = stage.header().to_json()
    for clip in clips:
        yield _make_unit(stage, line, clip, known_by_path.get(clip.as_posix()))


def _make_unit(stage: Stage, header_line: str, clip: Path | RemoteClip, known: Unit | None) -> Unit:
    name, path, state, digest = clip.name, clip.as_posix(), "", ""
    try:
        state = clip_state(clip)
        is_known = known is not None and known.state == state and known.digest
        digest = known.digest if known is not None and is_known else clip_digest(clip)
        key = unit_key(header_line, stage.inputs(clip_path(clip)), digest)
        return Unit(name, path, digest, key, state)
    except (AnnotateError, OSError) as error:
        key = json_digest({"stage": header_line, "path": path})
        return Unit(name, path, digest, key, state, failure_reason(error))


def failure_reason(error: BaseException) -> str:
    """Describe in one line why a clip failed."""
    if isinstance(error, AnnotateError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'a file'}: {error.strerror}"
    return str(AnnotateError(f"{type(error).__name__}: {error}"))


def check_settings(old: Plan | None, header: Header, where: str) -> None:
    """Check that an earlier plan has these settings.

    Raises:
        SettingsDiffer: it has others; lists them.
    """
    if old is not None and (differences := old.header.differences(header)):
        made = "; ".join(differences)
        raise SettingsDiffer(f"{where}: made with {made}: give another output path")


def merge_plans(old: Plan | None, header: Header, units: Iterable[Unit]) -> Plan:
    """Add units to an earlier plan.

    A clip at the path of an earlier one replaces it. So does a clip that was moved: an earlier one
    of its content whose path is not there any more.
    """
    new = {unit.path: unit for unit in units}
    digests = {unit.digest for unit in new.values() if unit.digest}
    kept = () if old is None else old.units
    by_path = {u.path: u for u in kept if u.digest not in digests or not _is_gone(u.path)}
    return Plan(header, tuple({**by_path, **new}.values()))


def _is_gone(path: str) -> bool:
    """Return whether no clip is at a path of this machine."""
    return Path(path).is_absolute() and not os.path.lexists(path)


def add_to_plan(store: BatchStore, header: Header, units: Sequence[Unit]) -> Plan:
    """Add units to the plan of a batch; other drivers may do so at the same time.

    Raises:
        SettingsDiffer: the plan has other settings.
        OutputError: nothing can be written there.
    """
    with store.plan_lock():
        old = read_plan(store)
        check_settings(old, header, store.place)
        plan = merge_plans(old, header, units)
        write_plan(store, plan)
    return plan


def restore_to_plan(store: BatchStore, header: Header, units: Sequence[Unit]) -> None:
    """Add those units that the plan has not, at the end of a run.

    Another driver may have dropped them: where there are no locks, the last plan that is written
    stays.
    """
    plan = read_plan(store)
    paths = set() if plan is None else {unit.path for unit in plan.units}
    if missing := [unit for unit in units if unit.path not in paths and not _is_gone(unit.path)]:
        add_to_plan(store, header, missing)


def read_plan(store: BatchStore) -> Plan | None:
    """Read the plan of a batch; None where there is none.

    Raises:
        ItemsError: it is damaged.
    """
    text = store.read_plan()
    return None if text is None else Plan.from_text(text, f"{store.place}/{PLAN_FILE}")


def write_plan(store: BatchStore, plan: Plan) -> None:
    """Write the plan of a batch, unless it is there already; shards may write it at once.

    Raises:
        OutputError: nothing can be written there.
    """
    if store.read_plan() != (text := plan.to_text()):
        store.write_plan(text)


def shard(units: Iterable[Unit], number: int, count: int) -> list[Unit]:
    """Select the units of part `number` of `count`, from 1 on: by the key, whatever the order."""
    return [unit for unit in units if int(unit.key[:12], 16) % count == number - 1]

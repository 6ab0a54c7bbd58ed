"""The plan of a batch: which clip is which unit of work, in `OUT/plan.jsonl`.

The first line is a header with the stage and its settings; each other line is a clip: its name,
path, digest and key. Two names of one clip have one key. The plan names results; what is done is
known from the results alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from annotate.batch.clips import clip_digest, clip_state
from annotate.batch.stages import Stage, unit_key
from annotate.batch.stores.folder import PLAN_FILE
from annotate.batch.stores.remote_clips import RemoteClip
from annotate.batch.stores.store import BatchStore
from annotate.errors import AnnotateError, ItemsError
from annotate.files import json_digest
from annotate.items.journal import check_same_settings
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
        state = clip.state if isinstance(clip, RemoteClip) else clip_state(clip)
        if known is not None and known.state == state and known.digest:
            digest = known.digest
        else:
            digest = clip.digest() if isinstance(clip, RemoteClip) else clip_digest(clip)
        inputs = stage.inputs(clip.as_path if isinstance(clip, RemoteClip) else clip)
        return Unit(name, path, digest, unit_key(header_line, inputs, digest), state)
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


def merge_plans(old: Plan | None, header: Header, units: Iterable[Unit], where: str) -> Plan:
    """Add units to an earlier plan: a clip at the path of an earlier one replaces it.

    Raises:
        SettingsDiffer: the earlier plan has other settings; lists them.
    """
    by_path: dict[str, Unit] = {}
    if old is not None:
        check_same_settings(where, old.header.differences(header))
        by_path = {unit.path: unit for unit in old.units}
    return Plan(header, tuple({**by_path, **{unit.path: unit for unit in units}}.values()))


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

"""Bring a file of items up to date with changed prompts: only what they can affect is done anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from annotate import checkpoint, journal, propagate
from annotate.errors import ItemsError, PromptError, SettingsDiffer
from annotate.journal import Header
from annotate.passes import joined
from annotate.propagate import Job
from annotate.records import Item

_FORCE = "--force follows all objects anew"


@dataclass(frozen=True)
class Change:
    """What prompts have changed: the objects that stay as they are, and those to follow anew.

    `anew` follows only the latter; None where none of them starts.
    """

    kept: frozenset[int]
    anew: Job | None


def change(job: Job, out: Path) -> Change | None:
    """What must be done so that `out` is what `job` makes; None where the prompts are the same.

    Raises:
        SettingsDiffer: more than the prompts differs.
        ItemsError: the run that wrote `out` has not reached its end.
        PromptError: no object can be followed without the others.
    """
    header, there = job.header(), journal.read(out).header
    known, now = there.settings.get("prompts"), job.digests()
    same = replace(there, settings={**there.settings, "prompts": now})
    if not isinstance(known, dict) or (differ := same.differences(header)):
        more = "; ".join(differ) if isinstance(known, dict) else "prompts that it does not name"
        raise SettingsDiffer(f"{out}: made with {more}: only prompts may change; {_FORCE}")
    if known == now:
        return None
    _check(job, out, there)
    job.first()
    kept = {int(of) for of in now if known.get(of) == now[of]} & set(job.firsts())
    fresh = replace(job, prompts=job.only(set(job.prompts.labels) - kept))
    return Change(frozenset(kept), fresh if fresh.firsts() else None)


def _check(job: Job, out: Path, header: Header) -> None:
    if not getattr(job.engine, "independent", False):
        raise PromptError(f"with {job.source} objects depend on each other: {_FORCE}")
    if job.boxes is not None:
        raise PromptError(f"with --from objects depend on each other: {_FORCE}")
    with journal.append(out, header) as file:
        if not file.complete:
            raise ItemsError(
                f"{out}: its run has not reached its end: finish it with the prompts that it "
                f"began with, then --update; or {_FORCE}"
            )


def into(job: Job, out: Path, *, progress: Callable[[Item], None] = lambda item: None) -> bool:
    """Make `out` what `job` would make it, from what it was made with other prompts.

    Objects whose prompts did not change keep their lines' words; the others are followed anew from
    their own start, alone, into a file aside, with which a stopped update goes on. Returns False
    when there was nothing to do.

    Raises:
        As `change` and `propagate.into`.
    """
    aside = checkpoint.Aside(out.parent, out.name).update
    what = change(job, out) if out.exists() else None
    if what is None:
        aside.unlink(missing_ok=True)
        return propagate.into(job, out, progress=progress)
    fresh: Mapping[int, Item] = {}
    if what.anew is not None:
        propagate.into(what.anew, aside, force=_stale(aside, what.anew), progress=progress)
        fresh = checkpoint.ByFrame(aside)
    journal.write(out, job.header(), _merged(job, checkpoint.ByFrame(out), what.kept, fresh))
    aside.unlink(missing_ok=True)
    return True


def _stale(aside: Path, job: Job) -> bool:
    """Whether an update that was stopped had other prompts than this one."""
    if not aside.exists():
        return False
    try:
        return bool(journal.read(aside).header.differences(job.header()))
    except ItemsError:  # stopped before its header was whole
        return True


def _merged(
    job: Job, old: Mapping[int, Item], kept: Collection[int], fresh: Mapping[int, Item]
) -> Iterator[Item]:
    """The frames of both, in order: of `old` what is kept, of `fresh` everything."""
    first = job.first()
    for frame in sorted({*old, *fresh}):
        if frame >= first:
            yield (
                joined(_only(old[frame], kept), fresh.get(frame)) if frame in old else fresh[frame]
            )


def _only(item: Item, kept: Collection[int]) -> Item:
    objects = tuple(thing for thing in item.objects if thing.track in kept)
    return replace(item, objects=objects, lost=tuple(of for of in item.lost if of in kept))

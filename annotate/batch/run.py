"""Run a stage over many clips, or continue the run of an equal command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from annotate.batch.clips import expand_sources
from annotate.batch.driver import Driver, Engine, Tally
from annotate.batch.plan import (
    Plan,
    Unit,
    add_to_plan,
    check_settings,
    make_units,
    merge_plans,
    read_plan,
    restore_to_plan,
    shard,
)
from annotate.batch.processes import LocalEngine
from annotate.batch.ray_actors import RayEngine
from annotate.batch.stages import ScenesStage, Stage
from annotate.batch.stores.remote_clips import RemoteClip
from annotate.batch.stores.store import open_store
from annotate.batch.worker import Outcome, StageOutput, Task
from annotate.device import core_count
from annotate.errors import AnnotateError, BatchError

Watch = Callable[[Tally, Outcome | None], None]


@dataclass(frozen=True)
class BatchOptions:
    """Where and how far to run.

    `workers` is `local:N`; without N, a worker for each core, up to the number of clips. It may be
    `ray`, on this machine, or `ray:ADDRESS`, on a cluster, where each worker gets `gpus`. `shard`
    (number, count) selects a part of the clips; `limit` runs at most so many; `retry_failed` runs
    those again that failed.

    Raises:
        BatchError: `gpus` for other workers than those of Ray.
    """

    workers: str = "local"
    shard: tuple[int, int] = (1, 1)
    limit: int | None = None
    retry_failed: bool = False
    gpus: float = 0

    def __post_init__(self) -> None:
        if self.gpus and self.workers.partition(":")[0] != "ray":
            raise BatchError("`gpus` shares out GPUs among workers of Ray: give `on=ray`")


@dataclass
class BatchRun:
    """A prepared run: the plan, and what of it is to do; `failed` failed earlier."""

    output: StageOutput
    plan: Plan
    options: BatchOptions
    units: Sequence[Unit]  # of the clips that are given
    done: int = 0
    failed: dict[str, Unit] = field(default_factory=dict)
    to_run: list[Unit] = field(default_factory=list)

    def tasks(self) -> list[Task]:
        """Make the tasks of the units that are to run."""
        return [Task(unit.key, unit.path) for unit in self.to_run]

    def run(self, watch: Watch = lambda tally, outcome: None) -> Tally:
        """Run what is to do.

        Raises:
            BatchError, AnnotateError: see `driver.Driver.run`.
        """
        if not self.to_run:
            return Tally()
        tasks = self.tasks()
        try:
            engine = make_engine(self.options, [self.output], tasks)
            tally = Driver(engine, [self.output], watch=watch).run(tasks)
            restore_to_plan(self.output.store, self.plan.header, self.units)
            return tally
        finally:
            self.output.store.close()


def prepare(
    stage: Stage, sources: Sequence[Path | str], out: Path | str, options: BatchOptions
) -> BatchRun:
    """Plan a batch: which clips are done, which have failed, which are to run.

    `sources` are those of `clips.expand_sources`. `out` is a folder, or an address such as
    `s3://bucket/prefix`.

    Raises:
        BatchError: the stage does not take clips at addresses.
        VideoError: a clip is not there.
        SettingsDiffer: `out` holds a batch with other settings.
        OutputError: nothing can be written there.
    """
    clips = expand_sources(sources)
    if any(isinstance(clip, RemoteClip) for clip in clips):
        _check_takes_copies(stage)
    store = open_store(out)
    store.check_writable()
    store.refuse_foreign()
    old = read_plan(store)
    check_settings(old, stage.header(), store.place)
    units = list(make_units(stage, clips, () if old is None else old.units))
    plan = merge_plans(old, stage.header(), units)
    if plan != old:
        plan = add_to_plan(store, stage.header(), units)
    run = BatchRun(StageOutput(stage, store), plan, options, units)
    own = shard({unit.key: unit for unit in reversed(units)}.values(), *options.shard)
    done, failed = store.done_keys(), store.failed_keys()
    store.remove_attempts(done)
    for unit in reversed(own):
        if unit.key in done:
            run.done += 1
        elif unit.error:
            record = {"clip": unit.path, "reason": unit.error, "tries": 1}
            store.record_failure(unit.key, record)
            run.failed[unit.key] = unit
        elif unit.key in failed and not options.retry_failed:
            run.failed[unit.key] = unit
        else:
            run.to_run.append(unit)
    run.to_run = run.to_run[: options.limit]
    for unit in run.to_run:
        if unit.key in failed:
            store.forget_failure(unit.key)
    return run


def _check_takes_copies(stage: Stage) -> None:
    """Check that a stage takes clips that are copied for it, each under another path."""
    if isinstance(stage, ScenesStage) or getattr(stage, "boxes", None) is not None:
        what = "boxes are found by" if stage.name == "propagate" else "scenes lead to"
        raise BatchError(f"{what} the clips, which must be on this machine: download them first")


def make_engine(
    options: BatchOptions, outputs: Sequence[StageOutput], tasks: Sequence[Task]
) -> Engine:
    """Make the engine for some tasks.

    Raises:
        BatchError: no such engine.
        MissingPackage: Ray is not installed.
    """
    kind, _, rest = options.workers.partition(":")
    if kind == "ray":
        return RayEngine(outputs, tasks[0], rest, options.gpus)
    if kind == "local" and (not rest or (rest.isdecimal() and int(rest))):
        slots = int(rest) if rest else core_count()
        return LocalEngine(outputs, min(slots, len(tasks)))
    raise BatchError(f"no workers {options.workers!r}: give local, local:N, ray or ray:ADDRESS")


def parse_shard(text: str) -> tuple[int, int]:
    """Parse `I/N`: part I of N parts, from 1 on.

    Raises:
        AnnotateError: says what was expected.
    """
    number, _, count = text.partition("/")
    if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
        return int(number), int(count)
    raise AnnotateError(f"expected I/N with I from 1 to N, such as 2/8, got {text!r}")

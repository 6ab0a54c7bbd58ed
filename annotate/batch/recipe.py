"""A recipe: stages in a chain over many clips, described in a TOML file, run as far as needed.

    recipe = 1
    clips = ["episodes/*.mkv"]

    [detect]
    detector = "colour"
    vocabulary = "designator.v1"

    [propagate]
    engine = "light"

    [build]
    every = 10

Each stage is a batch in a folder of the output; `propagate` reads what `detect` found, and `build`
makes one dataset of the last stage's items. The keys are those of single batches, so what did not
change is not run again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from annotate.batch.clips import expand_sources
from annotate.batch.driver import Driver, Tally
from annotate.batch.plan import Plan, Unit, make_units, merge_plans, read_plan, shard, write_plan
from annotate.batch.run import BatchOptions, Watch, make_engine
from annotate.batch.stages import DetectStage, FramesStage, PropagateStage, ResultsOf, Stage
from annotate.batch.stores.bucket import is_url
from annotate.batch.stores.store import join_place, open_store
from annotate.batch.worker import Outcome, StageOutput, Task
from annotate.dataset.build import build_dataset
from annotate.detectors.run import read_detector_vocabulary
from annotate.errors import BatchError, UnknownName
from annotate.files import json_digest, parse_toml, read_json, write_json
from annotate.sampling.filter import FilterOptions, SamplingOptions
from annotate.video.reader import FrameSelection
from annotate.vocabulary import read_vocabulary

RECIPE_VERSION = 1
BUILD_FILE, DATASET = "build.json", "dataset"
_RANGE = ("every", "rate", "keyframes", "start", "stop")
_FILTER = ("duplicates", "threshold", "everything")
_BUILD = ("every", "rate", "max_frames", "min_score", "image_format")
_TABLES: Mapping[str, tuple[str, ...]] = {
    "frames": (*_RANGE, *_FILTER, "max_frames", "image_format"),
    "detect": ("detector", "vocabulary", "options", "mask", "near", "margin", *_RANGE),
    "propagate": (
        *("engine", "options", "points", "min_score"),
        *("vocabulary", "both_directions", "start", "stop"),
    ),
    "build": _BUILD,
}

# Key -> what its value must be in TOML; a whole number stands for a number, too.
_WHOLE = ("every", "start", "stop", "margin", "max_frames")
_NUMBERS = ("rate", "threshold", "min_score")
_FLAGS = ("keyframes", "everything", "both_directions")
_KINDS: Mapping[str, tuple[str, tuple[type, ...]]] = {
    **dict.fromkeys(_WHOLE, ("a whole number", (int,))),
    **dict.fromkeys(_NUMBERS, ("a number", (int, float))),
    **dict.fromkeys(_FLAGS, ("true or false", (bool,))),
    "options": ("a table", (dict,)),
}
_TEXT: tuple[str, tuple[type, ...]] = ("a text", (str,))


@dataclass(frozen=True)
class Recipe:
    """The clips, and the tables of the stages, as they stand in the file at `path`."""

    path: Path
    clips: tuple[Path, ...]
    tables: Mapping[str, Mapping[str, Any]]

    def outputs(self, out: Path | str) -> list[StageOutput]:
        """Make the stages, in their order, each with its part of the output.

        Raises:
            AnnotateError: a stage cannot be made: which option or value is wrong.
        """
        makers = {"frames": self._frames, "detect": self._detect, "propagate": self._propagate}
        outputs: list[StageOutput] = []
        for name, make in makers.items():
            if name in self.tables:
                try:
                    stage = make(dict(self.tables[name]), out)
                except (TypeError, ValueError) as error:
                    raise BatchError(f"{self.path}: [{name}]: {error}") from None
                outputs.append(StageOutput(stage, open_store(join_place(out, name))))
        return outputs

    def _frames(self, table: dict[str, Any], out: Path | str) -> Stage:
        selection, filtering = _take(table, _RANGE), _take(table, _FILTER)
        by_shots = not selection.keys() & {"every", "rate", "keyframes"}
        sampling = SamplingOptions(by_shots, FrameSelection(**selection))
        return FramesStage(sampling, FilterOptions(**filtering), **table)

    def _detect(self, table: dict[str, Any], out: Path | str) -> DetectStage:
        if "detector" not in table:
            raise BatchError(f"{self.path}: [detect] names no detector")
        options, words = table.pop("options", {}), table.pop("vocabulary", None)
        vocabulary = read_detector_vocabulary(self._vocabulary(words), options)
        selection = FrameSelection(**_take(table, _RANGE))
        return DetectStage(vocabulary=vocabulary, options=options, selection=selection, **table)

    def _propagate(self, table: dict[str, Any], out: Path | str) -> Stage:
        if (words := table.pop("vocabulary", None)) is not None:
            table["vocabulary"] = read_vocabulary(self._vocabulary(words))
        if (points := table.pop("points", None)) is not None:
            table["points"] = self.path.parent / points
        if "detect" in self.tables:
            detect = self._detect(dict(self.tables["detect"]), out)
            table["boxes"] = ResultsOf(detect, join_place(out, "detect"))
        return PropagateStage(**table)

    def _vocabulary(self, name: Any) -> Any:
        """Return the path of a vocabulary that lies beside the recipe, or else its name."""
        beside = self.path.parent / str(name)
        return str(beside) if beside.is_file() else name


def read_recipe(path: Path) -> Recipe:
    """Read a recipe; paths in it are relative to its folder.

    Raises:
        BatchError: not TOML, another version, or no clips and stages.
        UnknownName: no such table or key; names the nearest.
        VideoError: a clip is not there.
    """
    try:
        record = parse_toml(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BatchError(f"{path}: not a recipe that can be read: {error}") from None
    version, sources = record.pop("recipe", None), record.pop("clips", None)
    if version != RECIPE_VERSION:
        raise BatchError(f"{path}: expected recipe = {RECIPE_VERSION}, got {version!r}")
    if not isinstance(sources, list) or not all(isinstance(each, str) for each in sources):
        raise BatchError(f"{path}: expected clips = [...], a list of paths or patterns")
    for name, table in record.items():
        if name not in _TABLES:
            raise UnknownName(f"table of {path}", name, _TABLES)
        if not isinstance(table, dict):
            raise BatchError(f"{path}: expected a table [{name}]")
        _check_table(name, table, path)
    if not record.keys() & {"frames", "detect", "propagate"}:
        raise BatchError(f"{path}: no stage: give [frames], [detect] or [propagate]")
    if any(map(is_url, sources)):
        raise BatchError(f"{path}: clips of a recipe must be on this machine: download them first")
    clips = expand_sources(path.parent / each for each in sources)
    return Recipe(path, tuple(clip for clip in clips if isinstance(clip, Path)), record)


def _check_table(name: str, table: Mapping[str, Any], path: Path) -> None:
    """Check the keys of a table, and the types of their values."""
    for key, value in table.items():
        if key not in _TABLES[name]:
            raise UnknownName(f"key of [{name}] in {path}", key, _TABLES[name])
        expected, types = _KINDS.get(key, _TEXT)
        if type(value) not in types:
            raise BatchError(f"{path}: [{name}]: {key} must be {expected}, got {value!r}")


def _take(table: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Remove and return the entries of a table that have these names."""
    return {name: table.pop(name) for name in names if name in table}


@dataclass
class RecipeRun:
    """A prepared run of a recipe into `out`: a folder, or an address such as `s3://bucket/show`.

    Raises:
        BatchError: a dataset is to be built, but not in a folder.
        OutputError: nothing can be written there.
    """

    recipe: Recipe
    out: Path | str
    options: BatchOptions
    outputs: list[StageOutput] = field(init=False)
    reasons: list[tuple[str, str, str]] = field(default_factory=list)  # stage, clip, why it runs
    done: int = 0
    failures: list[str] = field(default_factory=list)  # of earlier runs
    _units: dict[int, dict[str, Unit]] = field(default_factory=dict)  # stage -> path -> unit
    _done: dict[int, set[str]] = field(default_factory=dict)  # stage -> keys, as listed once
    _failed: dict[int, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.out, str) and is_url(self.out) and "build" in self.recipe.tables:
            raise BatchError(
                f"{self.recipe.path}: [build] makes a dataset in a folder, not in {self.out}: "
                "leave it out, collect the items, and build from them"
            )
        self.outputs = self.recipe.outputs(self.out)
        self.outputs[0].store.check_writable()

    def tasks(self) -> list[Task]:
        """List what is to run at once; `reasons` says why, also for what can only run later."""
        first = [number for number in range(len(self.outputs)) if not self._is_later(number)]
        tasks = [task for number in first for task in self._open(number, self.recipe.clips)]
        for number in set(range(len(self.outputs))) - set(first):
            ready = [
                Path(u.path)
                for u in self._units[number - 1].values()
                if self._is_done(number - 1, u)
            ]
            tasks += self._open(number, ready)
            later = [unit for unit in self._own(number - 1) if Path(unit.path) not in ready]
            stage = self.outputs[number].stage.name
            self.reasons += [(stage, unit.name, "its boxes will be made") for unit in later]
        return tasks

    def _is_later(self, number: int) -> bool:
        """Return whether a stage reads the results of the one before it."""
        return getattr(self.outputs[number].stage, "boxes", None) is not None

    def _own(self, number: int) -> list[Unit]:
        """List the units of this run's shard, each content once: by the digest of the clip."""
        unique = {unit.digest or unit.path: unit for unit in reversed(self._units[number].values())}
        return shard(reversed(unique.values()), *self.options.shard)

    def _is_done(self, number: int, unit: Unit) -> bool:
        """Return whether there is a result, as results were listed when this was asked first."""
        if number not in self._done:
            self._done[number] = self.outputs[number].store.done_keys()
            self._failed[number] = self.outputs[number].store.failed_keys()
            self.outputs[number].store.remove_attempts(self._done[number])
        return unit.key in self._done[number]

    def _open(self, number: int, clips: Sequence[Path]) -> Iterator[Task]:
        """Plan a stage for some clips, and yield the tasks that are to run."""
        output = self.outputs[number]
        old = read_plan(output.store)
        known = {} if old is None else {unit.path: unit for unit in old.units}
        units = {u.path: u for u in make_units(output.stage, clips, list(known.values()))}
        self._units.setdefault(number, {}).update(units)
        given = self._own(number)
        changed = [] if old is None else old.header.differences(output.stage.header())
        for unit in [each for each in given if each.path in units]:
            if self._is_done(number, unit):
                self.done += 1
            elif unit.error:
                self.failures.append(unit.error)
            elif unit.key in self._failed[number] and not self.options.retry_failed:
                self.failures.append(str(output.store.failure(unit.key).get("reason", "")))
            else:
                why = _reason(unit, known.get(unit.path), changed)
                self.reasons.append((output.stage.name, unit.name, why))
                yield Task(unit.key, unit.path, number)

    def run(self, watch: Watch = lambda tally, outcome: None) -> Tally:
        """Run the stages; a clip goes on to the next one as soon as its input is there.

        Raises:
            BatchError, AnnotateError: see `driver.Driver.run`.
        """
        tasks = self.tasks()
        for task in tasks:
            if task.key in self._failed[task.stage]:
                self.outputs[task.stage].store.forget_failure(task.key)
        self._write_plans()
        try:
            if not tasks:
                return Tally()
            engine = make_engine(self.options, self.outputs, tasks)
            return Driver(engine, self.outputs, follow=self._follow, watch=watch).run(tasks)
        finally:
            self._write_plans()
            for output in self.outputs:
                output.store.close()

    def _write_plans(self) -> None:
        """Write the plan of each stage: of this run's units, and of those of other shards."""
        paths = {clip.as_posix() for clip in self.recipe.clips}
        for number, units in self._units.items():
            store, header = self.outputs[number].store, self.outputs[number].stage.header()
            with store.plan_lock():
                old = read_plan(store)
                if old is None or old.header.differences(header):
                    old = Plan(header, ())
                old = Plan(header, tuple(unit for unit in old.units if unit.path in paths))
                write_plan(store, merge_plans(old, header, units.values()))

    def _follow(self, outcome: Outcome) -> Iterable[Task]:
        number = outcome.task.stage + 1
        if number == len(self.outputs) or not self._is_later(number):
            return []
        return list(self._open(number, [Path(outcome.task.clip)]))

    def build(self) -> Path | None:
        """Build the dataset of the last stage's items, unless an equal one is there.

        Returns None if the recipe builds none.

        Raises:
            BatchError: clips have no result.
            AnnotateError: see `dataset.build.build_dataset`.
        """
        table, output = self.recipe.tables.get("build"), self.outputs[-1]
        if table is None:
            return None
        if output.stage.name == "frames":
            raise BatchError(f"{self.recipe.path}: [build] needs [detect] or [propagate]")
        self._done.clear()
        made = self._built_from()
        if self._build_reason(made):
            dataset = Path(self.out) / DATASET
            files = [output.store.fetch(unit.key, output.stage.suffix) for unit in made]
            videos = {unit.name: Path(unit.path) for unit in made}
            build_dataset(files, dataset, videos=videos, force=dataset.exists(), **table)
            write_json(Path(self.out) / BUILD_FILE, {"key": self._build_key(made)})
        return Path(self.out) / DATASET

    def why_build(self) -> str:
        """Say why `build` would build a dataset now; "" if it would not."""
        if "build" not in self.recipe.tables:
            return ""
        if self.reasons:
            return "its items will be made"
        with suppress(BatchError):
            return self._build_reason(self._built_from())
        return ""

    def _built_from(self) -> list[Unit]:
        """List the units of the last stage, in the recipe's order; all have results.

        Raises:
            BatchError: clips have no result.
        """
        last = len(self.outputs) - 1
        units = {u.digest: u for u in reversed(self._units.get(last, {}).values())}
        digests = dict.fromkeys(u.digest for u in self._units[0].values())
        missing = [d for d in digests if d not in units or not self._is_done(last, units[d])]
        if missing:
            raise BatchError(f"{len(missing)} clips have no result: no dataset is built")
        return [units[digest] for digest in digests]

    def _build_key(self, made: Sequence[Unit]) -> str:
        table = dict(self.recipe.tables["build"])
        return json_digest({"build": table, "items": [[u.path, u.key] for u in made]})

    def _build_reason(self, made: Sequence[Unit]) -> str:
        """Say why a dataset of these units is to be built; "" if an equal one is there."""
        record = read_json(Path(self.out) / BUILD_FILE)
        if not record or not (Path(self.out) / DATASET).exists():
            return "no dataset yet"
        return "" if record.get("key") == self._build_key(made) else "other settings or clips"


def _reason(unit: Unit, known: Unit | None, changed: Sequence[str]) -> str:
    """Say why a unit runs: `known` is that of its path in the last run."""
    if changed:
        return f"other settings: {'; '.join(changed)}"
    if known is None:
        return "a new clip"
    if known.digest != unit.digest:
        return "the clip changed"
    return "its prompts changed" if known.key != unit.key else "no result yet"

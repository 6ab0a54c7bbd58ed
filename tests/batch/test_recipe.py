"""A recipe runs a chain of stages as far as needed, and says what would run, and why."""

import shutil
from pathlib import Path

import pytest
from batch_stages import make_clip, make_clips, run_here

from annotate.batch.recipe import RecipeRun, read_recipe
from annotate.batch.run import BatchOptions, prepare
from annotate.batch.stages import PropagateStage
from annotate.batch.worker import UnitRunner
from annotate.errors import BatchError, UnknownName

RECIPE = """
recipe = 1
clips = ["clips/*.mp4"]

[frames]
every = 4

[detect]
detector = "colour"
vocabulary = "red.toml"

[propagate]
options = { fast = true }
stop = 3

[build]
every = 2
"""


@pytest.fixture
def recipe(tmp_path):
    make_clips(tmp_path / "clips", 2)
    (tmp_path / "red.toml").write_text("[classes.red]\ncolour = [340, 20]\n")
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


def plan(recipe, workers="local:1"):
    return RecipeRun(read_recipe(recipe), Path("out"), BatchOptions(workers))


def reasons(recipe):
    planned = plan(recipe)
    planned.tasks()
    return sorted(planned.reasons)


def change(recipe, old, new):
    assert old in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(old, new))


def test_a_chain_is_run_once_and_again_where_something_changed(recipe):
    both = ("c0000.mp4", "c0001.mp4")
    assert reasons(recipe) == [
        *(("detect", name, "a new clip") for name in both),
        *(("frames", name, "a new clip") for name in both),
        *(("propagate", name, "its boxes will be made") for name in both),
    ]
    first = plan(recipe, "local:2")
    tally = first.run()
    assert tally.done == 6 and not tally.failures
    dataset = first.build()
    assert len(list((dataset / "images").iterdir())) == 4
    built = (dataset / "items.jsonl").stat().st_mtime_ns

    again = plan(recipe)
    assert again.run().done == 0 and again.done == 6 and not again.reasons
    assert (again.build() / "items.jsonl").stat().st_mtime_ns == built and not again.why_build()
    change(recipe, "[build]\nevery = 2", "[build]\nevery = 3")
    changed = plan(recipe)
    assert not changed.tasks() and changed.why_build() == "other settings or clips"
    change(recipe, "[build]\nevery = 3", "[build]\nevery = 2")

    change(recipe, "stop = 3", "stop = 4")
    assert [row[:2] for row in reasons(recipe)] == [("propagate", name) for name in both]
    assert "stop: 3 in the file, 4 now" in reasons(recipe)[0][2]
    change(recipe, "stop = 4", "stop = 3")
    assert reasons(recipe) == []  # the results of before are still there

    make_clip(recipe.parent / "clips" / "c0001.mp4", 9)
    shutil.copy(recipe.parent / "clips" / "c0000.mp4", recipe.parent / "clips" / "same.mp4")
    assert reasons(recipe) == [
        ("detect", "c0001.mp4", "the clip changed"),
        ("frames", "c0001.mp4", "the clip changed"),
        ("propagate", "c0001.mp4", "its boxes will be made"),
    ]


def test_the_keys_are_those_of_single_batches(recipe):
    planned = plan(recipe)
    runner = UnitRunner(planned.outputs)
    tasks = planned.tasks()
    while tasks:
        task = tasks.pop(0)
        outcome = runner.run(task)
        assert not outcome.error
        tasks += planned._follow(outcome)
    clips = sorted((recipe.parent / "clips").iterdir())
    stage = PropagateStage("light", {"fast": True}, boxes=Path("out/detect"), stop=3)
    single = prepare(stage, clips, Path("single"), BatchOptions())
    keys = {unit.key for unit in single.to_run}
    assert keys == planned.outputs[2].store.done_keys()
    run_here(single)
    for key in keys:
        one, other = (
            each.store.result(key, ".jsonl") for each in (single.output, planned.outputs[2])
        )
        assert one.read_bytes() == other.read_bytes()


def test_a_dataset_is_not_built_while_clips_are_missing(recipe):
    (recipe.parent / "clips" / "zero.mp4").touch()
    planned = plan(recipe)
    tally = planned.run()
    assert tally.done == 6 and len(planned.failures) == 2
    with pytest.raises(BatchError, match="no dataset is built"):
        planned.build()


@pytest.mark.parametrize(
    "old, new, error, message",
    [
        ("recipe = 1", "recipe = 2", BatchError, "expected recipe = 1, got 2"),
        ("recipe = 1", "recipe = ", BatchError, "not a recipe that can be read"),
        ('["clips/*.mp4"]', '"clips"', BatchError, "a list of paths or patterns"),
        ("[detect]", "[detct]", UnknownName, "did you mean 'detect'"),
        ("stop = 3", "stpo = 3", UnknownName, "did you mean 'stop'"),
        ('detector = "colour"', 'mask = "red"', BatchError, "names no detector"),
        ("every = 4", 'every = "4"', BatchError, "must be a whole number, got '4'"),
        ("every = 4", "keyframes = 1", BatchError, "must be true or false, got 1"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_with_the_place(recipe, old, new, error, message):
    change(recipe, old, new)
    with pytest.raises(error, match=message):
        plan(recipe)


def test_what_would_run_is_printed(recipe, annotate):
    code, out, err = annotate("run", recipe, "-o", "out", "--dry-run")
    assert code == 0 and "7 to run, 0 done" in err
    assert "build\tdataset\tits items will be made" in out
    assert "detect\tc0000.mp4\ta new clip" in out and not Path("out").exists()


def test_a_dataset_is_in_the_order_of_the_recipe_whichever_clip_is_first(recipe):
    planned = plan(recipe)
    planned.run()
    last = planned._units[len(planned.outputs) - 1]
    for _ in range(2):  # as if each of the two clips had been first
        path = next(iter(last))
        last[path] = last.pop(path)
        built = (planned.build() / "items.jsonl").read_text()
        assert built.index("c0000.mp4") < built.index("c0001.mp4")

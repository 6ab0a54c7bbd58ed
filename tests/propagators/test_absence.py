"""Rows with label -1: an object is gone until its next positive prompt, with every engine."""

import dataclasses

import numpy as np
import pytest
from wanderer import (
    IndependentWanderer,
    Killed,
    PhraseWanderer,
    Wanderer,
    objects_by_frame,
    point,
)

from annotate.dataset.build import build_dataset
from annotate.errors import PromptError
from annotate.items import journal
from annotate.items.records import Prompt
from annotate.prompts import PromptTable
from annotate.propagators import run
from annotate.propagators.absence import AbsenceSchedule
from annotate.propagators.job import PROPAGATORS, Job

LABELS = {1: "mech", 2: "raine", 3: "mech"}


def gone(frame, object_id):
    return Prompt(frame, object_id, gone=True)


def outside(frame, object_id):
    return Prompt(frame, object_id, np.array([[50.0, 50.0]]), np.array([0]))


TABLE = PromptTable((point(10, 1), point(12, 2), gone(20, 1), outside(24, 1), point(30, 1)), LABELS)


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 7)


@pytest.fixture
def job(demo):
    return Job(Wanderer(), "wanderer", demo, TABLE, stop=40)


def test_a_schedule_knows_each_absence_and_each_return():
    schedule = AbsenceSchedule(
        (gone(3, 1), point(5, 1), gone(8, 1), gone(9, 1), outside(10, 1), point(12, 1), point(5, 2))
    )
    assert [n for n in range(15) if schedule.is_gone(1, n)] == [3, 4, 8, 9, 10, 11]
    assert [schedule.count_returns(1, n) for n in (0, 4, 5, 11, 12, 14)] == [0, 0, 0, 0, 1, 1]
    assert schedule.gone_at(9) == {1} and schedule.count_returns(2, 9) == 0
    assert schedule.is_needed and not AbsenceSchedule([point(5, 2)]).is_needed


def test_an_object_that_is_gone_is_neither_seen_nor_lost(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    items = {item.frame: item for item in journal.read(tmp_path / "m.jsonl")}
    assert list(items) == list(range(10, 40))
    for n, item in items.items():
        seen = {obj.track for obj in item.objects}
        assert (1 in seen or 1 in item.lost) == (not 20 <= n < 30)
        assert (2 in seen or 2 in item.lost) == (n >= 12)


def test_a_frame_is_a_negative_only_if_all_its_objects_are_gone(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    alone = PromptTable((point(10, 1), gone(20, 1)), LABELS)
    run.run_to_file(dataclasses.replace(job, prompts=alone), tmp_path / "alone.jsonl")
    for name, expected in {"m": {2}, "alone": set()}.items():
        built = build_dataset([tmp_path / f"{name}.jsonl"], tmp_path / name, frames=[23])
        [sample] = built
        assert {obj.track for obj in sample.item.objects} == expected and not sample.item.lost


def test_the_object_starts_again_at_its_next_positive_prompt(job, tmp_path):
    """What the engine made of it before has no part in it: it could be another object."""
    run.run_to_file(job, tmp_path / "m.jsonl")
    other = PromptTable((point(10, 1), point(12, 2), point(30, 3)), LABELS)
    run.run_to_file(dataclasses.replace(job, prompts=other), tmp_path / "other.jsonl")
    result, expected = (objects_by_frame(tmp_path / f"{name}.jsonl") for name in ("m", "other"))
    for n in range(30, 40):
        returned, new = result[n].get(1), expected[n].get(3)
        assert (returned and returned.box) == (new and new.box)
    assert all(result[n].get(2) == expected[n].get(2) for n in range(12, 40))


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
def test_a_killed_run_continues_to_the_same_bytes(job, tmp_path, both):
    job = dataclasses.replace(job, both_directions=both)
    run.run_to_file(job, tmp_path / "whole.jsonl")
    for frame in (19, 22, 29, 35):

        def kill(item, frame=frame):
            if item.frame == frame:
                raise Killed

        out = tmp_path / f"{frame}.jsonl"
        with pytest.raises(Killed):
            run.run_to_file(job, out, progress=kill)
        run.run_to_file(job, out)
        assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_an_object_that_is_gone_before_its_start_is_not_tracked_backward(job, tmp_path):
    table = PromptTable((gone(5, 1), point(10, 1), point(12, 2)), LABELS)
    job = dataclasses.replace(job, prompts=table, both_directions=True)
    run.run_to_file(job, tmp_path / "m.jsonl")
    items = {item.frame: item for item in journal.read(tmp_path / "m.jsonl")}
    for n in range(10):
        seen = {obj.track for obj in items[n].objects}
        assert seen | set(items[n].lost) == {2}
    only = PromptTable((gone(5, 1), point(10, 1)), LABELS)
    run.run_to_file(dataclasses.replace(job, prompts=only), tmp_path / "only.jsonl")
    items = list(journal.read(tmp_path / "only.jsonl"))
    assert next(item.frame for item in items if item.objects or item.lost) == 10


def test_an_update_gives_the_bytes_of_a_new_run(job, tmp_path):
    job = dataclasses.replace(job, engine=IndependentWanderer(), source="loner")
    for prompts in (TABLE.prompts, (*TABLE.prompts[:3], point(28, 1)), TABLE.prompts[:2]):
        changed = dataclasses.replace(
            job, prompts=PromptTable(prompts, {each.object_id: "mech" for each in prompts})
        )
        run.update(changed, tmp_path / "m.jsonl")
        run.run_to_file(changed, tmp_path / "new.jsonl", force=True)
        assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "new.jsonl").read_bytes()


def test_a_track_of_a_phrase_can_be_gone(job, tmp_path):
    engine = PhraseWanderer(phrase="robot")
    table = PromptTable((gone(30, 16),), {16: "robot"})
    job = dataclasses.replace(job, engine=engine, prompts=table, start=10)
    run.run_to_file(job, tmp_path / "m.jsonl")
    for item in journal.read(tmp_path / "m.jsonl"):
        known = {obj.track for obj in item.objects} | set(item.lost)
        assert (16 in known) == (16 <= item.frame < 30)


def test_an_object_without_a_positive_prompt_is_refused(job, tmp_path):
    table = PromptTable((point(10, 1), gone(5, 2)), LABELS)
    with pytest.raises(PromptError, match="object 2 is gone from frame 5 .* no positive prompt"):
        run.run_to_file(dataclasses.replace(job, prompts=table), tmp_path / "m.jsonl")
    assert not list(tmp_path.iterdir())


ENGINES = {
    "light": ("onnxruntime", {"fast": True}),
    "sam2": ("torch sam2", {"size": 64, "device": "cpu", "random_weights": 1}),
    "edgetam": ("torch transformers timm", {"size": 256, "device": "cpu", "random_weights": 1}),
}


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.filterwarnings("ignore")  # the packages' own
def test_our_engines_stop_an_object_and_start_it_again(demo, tmp_path, name):
    packages, options = ENGINES[name]
    for package in packages.split():
        pytest.importorskip(package)
    engine = PROPAGATORS.load(name, **options)
    prompts = (point(19, 1, 300.0, 380.0), point(19, 2, 600.0, 300.0), gone(21, 1))
    table = PromptTable((*prompts, point(24, 1, 300.0, 380.0)), LABELS)
    job = Job(engine, name, demo, table, start=18, stop=25)
    run.run_to_file(job, tmp_path / "m.jsonl")
    by_frame = objects_by_frame(tmp_path / "m.jsonl")
    assert [1 in by_frame[n] for n in (19, 21, 22, 23, 24)] == [True, False, False, False, True]
    lost = {item.frame: item.lost for item in journal.read(tmp_path / "m.jsonl")}
    assert all(1 not in lost[n] for n in (21, 22, 23))

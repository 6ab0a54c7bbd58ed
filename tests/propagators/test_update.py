"""An update after changed prompts recomputes only changed objects, with the bytes of a new run."""

import dataclasses

import pytest
from wanderer import IndependentWanderer, Killed, Wanderer, objects_by_frame, point

from annotate.errors import ItemsError, PromptError, SettingsDiffer
from annotate.items import journal
from annotate.prompts import PromptTable
from annotate.propagators import run
from annotate.propagators.job import PROPAGATORS, Job, plan_update

LABELS = {1: "mech", 2: "raine", 3: "mech"}
OLD = (point(10, 1), point(20, 2), point(25, 3), point(30, 1))


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 7)


@pytest.fixture
def job(demo):
    return Job(IndependentWanderer(), "loner", demo, PromptTable(OLD, LABELS), stop=45)


def with_prompts(job, *prompts, labels=LABELS):
    ids = {prompt.object_id for prompt in prompts}
    table = PromptTable(
        prompts, {object_id: label for object_id, label in labels.items() if object_id in ids}
    )
    return dataclasses.replace(job, prompts=table)


CHANGES = {
    "a correction": ((*OLD[:2], OLD[2], point(28, 2), OLD[3]), 20),
    "another point": ((OLD[0], point(20, 2, x=50.0), *OLD[2:]), 20),
    "a later start": ((OLD[0], point(22, 2), *OLD[2:]), 22),
    "an earlier start": ((point(5, 2), OLD[0], *OLD[2:]), 5),
    "another object": ((*OLD, dataclasses.replace(OLD[3], object_id=4, frame=33)), 33),
    "the first object removed": (OLD[1:3], None),
    "the last object removed": ((OLD[0], OLD[1], OLD[3]), None),
}


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("name", CHANGES)
def test_an_update_gives_the_bytes_of_a_new_run(job, tmp_path, name, both):
    job = dataclasses.replace(job, both_directions=both)
    prompts, first = CHANGES[name]
    changed_job = with_prompts(job, *prompts, labels={**LABELS, 4: "raine"})
    run.run_to_file(job, tmp_path / "m.jsonl")
    run.run_to_file(changed_job, tmp_path / "scratch.jsonl")
    computed = []
    assert run.update(changed_job, tmp_path / "m.jsonl", progress=computed.append) is True
    assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "scratch.jsonl").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.jsonl", "scratch.jsonl"]
    if not both:  # no frame is computed before the changed object starts
        assert min((item.frame for item in computed), default=None) == first


def test_the_squares_overlap(job, tmp_path):
    """So the tests above include kept objects with flags that a changed object changes."""
    run.run_to_file(job, tmp_path / "m.jsonl")
    by_frame = objects_by_frame(tmp_path / "m.jsonl").values()
    assert any("overlap" in obj.flags for each in by_frame for obj in each.values())


def test_only_the_changed_object_is_tracked(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    changed_job = with_prompts(job, *OLD[:2], OLD[2], point(28, 2), OLD[3])
    plan = plan_update(changed_job, tmp_path / "m.jsonl")
    assert plan.kept_ids == {1, 3} and set(plan.update_job.prompts.labels) == {2}


def test_another_class_is_a_change(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    changed_job = with_prompts(job, *OLD, labels={**LABELS, 3: "raine"})
    run.update(changed_job, tmp_path / "m.jsonl")
    assert objects_by_frame(tmp_path / "m.jsonl")[30][3].label == "raine"


def test_the_same_prompts_are_no_change(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    before = (tmp_path / "m.jsonl").read_bytes()
    assert run.update(job, tmp_path / "m.jsonl") is False
    assert (tmp_path / "m.jsonl").read_bytes() == before


def test_an_update_without_a_file_is_a_run(job, tmp_path):
    assert run.update(job, tmp_path / "m.jsonl") is True
    assert len(list(journal.read(tmp_path / "m.jsonl"))) == 35


def test_a_killed_update_continues_and_keeps_the_old_file_until_its_end(job, tmp_path):
    changed_job = with_prompts(job, *OLD[:2], OLD[2], point(28, 2), OLD[3])
    other_job = with_prompts(job, *OLD[:2], OLD[2], point(29, 2), OLD[3])
    run.run_to_file(changed_job, tmp_path / "scratch.jsonl")
    for interrupted in (
        changed_job,
        other_job,
    ):  # the second: the prompts were changed after the kill
        out = tmp_path / "m.jsonl"
        run.run_to_file(job, out, force=True)
        before = out.read_bytes()

        def kill(item):
            if item.frame == 40:
                raise Killed

        with pytest.raises(Killed):
            run.update(interrupted, out, progress=kill)
        assert out.read_bytes() == before
        computed = []
        run.update(changed_job, out, progress=computed.append)
        assert computed[0].frame == (34 if interrupted is changed_job else 20)
        assert out.read_bytes() == (tmp_path / "scratch.jsonl").read_bytes()
        out.unlink()


def test_objects_that_depend_on_each_other_cannot_be_updated_alone(job, tmp_path):
    job = dataclasses.replace(job, engine=Wanderer())
    run.run_to_file(job, tmp_path / "m.jsonl")
    with pytest.raises(PromptError, match="depend on each other: `force`"):
        run.update(with_prompts(job, *OLD[:3]), tmp_path / "m.jsonl")


def test_an_unfinished_run_cannot_be_updated(job, tmp_path):
    def kill(item):
        raise Killed

    with pytest.raises(Killed):
        run.run_to_file(job, tmp_path / "m.jsonl", progress=kill)
    with pytest.raises(ItemsError, match="has not reached its end"):
        run.update(with_prompts(job, *OLD[:3]), tmp_path / "m.jsonl")


def test_an_update_with_other_settings_is_refused(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    other_job = dataclasses.replace(with_prompts(job, *OLD[:3]), stop=44)
    with pytest.raises(SettingsDiffer, match="stop: 45 in the file, 44 now: only prompts may"):
        run.update(other_job, tmp_path / "m.jsonl")


NETWORKS = {
    "sam2": ("sam2", {"size": 64}, True),
    "transformers": ("transformers", {"size": 256}, False),
    "edgetam": ("transformers timm", {"size": 256}, False),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore")  # the packages' own
def test_a_network_recomputes_only_the_changed_object(demo, tmp_path, name):
    packages, options, both = NETWORKS[name]
    for package in ("torch", *packages.split()):
        pytest.importorskip(package)
    engine = PROPAGATORS.load(name, device="cpu", random_weights=1, **options)
    table = PromptTable((point(19, 1), point(20, 2)), LABELS)
    job = Job(engine, name, demo, table, start=18, stop=26, both_directions=both)
    changed_job = with_prompts(job, point(19, 1), point(20, 2, x=300.0), point(23, 2))
    run.run_to_file(job, tmp_path / "m.jsonl")
    run.run_to_file(changed_job, tmp_path / "scratch.jsonl")
    assert (tmp_path / "m.jsonl").read_bytes() != (tmp_path / "scratch.jsonl").read_bytes()
    computed = []
    assert run.update(changed_job, tmp_path / "m.jsonl", progress=computed.append) is True
    assert {obj.track for item in computed for obj in item.objects} == {2}
    assert {track for item in computed for track in item.lost} <= {2}
    assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "scratch.jsonl").read_bytes()

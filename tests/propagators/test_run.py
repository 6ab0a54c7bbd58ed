"""Runs over a clip, with a test engine each step of which depends on all steps before it."""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest
from wanderer import Killed, PhraseWanderer, Wanderer, objects_by_frame, point

from annotate.errors import (
    BrokenVideo,
    MissingWeights,
    PluginError,
    PromptError,
    SettingsDiffer,
    UnknownName,
)
from annotate.items import journal
from annotate.prompts import PromptTable
from annotate.propagators import run
from annotate.propagators.checkpoint import open_run_files
from annotate.propagators.job import PROPAGATORS, Job
from annotate.video import reader


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 7)


@pytest.fixture
def job(demo):
    prompts = (point(10, 1), point(25, 2), point(30, 1))
    table = PromptTable(prompts, {1: "mech", 2: "raine"})
    return Job(Wanderer(), "wanderer", demo, table, stop=50)


def test_each_object_starts_at_its_own_first_prompt(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    result = objects_by_frame(tmp_path / "m.jsonl")
    assert list(result) == list(range(10, 50))  # frames before the first prompt have no line
    assert min(n for n, objects in result.items() if 2 in objects) == 25
    obj = result[10][1]
    assert obj.label == "mech" and obj.source == "wanderer" and obj.score == 0.5
    assert obj.mask["size"] == [600, 800]


def test_an_object_added_later_changes_nothing_before(job, tmp_path):
    alone = dataclasses.replace(job, prompts=PromptTable((point(10, 1),), {1: "mech"}))
    with_another = PromptTable((point(10, 1), point(25, 2)), {1: "mech", 2: "raine"})
    run.run_to_file(alone, tmp_path / "a.jsonl")
    run.run_to_file(dataclasses.replace(job, prompts=with_another), tmp_path / "b.jsonl")
    a, b = (objects_by_frame(tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    assert all(2 not in b[n] for n in range(10, 25)) and 2 in b[25]
    assert set(a) == set(b)


def test_lost_objects_are_listed(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    for item in journal.read(tmp_path / "m.jsonl"):
        started = {1} | ({2} if item.frame >= 25 else set())
        assert set(item.lost) == started - {o.track for o in item.objects}
    lost = [i.frame for i in journal.read(tmp_path / "m.jsonl") if 1 in i.lost]
    assert lost == [19, 29, 39, 49]


def test_both_directions_reach_the_first_frame(job, tmp_path):
    run.run_to_file(job, tmp_path / "forward.jsonl")
    run.run_to_file(dataclasses.replace(job, both_directions=True), tmp_path / "both.jsonl")
    forward, both = (objects_by_frame(tmp_path / f"{name}.jsonl") for name in ("forward", "both"))
    assert list(both) == list(range(50))
    assert 1 in both[9] and 2 in both[24] and 2 in both[0]
    for n, objects in forward.items():  # the result of the forward pass does not change
        assert {k: v for k, v in both[n].items() if k in objects} == objects
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.jsonl", "forward.jsonl"]


def test_the_backward_pass_steps_backward(job, tmp_path):
    """The square's position on frame 9 depends on frames 10 and 9 alone."""
    both_job = dataclasses.replace(
        job, prompts=PromptTable((point(10, 1),), {1: "mech"}), both_directions=True
    )
    run.run_to_file(both_job, tmp_path / "m.jsonl")
    session = both_job.engine.begin(both_job.prompted_frames())
    session.step(reader.seek(both_job.clip, 10), [point(10, 1)])
    objects = session.step(reader.seek(both_job.clip, 9), [])
    result = objects_by_frame(tmp_path / "m.jsonl")[9][1]
    np.testing.assert_array_equal(result.box, objects.xyxy[0])


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
def test_a_killed_run_continues_to_the_same_bytes(job, tmp_path, both):
    job = dataclasses.replace(job, both_directions=both)
    run.run_to_file(job, tmp_path / "whole.jsonl")
    expected = (tmp_path / "whole.jsonl").read_bytes()
    for after in (1, 3, 7, 8, 20, 27, 41, 60):
        count = 0

        def kill(item, after=after):
            nonlocal count
            count += 1
            if count == after:
                raise Killed

        out = tmp_path / f"cut{after}.jsonl"
        try:
            run.run_to_file(job, out, progress=kill)
        except Killed:
            if out.exists():  # not yet in the backward pass, whose items have a file of their own
                with out.open("ab") as file:
                    file.write(b'{"video": "demo')  # as after a kill in the middle of a line
            computed = []
            run.run_to_file(job, out, progress=computed.append)
            assert computed, "the run did not continue"
        assert out.read_bytes() == expected, f"killed after {after}"
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob("*.backward*"))


def test_a_killed_run_continues_from_its_last_checkpoint(job, tmp_path):
    def kill(item):
        if item.frame == 40:
            raise Killed

    with pytest.raises(Killed):
        run.run_to_file(job, tmp_path / "m.jsonl", progress=kill)
    recomputed = []
    run.run_to_file(job, tmp_path / "m.jsonl", progress=lambda item: recomputed.append(item.frame))
    assert recomputed[0] == 38  # 10 + 4 * 7


def test_a_complete_file_is_not_run_again(job, tmp_path):
    assert run.run_to_file(job, tmp_path / "m.jsonl") is True
    computed = []
    assert run.run_to_file(job, tmp_path / "m.jsonl", progress=computed.append) is False
    assert computed == []


def test_other_prompts_are_refused(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    other_job = dataclasses.replace(job, prompts=PromptTable((point(10, 1, x=101.0),), {1: "mech"}))
    with pytest.raises(SettingsDiffer, match="prompts: "):
        run.run_to_file(other_job, tmp_path / "m.jsonl")
    run.run_to_file(other_job, tmp_path / "m.jsonl", force=True)


def test_an_unreadable_checkpoint_is_ignored(job, tmp_path):
    out = tmp_path / "m.jsonl"
    run.run_to_file(job, tmp_path / "whole.jsonl")
    with open_run_files(out) as run_files:
        run_files.forward_state.write_bytes(b"not an archive")
        run.run_to_file(job, out)
        assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_checkpoint_beyond_the_end_of_the_file_is_ignored(job, tmp_path):
    """As when the file was truncated, or deleted and started again."""

    def kill(item):
        if item.frame == 40:
            raise Killed

    out = tmp_path / "m.jsonl"
    run.run_to_file(job, tmp_path / "whole.jsonl")
    with pytest.raises(Killed):
        run.run_to_file(job, out, progress=kill)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:5]))
    run.run_to_file(job, out)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_prompts_outside_the_range_are_given_but_start_no_object(job, tmp_path):
    range_job = dataclasses.replace(job, start=20, stop=28)
    run.run_to_file(range_job, tmp_path / "m.jsonl")
    result = objects_by_frame(tmp_path / "m.jsonl")
    assert list(result) == [25, 26, 27] and all(set(objects) == {2} for objects in result.values())
    assert [prompted.frame.index for prompted in range_job.prompted_frames()] == [10, 25, 30]


def test_a_range_without_prompts_is_an_error(job, tmp_path):
    with pytest.raises(PromptError, match="no prompt lies between frame 40 and frame 50"):
        run.run_to_file(dataclasses.replace(job, start=40), tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_a_broken_clip_keeps_the_frames_before_the_break(job, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(job.clip.read_bytes()[:400_000])
    out = tmp_path / "m.jsonl"
    with pytest.raises(BrokenVideo):
        run.run_to_file(dataclasses.replace(job, clip=broken, stop=None), out)
    items = list(journal.read(out))
    assert len(items) > 10 and "end" not in json.loads(out.read_text().splitlines()[-1])


def test_an_engine_with_a_phrase_needs_no_prompts(job, tmp_path):
    no_prompts = PromptTable((), {})
    job = dataclasses.replace(
        job, engine=PhraseWanderer(phrase="robot"), prompts=no_prompts, start=10
    )
    run.run_to_file(job, tmp_path / "whole.jsonl")
    result = journal.read(tmp_path / "whole.jsonl")
    assert result.header.vocabulary["labels"] == ["robot"]
    items = {item.frame: item for item in result}
    assert list(items) == list(range(10, 50)) and items[15].objects == ()
    assert {o.track for o in items[34].objects} == {16, 24, 32}
    assert {o.label for o in items[34].objects} == {"robot"}
    assert items[33].lost == (24,) and items[34].lost == ()

    def kill(item):
        if item.frame == 37:
            raise Killed

    with pytest.raises(Killed):
        run.run_to_file(job, tmp_path / "m.jsonl", progress=kill)
    run.run_to_file(job, tmp_path / "m.jsonl")
    assert (tmp_path / "m.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(PromptError, match="with `phrase` objects start as they come"):
        run.run_to_file(dataclasses.replace(job, both_directions=True), tmp_path / "b.jsonl")
    with pytest.raises(PromptError, match="finds objects by a phrase"):
        run.run_to_file(dataclasses.replace(job, engine=PhraseWanderer()), tmp_path / "n.jsonl")


def test_jumps_are_flagged_except_on_prompted_frames(job, tmp_path):
    """A wanderer's position is a hash: it jumps on nearly every frame."""
    run.run_to_file(job, tmp_path / "m.jsonl")
    result = objects_by_frame(tmp_path / "m.jsonl")
    flagged = [n for n, objects in result.items() if 1 in objects and "jump" in objects[1].flags]
    assert len(flagged) > 20 and not {10, 30} & set(flagged)


def test_unknown_engines_and_options_name_the_nearest():
    with pytest.raises(UnknownName, match="no engine 'lihgt'; did you mean 'light'"):
        PROPAGATORS.load("lihgt")
    with pytest.raises(UnknownName, match="no option of light 'fats'; did you mean 'fast'"):
        PROPAGATORS.parse_options("light", {"fats": "1"})


@dataclass(frozen=True)
class WandererWithoutWeights(Wanderer):
    """A wanderer without weights."""

    def ready(self):
        raise MissingWeights("fetch them")


def test_missing_weights_are_an_error_before_a_file_is_written(job, tmp_path):
    with pytest.raises(MissingWeights, match="fetch them"):
        run.run_to_file(
            dataclasses.replace(job, engine=WandererWithoutWeights()), tmp_path / "m.jsonl"
        )
    assert not list(tmp_path.iterdir())


def test_a_slow_engine_saves_checkpoints_by_time(job, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 1000)
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)

    def kill(item):
        if item.frame == 23:
            raise Killed

    with pytest.raises(Killed):
        run.run_to_file(job, tmp_path / "m.jsonl", progress=kill)
    computed = []
    run.run_to_file(job, tmp_path / "m.jsonl", progress=computed.append)
    assert computed[0].frame == 23


def test_an_object_that_nobody_prompted_is_an_error(job, tmp_path):
    class Stray(Wanderer):
        def begin(self, prompted_frames):
            session = super().begin(prompted_frames)
            session.tracked[9] = (0, b"")
            return session

    with pytest.raises(PluginError, match="wanderer: demo.mp4#10: tracker_id 9 is of no prompted"):
        run.run_to_file(dataclasses.replace(job, engine=Stray()), tmp_path / "m.jsonl")
    assert not list(tmp_path.iterdir())


def test_an_engine_that_fails_at_its_start_leaves_no_file(job, tmp_path):
    class Broken(Wanderer):
        def begin(self, prompted_frames):
            raise MissingWeights("nowhere")

    with pytest.raises(MissingWeights):
        run.run_to_file(dataclasses.replace(job, engine=Broken()), tmp_path / "m.jsonl")
    assert not list(tmp_path.iterdir())

"""The pass over a clip, driven by a small engine whose every step depends on all before it."""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np
import pytest
from wanderer import Killed, Wanderer, WandererSession, objects_by_frame, point

from annotate.errors import BrokenVideo, MissingWeights, PromptError, SettingsDiffer, UnknownName
from annotate.items import journal
from annotate.prompts import PromptTable
from annotate.propagators import run
from annotate.propagators.checkpoint import open_run_files
from annotate.propagators.job import PROPAGATORS, Job
from annotate.video import reader


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 7)


@pytest.fixture
def job(demo):
    prompts = (point(10, 1), point(25, 2), point(30, 1))
    table = PromptTable(prompts, {1: "mech", 2: "raine"})
    return Job(Wanderer(), "wanderer", demo, table, stop=50)


def test_each_object_starts_at_its_own_first_prompt(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    there = objects_by_frame(tmp_path / "m.jsonl")
    assert list(there) == list(range(10, 50))  # frame 9 was not looked at: it has no line
    assert min(n for n, found in there.items() if 2 in found) == 25
    mine = there[10][1]
    assert mine.label == "mech" and mine.source == "wanderer" and mine.score == 0.5
    assert mine.mask["size"] == [600, 800]


def test_an_object_added_later_changes_nothing_before(job, tmp_path):
    alone = dataclasses.replace(job, prompts=PromptTable((point(10, 1),), {1: "mech"}))
    with_another = PromptTable((point(10, 1), point(25, 2)), {1: "mech", 2: "raine"})
    run.run_to_file(alone, tmp_path / "a.jsonl")
    run.run_to_file(dataclasses.replace(job, prompts=with_another), tmp_path / "b.jsonl")
    a, b = (objects_by_frame(tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    assert all(2 not in b[n] for n in range(10, 25)) and 2 in b[25]
    assert set(a) == set(b)


def test_a_lost_object_is_said_to_be(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    for item in journal.read(tmp_path / "m.jsonl"):
        started = {1} | ({2} if item.frame >= 25 else set())
        assert set(item.lost) == started - {o.track for o in item.objects}
    lost = [i.frame for i in journal.read(tmp_path / "m.jsonl") if 1 in i.lost]
    assert lost == [19, 29, 39, 49]


def test_both_ways_reaches_back_to_the_beginning(job, tmp_path):
    run.run_to_file(job, tmp_path / "forward.jsonl")
    run.run_to_file(dataclasses.replace(job, both_directions=True), tmp_path / "both.jsonl")
    forward, both = (objects_by_frame(tmp_path / f"{name}.jsonl") for name in ("forward", "both"))
    assert list(both) == list(range(50))
    assert 1 in both[9] and 2 in both[24] and 2 in both[0]
    for n, found in forward.items():  # what the forward pass finds does not change
        assert {k: v for k, v in both[n].items() if k in found} == found
    assert sorted(p.name for p in tmp_path.iterdir()) == ["both.jsonl", "forward.jsonl"]


def test_backward_goes_backward(job, tmp_path):
    """The square's place on frame 9 depends on frames 10 and 9 alone."""
    one = dataclasses.replace(
        job, prompts=PromptTable((point(10, 1),), {1: "mech"}), both_directions=True
    )
    run.run_to_file(one, tmp_path / "m.jsonl")
    session = one.engine.begin(one.prompted_frames())
    session.step(reader.seek(one.clip, 10), [point(10, 1)])
    found = session.step(reader.seek(one.clip, 9), [])
    there = objects_by_frame(tmp_path / "m.jsonl")[9][1]
    np.testing.assert_array_equal(there.box, found.xyxy[0])


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
def test_stopped_anywhere_it_ends_with_the_same_bytes(job, tmp_path, both):
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
            with out.open("ab") as file:
                file.write(b'{"video": "demo')  # what a kill in the middle of a line leaves
            steps = []
            run.run_to_file(job, out, progress=steps.append)
            assert steps, "it went on"
        assert out.read_bytes() == expected, f"killed after {after}"
    assert not list(tmp_path.glob("*.npz")) and not list(tmp_path.glob("*.backward*"))


def test_it_goes_on_from_the_last_checkpoint_not_from_the_start(job, tmp_path):
    def kill(item):
        if item.frame == 40:
            raise Killed

    with pytest.raises(Killed):
        run.run_to_file(job, tmp_path / "m.jsonl", progress=kill)
    again = []
    run.run_to_file(job, tmp_path / "m.jsonl", progress=lambda item: again.append(item.frame))
    assert again[0] == 38  # 10 + 4 * 7


def test_a_complete_file_is_left_alone(job, tmp_path):
    assert run.run_to_file(job, tmp_path / "m.jsonl") is True
    steps = []
    assert run.run_to_file(job, tmp_path / "m.jsonl", progress=steps.append) is False
    assert steps == []


def test_other_prompts_are_refused(job, tmp_path):
    run.run_to_file(job, tmp_path / "m.jsonl")
    other = dataclasses.replace(job, prompts=PromptTable((point(10, 1, x=101.0),), {1: "mech"}))
    with pytest.raises(SettingsDiffer, match="prompts: "):
        run.run_to_file(other, tmp_path / "m.jsonl")
    run.run_to_file(other, tmp_path / "m.jsonl", force=True)


def test_a_stale_checkpoint_is_not_believed(job, tmp_path):
    out = tmp_path / "m.jsonl"
    run.run_to_file(job, tmp_path / "whole.jsonl")
    with open_run_files(out) as run_files:
        run_files.forward_state.write_bytes(b"not an archive")
        run.run_to_file(job, out)
        assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_checkpoint_from_beyond_the_files_end_is_not_believed(job, tmp_path):
    """As when the file was cut back, or lost and begun anew."""

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


def test_prompts_outside_the_range_teach_but_start_nothing(job, tmp_path):
    later = dataclasses.replace(job, start=20, stop=28)
    run.run_to_file(later, tmp_path / "m.jsonl")
    there = objects_by_frame(tmp_path / "m.jsonl")
    assert list(there) == [25, 26, 27] and all(set(found) == {2} for found in there.values())
    assert [prompted.frame.index for prompted in later.prompted_frames()] == [10, 25, 30]


def test_nothing_to_start_with(job, tmp_path):
    with pytest.raises(PromptError, match="no prompt lies between frame 40 and frame 50"):
        run.run_to_file(dataclasses.replace(job, start=40), tmp_path / "m.jsonl")
    assert not (tmp_path / "m.jsonl").exists()


def test_a_clip_that_breaks_leaves_what_was_had(job, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(job.clip.read_bytes()[:400_000])
    out = tmp_path / "m.jsonl"
    with pytest.raises(BrokenVideo):
        run.run_to_file(dataclasses.replace(job, clip=broken, stop=None), out)
    items = list(journal.read(out))
    assert len(items) > 10 and "end" not in json.loads(out.read_text().splitlines()[-1])


@dataclass(frozen=True)
class Finder(Wanderer):
    """Needs no prompts: it finds a thing of its phrase on every eighth frame."""

    phrase: str = ""

    def begin(self, prompted_frames):
        return FinderSession(self.side, [])


class FinderSession(WandererSession):
    def step(self, frame, prompts):
        fresh = [] if frame.index % 8 else [point(frame.index, frame.index)]
        return super().step(frame, fresh)


def test_an_engine_with_a_phrase_needs_no_prompts(job, tmp_path):
    nothing = PromptTable((), {})
    job = dataclasses.replace(job, engine=Finder(phrase="robot"), prompts=nothing, start=10)
    run.run_to_file(job, tmp_path / "whole.jsonl")
    there = journal.read(tmp_path / "whole.jsonl")
    assert there.header.vocabulary["labels"] == ["robot"]
    items = {item.frame: item for item in there}
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
        run.run_to_file(dataclasses.replace(job, engine=Finder()), tmp_path / "n.jsonl")


def test_masks_that_leap_are_flagged_but_not_where_they_were_prompted(job, tmp_path):
    """A wanderer's place is a hash: it leaps on nearly every frame."""
    run.run_to_file(job, tmp_path / "m.jsonl")
    there = objects_by_frame(tmp_path / "m.jsonl")
    flagged = [n for n, found in there.items() if 1 in found and "jump" in found[1].flags]
    assert len(flagged) > 20 and not {10, 30} & set(flagged)


def test_unknown_engines_and_options_name_the_nearest():
    with pytest.raises(UnknownName, match="no engine 'lihgt'; did you mean 'light'"):
        PROPAGATORS.load("lihgt")
    with pytest.raises(UnknownName, match="no option of light 'fats'; did you mean 'fast'"):
        PROPAGATORS.parse_options("light", {"fats": "1"})


@dataclass(frozen=True)
class Penniless(Wanderer):
    """Has no weights."""

    def ready(self):
        raise MissingWeights("fetch them")


def test_what_an_engine_lacks_is_said_before_a_file_is_begun(job, tmp_path):
    with pytest.raises(MissingWeights, match="fetch them"):
        run.run_to_file(dataclasses.replace(job, engine=Penniless()), tmp_path / "m.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_slow_engine_keeps_its_state_by_the_clock(job, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 1000)
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)

    def kill(item):
        if item.frame == 23:
            raise Killed

    with pytest.raises(Killed):
        run.run_to_file(job, tmp_path / "m.jsonl", progress=kill)
    steps = []
    run.run_to_file(job, tmp_path / "m.jsonl", progress=steps.append)
    assert steps[0].frame == 23

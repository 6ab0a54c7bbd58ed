"""Interactive sessions: whatever is clicked, stopped and undone, the file is that of a new run."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from wanderer import IndependentWanderer, Killed, PhraseWanderer, Wanderer, WandererSession, point

from annotate.errors import PromptError
from annotate.items.records import Prompt
from annotate.prompts import PromptTable
from annotate.propagators import run
from annotate.propagators.interactive import InteractiveSession, Span
from annotate.propagators.job import PROPAGATORS, Job
from annotate.propagators.lanes import LaneKey, StateCache
from annotate.testing.contracts import sample_frames
from annotate.video import reader

LABELS = {1: "mech", 2: "raine", 3: "mech"}
START, STOP = 2, 20


@dataclass(frozen=True)
class CausalWanderer(Wanderer):
    """A wanderer that does not know the prompts of later frames."""

    causal: ClassVar[bool] = True

    def begin(self, prompted_frames):
        return WandererSession(self.side, [])


@dataclass(frozen=True)
class IndependentCausalWanderer(IndependentWanderer):
    """A wanderer as the engines of the SAM 2 family are."""

    causal: ClassVar[bool] = True


class ForgetfulSession(WandererSession):
    """A session that can stop an object, and preview without a step."""

    def forget(self, object_ids):
        for object_id in object_ids:
            self.tracked.pop(object_id, None)

    def preview(self, frame, prompts):
        before = dict(self.tracked)
        detections = self.step(frame, prompts)
        self.tracked = before
        return detections


@dataclass(frozen=True)
class ForgetfulWanderer(IndependentCausalWanderer):
    """A causal, independent wanderer with all optional members."""

    forgets: ClassVar[bool] = True
    previews: ClassVar[bool] = True

    def begin(self, prompted_frames):
        return ForgetfulSession(self.side, [])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Pictures of one colour each, and large enough for every position of a wanderer."""
    folder = tmp_path_factory.mktemp("clip")
    for n in range(STOP + 2):
        picture = np.full((270, 270, 3), (5 * n, 200, 255 - n), np.uint8)
        Image.fromarray(picture).save(folder / f"{n:03}.png")
    return folder


WANDERERS = (
    Wanderer,
    IndependentWanderer,
    CausalWanderer,
    IndependentCausalWanderer,
    ForgetfulWanderer,
)


def table(*prompts):
    ordered = sorted(prompts, key=lambda prompt: (prompt.frame, prompt.object_id))
    return PromptTable(tuple(ordered), {p.object_id: LABELS[p.object_id] for p in ordered})


def make_job(engine, clip, *prompts, both=True):
    return Job(engine, "wanderer", clip, table(*prompts), START, STOP, both)


def assert_saved_as_a_new_run(session, tmp_path):
    session.save(tmp_path / "session.jsonl")
    run.run_to_file(session.job, tmp_path / "run.jsonl", force=True)
    assert (tmp_path / "session.jsonl").read_bytes() == (tmp_path / "run.jsonl").read_bytes()


def change(prompts, random):
    """Add, move or remove a prompt at random; object 1 always has a positive one."""
    prompts = dict(prompts)
    frame, object_id = int(random.integers(START, STOP)), int(random.integers(1, 4))
    kind = random.choice(["point", "point", "gone", "remove"])
    if kind == "remove" and prompts:
        prompts.pop(sorted(prompts)[int(random.integers(len(prompts)))])
    elif kind == "gone":
        prompts[frame, object_id] = Prompt(frame, object_id, gone=True)
    else:
        prompts[frame, object_id] = point(frame, object_id, x=float(random.integers(90)))
    if (7, 1) not in prompts or prompts[7, 1].gone:
        prompts[7, 1] = point(7, 1)
    return prompts


def do_something(session, frames, random):
    """Track a little, preview a click, or prepare for one."""
    kind = random.choice(["run", "run", "preview", "prepare"])
    frame = int(random.integers(START, STOP))
    if kind == "run":
        start = None if random.random() < 0.5 else frame
        ids = None if random.random() < 0.5 else {1, int(random.integers(1, 4))}
        both = session.job.both_directions
        direction = str(random.choice(["forward", "backward", "both"])) if both else "forward"
        steps = session.run(ids, start, direction)
        for _ in zip(range(int(random.integers(1, 15))), steps, strict=False):
            pass
        steps.close()
    elif kind == "preview":
        session.preview(frames[frame], [point(frame, int(random.integers(1, 4)))])
    else:
        session.prepare(frame)


@pytest.mark.parametrize("both", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("engine", WANDERERS, ids=lambda engine: engine.__name__)
def test_any_session_ends_with_the_bytes_of_a_run(clip, tmp_path, engine, both):
    """Each mask of a wanderer depends on all steps and prompts that led to it."""
    frames = [None, None, *reader.frames(clip, start=START)]
    for seed in range(3):
        random = np.random.default_rng(seed)
        prompts = {(7, 1): point(7, 1)}
        job = make_job(engine(), clip, *prompts.values(), both=both)
        # so few bytes that states must be dropped
        session = InteractiveSession(job, state_interval=4, state_bytes=300)
        for _ in range(4):
            for _ in range(int(random.integers(1, 5))):
                if random.random() < 0.4:
                    prompts = change(prompts, random)
                    session.set_prompts(table(*prompts.values()))
                do_something(session, frames, random)
            assert_saved_as_a_new_run(session, tmp_path)
        session.close()


def test_a_run_is_continued_where_it_was_stopped(clip, tmp_path):
    session = InteractiveSession(make_job(Wanderer(), clip, point(10, 1), both=False))
    seen = []
    for tracked in session.run():
        seen.append(tracked.item.frame)
        assert tracked.exact and [obj.track for obj in tracked.item.objects] == [1]
        if tracked.item.frame == 14:
            break
    assert seen == [10, 11, 12, 13, 14]
    assert next(session.run()).item.frame == 15
    assert session.spans(1) == [
        Span(2, 9, "missing"),
        Span(10, 15, "exact"),
        Span(16, 19, "missing"),
    ]


def test_only_what_a_change_can_affect_is_run_again(clip):
    def recomputed(engine, *prompts):
        job = make_job(engine, clip, point(10, 1), point(12, 2), both=False)
        session = InteractiveSession(job, state_interval=4)
        list(session.run())
        session.set_prompts(table(*prompts))
        made = list(session.run())
        assert all(tracked.exact for tracked in made)
        return [
            (tracked.item.frame, {obj.track for obj in tracked.item.objects} | {*tracked.item.lost})
            for tracked in made
        ]

    changed = point(10, 1), point(12, 2), point(16, 2)
    assert recomputed(IndependentCausalWanderer(), *changed) == [(n, {2}) for n in range(16, 20)]
    assert recomputed(CausalWanderer(), *changed) == [(n, {1, 2}) for n in range(16, 20)]
    from_start = recomputed(Wanderer(), *changed)
    assert [n for n, _ in from_start] == list(range(10, 20))
    [*_, (last, ids)] = recomputed(IndependentWanderer(), *changed)
    assert last == 19 and ids == {2}
    assert recomputed(Wanderer(), point(10, 1), point(12, 2)) == []


def test_another_class_changes_no_mask_and_runs_nothing(clip, tmp_path):
    session = InteractiveSession(make_job(Wanderer(), clip, point(10, 1)))
    session.save(tmp_path / "session.jsonl")
    session.set_prompts(PromptTable((point(10, 1),), {1: "raine"}))
    assert list(session.run(direction="both")) == []
    assert_saved_as_a_new_run(session, tmp_path)


def test_a_run_from_a_frame_is_provisional_until_the_frames_before_are_known(clip):
    session = InteractiveSession(
        make_job(Wanderer(), clip, point(10, 1), both=False), state_interval=4
    )
    list(session.run())
    session.set_prompts(table(point(10, 1), point(15, 1)))
    made = list(session.run(start=15))
    assert [tracked.item.frame for tracked in made] == list(range(15, 20))
    assert not any(tracked.exact for tracked in made)
    statuses = {span.status: (span.first, span.last) for span in session.spans(1)}
    assert statuses["stale"] == (10, 14) and "provisional" in statuses
    assert [tracked.exact for tracked in session.run()] == [True] * 10
    assert {span.status for span in session.spans(1)} == {"missing", "exact", "lost"}


def test_a_change_ends_a_run(clip):
    session = InteractiveSession(make_job(CausalWanderer(), clip, point(10, 1), both=False))
    steps = session.run()
    assert next(steps).item.frame == 10 and next(steps).item.frame == 11
    session.set_prompts(table(point(10, 1), point(15, 2)))
    assert list(steps) == []
    assert next(session.run()).item.frame == 12


@pytest.mark.parametrize("engine", WANDERERS, ids=lambda engine: engine.__name__)
def test_a_preview_is_the_mask_of_the_step_and_changes_nothing(clip, tmp_path, engine):
    [*frames] = reader.frames(clip, start=START, stop=STOP)
    session = InteractiveSession(
        make_job(engine(), clip, point(10, 1), both=False), state_interval=4
    )
    list(session.run())
    click = point(14, 1)
    before = list(session.items())
    previews = [session.preview(frames[14 - START], [click]) for _ in range(2)]
    np.testing.assert_array_equal(previews[0].mask, previews[1].mask)
    assert previews[0].tracker_id.tolist() == [1]
    assert list(session.items()) == before
    session.set_prompts(table(point(10, 1), click))
    tracked = next(session.run(start=14))
    if optional := tracked.item.objects:
        np.testing.assert_array_equal(previews[0].xyxy[0], optional[0].box)
    assert_saved_as_a_new_run(session, tmp_path)


def test_a_preview_needs_no_prompts_and_sees_an_object_return(clip):
    [*frames] = reader.frames(clip, start=START, stop=STOP)
    session = InteractiveSession(make_job(Wanderer(), clip, both=False))
    assert session.preview(frames[10 - START], [point(10, 3)]).tracker_id.tolist() == [3]
    assert len(session.preview(frames[10 - START], [Prompt(10, 3, gone=True)])) == 0
    assert list(session.run()) == list(session.items()) == []
    session.set_prompts(table(point(10, 1), Prompt(14, 1, gone=True)))
    list(session.run())
    assert session.spans(1)[-1] == Span(14, 19, "gone")
    assert session.preview(frames[18 - START], [point(18, 1)]).tracker_id.tolist() == [1]


def test_an_object_that_is_only_known_to_be_gone_is_left_out(clip):
    session = InteractiveSession(make_job(Wanderer(), clip, Prompt(10, 2, gone=True), point(12, 1)))
    assert set(session.job.prompts.labels) == {1}
    with pytest.raises(PromptError, match="no prompt lies between"):
        InteractiveSession(make_job(Wanderer(), clip, Prompt(10, 2, gone=True))).save("m.jsonl")


def test_an_engine_without_prompts_and_a_direction_that_is_not_tracked_are_refused(clip):
    with pytest.raises(PromptError, match="takes prompts only"):
        InteractiveSession(make_job(PhraseWanderer(phrase="robot"), clip))
    session = InteractiveSession(make_job(Wanderer(), clip, point(10, 1), both=False))
    with pytest.raises(PromptError, match="forward only: give it `both_directions`"):
        next(session.run(direction="backward"))


def test_a_failed_step_leaves_what_was_done_and_is_tried_again(clip, tmp_path, monkeypatch):
    job = make_job(IndependentCausalWanderer(), clip, point(10, 1), point(12, 2))
    session = InteractiveSession(job, state_interval=4)
    step = WandererSession.step

    def fail_on_frame_15(self, frame, prompts):
        detections = step(self, frame, prompts)
        if frame.index == 15:
            raise Killed
        return detections

    monkeypatch.setattr(WandererSession, "step", fail_on_frame_15)
    with pytest.raises(Killed):
        list(session.run())
    assert [item.frame for item in session.items()] == list(range(2, 15))
    monkeypatch.undo()
    assert_saved_as_a_new_run(session, tmp_path)


def test_kept_states_take_no_more_than_their_bytes():
    states, key = StateCache(3000), LaneKey(None, False)
    for frame in range(10):
        states.put(key, frame, {"a": np.full(125, frame, float)})
        if frame > 1:
            states.get(key, 0)
    assert states.nbytes == 3000
    assert set(states.frames(key)) == {0, 8, 9}
    assert states.get(key, 8)["a"][0] == 8


def test_a_state_is_copied():
    states, array = StateCache(1 << 20), np.zeros(3)
    states.put(LaneKey(1, False), 5, {"a": array})
    array[:] = 1
    assert not states.get(LaneKey(1, False), 5)["a"].any()


@pytest.mark.filterwarnings("ignore")  # the package's own
def test_sam2_ends_with_the_bytes_of_a_run(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sam2")
    options = {"size": 64, "device": "cpu", "random_weights": 1}
    assert_real_engine_replays(tmp_path, PROPAGATORS.load("sam2", **options))


def test_light_ends_with_the_bytes_of_a_run(tmp_path):
    assert_real_engine_replays(tmp_path, PROPAGATORS.load("light", fast=True, threads=1))


def assert_real_engine_replays(tmp_path, engine):
    folder, first = tmp_path / "clip", (point(1, 1, 56.0, 52.0), point(2, 2, 120.0, 90.0))
    folder.mkdir()
    frames = sample_frames(6)
    for frame in frames:
        Image.fromarray(frame.image).save(folder / f"{frame.index}.png")
    session = InteractiveSession(Job(engine, "engine", folder, table(*first)), state_interval=2)
    for _ in zip(range(3), session.run(), strict=False):
        pass
    click = point(4, 1, 60.0, 50.0)
    assert session.preview(frames[4], [click]).tracker_id.tolist() == [1]
    session.set_prompts(table(*first, click, Prompt(4, 2, gone=True)))
    assert not next(session.run(start=5)).exact
    assert_saved_as_a_new_run(session, tmp_path)


def test_a_state_of_earlier_prompts_is_never_taken_for_an_exact_one(clip, tmp_path):
    first, late, early, later = point(2, 1), point(15, 1), point(4, 1, x=9.0), point(11, 1)
    job = make_job(CausalWanderer(), clip, first, both=False)
    session = InteractiveSession(job, state_interval=100)
    for changed, last in (((late,), 7), ((late, early), None), ((late, early, later), 11)):
        for tracked in session.run():
            if tracked.item.frame == last:
                break
        session.set_prompts(table(first, *changed))
    assert_saved_as_a_new_run(session, tmp_path)

"""Boxes as prompts: the rules, then whole runs with a test engine with masks that stand still."""

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import supervision as sv
from wanderer import Killed, Wanderer, objects_by_frame, point

from annotate.errors import ItemsError, PromptError, SettingsDiffer
from annotate.items import journal
from annotate.items.records import Header, Item, Object
from annotate.prompts import PromptTable
from annotate.propagators import boxes as propagators_boxes
from annotate.propagators import run
from annotate.propagators.boxes import BoxAssociator
from annotate.propagators.job import Job
from annotate.video import reader

SIZE_WH = (800, 600)
HOME = (100.0, 100.0, 140.0, 140.0)


def moved_box(x, y=0.0, box=HOME, side=1.0):
    x1, y1, x2, y2 = box
    return x1 + x, y1 + y, x1 + x + side * (x2 - x1), y1 + y + side * (y2 - y1)


def mech(box, score=0.9, track=None, label="mech"):
    return Object(label, box, score, track)


def make_items(by_frame):
    return [
        Item("demo.mp4", n, Fraction(n, 35), *SIZE_WH, tuple(detections))
        for n, detections in by_frame.items()
    ]


@pytest.fixture
def make_boxes(tmp_path, demo):
    """Write frame -> objects as a file of items of the demo clip, and read it as boxes."""

    def write(by_frame, min_score=0.25, name="boxes.jsonl"):
        header = Header("detect", videos=reader.header_entry(reader.probe(demo)))
        journal.write(tmp_path / name, header, make_items(by_frame))
        return propagators_boxes.read(tmp_path / name, reader.probe(demo), min_score)

    return write


@pytest.fixture
def associator(make_boxes):
    """Make an associator with object 1, a mech at HOME since frame 0, and prompted object 7."""
    boxes = make_boxes({0: [mech(HOME)]})
    associator = BoxAssociator(boxes, {7: "raine"})
    [first] = associator.make_prompts(0, [mech(HOME)], {}, ())
    assert (first.object_id, first.frame, first.box) == (1, 0, HOME)
    associator.record(0, {1: HOME})
    return associator


def object_ids(prompts):
    return [prompt.object_id for prompt in prompts]


def test_a_box_on_a_visible_track_makes_no_prompt(associator):
    assert associator.make_prompts(1, [mech(moved_box(5))], {1: HOME}, ()) == []


@pytest.mark.parametrize("x, started", [(21, []), (22, [2])], ids=["IoU 0.31", "IoU 0.29"])
def test_a_box_matches_a_track_from_an_iou_of_0_3(associator, x, started):
    assert object_ids(associator.make_prompts(1, [mech(moved_box(x))], {1: HOME}, ())) == started


def test_a_box_of_another_class_starts_a_new_object(associator):
    assert object_ids(associator.make_prompts(1, [mech(HOME, label="raine")], {1: HOME}, ())) == [2]
    assert associator.labels == {1: "mech", 2: "raine"}


def test_an_object_without_a_class_matches_any_box(make_boxes):
    associator = BoxAssociator(make_boxes({0: []}), {7: "object"})
    associator.record(0, {7: HOME})
    assert associator.make_prompts(1, [mech(HOME)], {7: HOME}, ()) == []


def test_a_new_detection_repairs_a_lost_track(associator):
    [prompt] = associator.make_prompts(4, [mech(moved_box(70))], {}, ())
    assert prompt.object_id == 1 and prompt.box == moved_box(70)


@pytest.mark.parametrize(
    "frame, box, label",
    [
        (4, moved_box(90), "mech"),  # a track moves 40 + 4 * 10 pixels at most
        (4, HOME, "raine"),
        (4, moved_box(0, side=2.1), "mech"),
        (4, moved_box(0, side=0.4), "mech"),
        (61, HOME, "mech"),
    ],
    ids=["too far", "another class", "much larger", "much smaller", "long ago"],
)
def test_a_box_that_cannot_be_the_lost_track_starts_a_new_object(associator, frame, box, label):
    assert object_ids(associator.make_prompts(frame, [mech(box, label=label)], {}, ())) == [2]


def test_the_nearest_lost_track_is_repaired(associator):
    far = moved_box(80)
    associator.make_prompts(1, [mech(far)], {1: HOME}, ())
    associator.record(1, {1: HOME, 2: far})
    assert object_ids(associator.make_prompts(3, [mech(moved_box(60))], {}, ())) == [2]
    assert object_ids(
        associator.make_prompts(3, [mech(moved_box(30)), mech(moved_box(90))], {}, ())
    ) == [1, 2]


def test_a_visible_track_that_no_box_matched_for_frames_is_repaired(associator):
    shifted = moved_box(41)
    for frame in range(1, 3):  # no detection on these frames
        assert associator.make_prompts(frame, [], {1: HOME}, ()) == []
        associator.record(frame, {1: HOME})
    assert object_ids(associator.make_prompts(3, [mech(shifted)], {1: HOME}, ())) == [1]


def test_a_confirmed_track_is_left_where_it_is(associator):
    for frame in range(1, 10):
        assert associator.make_prompts(frame, [mech(HOME)], {1: HOME}, ()) == []
        associator.record(frame, {1: HOME})
    assert object_ids(
        associator.make_prompts(10, [mech(HOME), mech(moved_box(41))], {1: HOME}, ())
    ) == [2]


@pytest.mark.parametrize(
    "mask",
    [moved_box(5, 5, side=0.4), moved_box(-40, -40, side=3.0), moved_box(30, side=0.5)],
    ids=["a part", "too much", "a part, half beside it"],
)
def test_a_mask_inside_the_box_or_around_it_is_repaired(associator, mask):
    associator.record(1, {1: mask})
    assert object_ids(associator.make_prompts(2, [mech(HOME)], {1: mask}, ())) == [1]


def test_a_mask_mostly_beside_the_box_is_not_repaired(associator):
    assert object_ids(
        associator.make_prompts(2, [mech(HOME)], {1: moved_box(31, side=0.5)}, ())
    ) == [2]


def test_a_lost_track_is_also_matched_at_its_last_detection(associator):
    """The mask shrank to a dot in the corner before it was lost; the last box was right."""
    associator.make_prompts(3, [mech(HOME)], {1: HOME}, ())
    associator.record(4, {1: moved_box(-90, side=0.1)})
    assert object_ids(associator.make_prompts(6, [mech(moved_box(10))], {}, ())) == [1]


def test_a_duplicate_box_starts_nothing(associator):
    duplicates = [mech(moved_box(200)), mech(moved_box(205), 0.8)]
    assert object_ids(associator.make_prompts(1, duplicates, {1: HOME}, ())) == [2]
    assert (
        object_ids(associator.make_prompts(2, [mech(HOME), mech(moved_box(4), 0.8)], {1: HOME}, ()))
        == []
    )


def test_two_close_boxes_are_two_objects(associator):
    assert object_ids(
        associator.make_prompts(1, [mech(HOME), mech(moved_box(20))], {1: HOME}, ())
    ) == [2]


def test_ids_are_unique(make_boxes):
    associator = BoxAssociator(make_boxes({0: [mech(HOME, track=2)]}), {1: "mech", 3: "mech"})
    assert object_ids(associator.make_prompts(0, [mech(HOME), mech(moved_box(100))], {}, ())) == [
        4,
        5,
    ]


def test_a_box_with_a_track_id_belongs_to_that_object(make_boxes):
    associator = BoxAssociator(make_boxes({0: [mech(HOME, track=2)]}), {})
    assert object_ids(associator.make_prompts(0, [mech(HOME, track=2)], {}, ())) == [2]
    associator.record(0, {2: HOME})
    assert associator.make_prompts(1, [mech(HOME, track=2)], {2: HOME}, ()) == []
    assert object_ids(
        associator.make_prompts(2, [mech(moved_box(400), track=2)], {2: HOME}, ())
    ) == [2]
    assert object_ids(
        associator.make_prompts(3, [mech(moved_box(400), track=9)], {2: moved_box(400)}, ())
    ) == [9]


def test_a_prompted_object_gets_no_box_prompt(associator):
    box = moved_box(0, 200)
    assert (
        object_ids(associator.make_prompts(1, [mech(box, track=7)], {7: HOME}, prompted_ids={7}))
        == []
    )


def test_an_associator_continues_from_its_state(make_boxes):
    random = np.random.default_rng(3)
    boxes = make_boxes({0: []})
    labels = ["mech", "raine"]
    detections = [
        [mech(moved_box(*random.uniform(0, 300, 2)), label=labels[n % 2]) for n in range(3)]
        for _ in range(20)
    ]

    def associate(associator, first, end):
        made_ids = []
        for frame in range(first, end):
            alive = {n: t for n, t in tracks.items() if n % 3 != frame % 3}
            prompts_made = associator.make_prompts(frame, detections[frame], alive, ())
            tracks.update({prompt.object_id: prompt.box for prompt in prompts_made})
            associator.record(frame, alive)
            made_ids += object_ids(prompts_made)
        return made_ids

    tracks = {}
    expected = associate(BoxAssociator(boxes, {}), 0, 20)
    for end in (0, 5, 13):
        tracks = {}
        before, after = BoxAssociator(boxes, {}), BoxAssociator(boxes, {})
        made_ids = associate(before, 0, end)
        after.restore(before.state())
        assert made_ids + associate(after, end, 20) == expected
        assert after.labels.keys() >= before.labels.keys()


@dataclass(frozen=True)
class StaticEngine:
    """An engine for tests: the mask is the last prompted box, for `lives` frames."""

    lives: int = 6

    def begin(self, prompted_frames):
        return StaticSession(self.lives)


class StaticSession:
    def __init__(self, lives):
        self.lives, self.boxes_by_id = lives, {}

    def step(self, frame, prompts):
        for box_and_age in self.boxes_by_id.values():
            box_and_age[4] += 1
        for prompt in prompts:
            x, y = (0, 0) if prompt.box is not None else prompt.points_xy[0]
            box = prompt.box or (x - 20, y - 20, x + 20, y + 20)
            self.boxes_by_id[prompt.object_id] = np.array([*box, 0])
        alive = {
            object_id: box_and_age
            for object_id, box_and_age in self.boxes_by_id.items()
            if box_and_age[4] < self.lives
        }
        masks = np.zeros((len(alive), *frame.image.shape[:2]), bool)
        for mask, box_and_age in zip(masks, alive.values(), strict=True):
            x1, y1, x2, y2 = box_and_age[:4].round().astype(int)
            mask[y1:y2, x1:x2] = True
        boxes = np.array([box_and_age[:4] for box_and_age in alive.values()]).reshape(-1, 4)
        return sv.Detections(
            boxes,
            mask=masks,
            confidence=np.full(len(alive), 0.5),
            tracker_id=np.array([*alive], int),
        )

    def state(self):
        boxes_by_id = np.array(list(self.boxes_by_id.values())).reshape(-1, 5)
        return {"ids": np.array(list(self.boxes_by_id), int), "places": boxes_by_id}

    def restore(self, state):
        self.boxes_by_id = dict(zip(state["ids"].tolist(), state["places"].copy(), strict=True))


@pytest.fixture(autouse=True)
def frequent_checkpoints(monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_EVERY", 7)


def a_job(demo, boxes, engine=None, prompts=(), labels=None, **more):
    table = PromptTable(tuple(prompts), labels or {})
    return Job(engine or StaticEngine(), "sitter", demo, table, boxes=boxes, **more)


WALK = {n: [mech(moved_box(2 * n))] for n in range(5, 40, 4)}  # detections on every fourth frame


def test_boxes_start_confirm_and_repair(demo, make_boxes, tmp_path):
    """The mech is confirmed on frame 9, lost and without a detection on 13, repaired on 17."""
    other = mech(moved_box(0, 300), label="raine")
    boxes = make_boxes({**WALK, 13: [], 17: [mech(moved_box(34)), other]})
    run.run_to_file(a_job(demo, boxes, stop=40), tmp_path / "m.jsonl")
    result = objects_by_frame(tmp_path / "m.jsonl")
    assert list(result) == list(range(5, 40))
    assert {object_id for detections in result.values() for object_id in detections} == {1, 2}
    assert result[5][1].box == result[9][1].box == moved_box(10) and result[17][1].box == moved_box(
        34
    )
    assert result[17][2].label == "raine" and 2 not in result[16]
    lost = {item.frame: item.lost for item in journal.read(tmp_path / "m.jsonl")}
    assert lost[10] == () and lost[11] == lost[13] == lost[16] == (1,) and lost[17] == ()


def test_an_unconfirmed_object_is_left_out(demo, make_boxes, tmp_path):
    """On frames 1 to 29 there is no detection; the object of the click stays."""
    boxes = make_boxes({0: [mech(HOME)], **{n: [] for n in range(1, 20)}, 30: [mech(HOME)]})
    click = point(0, 4, x=300.0, y=300.0)
    job = a_job(demo, boxes, StaticEngine(lives=99), [click], {4: "mech"}, stop=33)
    run.run_to_file(job, tmp_path / "m.jsonl")
    result = objects_by_frame(tmp_path / "m.jsonl")
    assert [n for n, detections in result.items() if 1 in detections] == [*range(10), 30, 31, 32]
    assert all(4 in detections for detections in result.values())
    assert {item.lost for item in journal.read(tmp_path / "m.jsonl")} == {(), (1,)}


def test_boxes_below_the_minimum_score_are_ignored(demo, make_boxes, tmp_path):
    weak = {3: [mech(HOME, 0.24)], 8: [mech(HOME, 0.25)], 9: [mech(moved_box(200), None)]}
    run.run_to_file(a_job(demo, make_boxes(weak), stop=12), tmp_path / "m.jsonl")
    result = objects_by_frame(tmp_path / "m.jsonl")
    assert list(result) == [8, 9, 10, 11] and set(result[9]) == {1, 2}
    with pytest.raises(PromptError, match="no prompt and no box lies between frame 0 and frame 9"):
        run.run_to_file(a_job(demo, make_boxes(weak, 0.95), stop=9), tmp_path / "n.jsonl")


def test_points_and_boxes_together(demo, make_boxes, tmp_path):
    click = point(6, 4, x=120 + 18.0, y=120.0)  # the position of the box on frame 9
    job = a_job(demo, make_boxes(WALK), prompts=[click], labels={4: "mech"}, stop=30)
    run.run_to_file(job, tmp_path / "m.jsonl")
    result = objects_by_frame(tmp_path / "m.jsonl")
    assert set(result[6]) == {1, 4}  # started by a box on frame 5, and by the click
    assert result[9][4].box == (118, 100, 158, 140)  # confirmed by the box, and not moved to it


@pytest.mark.parametrize("engine", [StaticEngine(), Wanderer()], ids=["static", "wanderer"])
def test_a_killed_run_continues_to_the_same_bytes(demo, make_boxes, tmp_path, engine):
    """The wanderer is never inside the boxes, so that each box is a prompt."""
    boxes = make_boxes(
        {n: [mech(moved_box(10 * n)), mech(moved_box(0, 9 * n))] for n in range(5, 40, 3)}
    )
    job = a_job(demo, boxes, engine, [point(8, 1)], {1: "raine"}, stop=44)
    run.run_to_file(job, tmp_path / "whole.jsonl")
    expected = (tmp_path / "whole.jsonl").read_bytes()
    detections = objects_by_frame(tmp_path / "whole.jsonl").values()
    assert {object_id for each in detections for object_id in each} >= {1, 2}
    for after in (1, 7, 8, 20, 29):
        left = iter(range(after))

        def kill(item, left=left):
            if next(left, None) is None:
                raise Killed

        out = tmp_path / f"cut{after}.jsonl"
        with pytest.raises(Killed):
            run.run_to_file(job, out, progress=kill)
        run.run_to_file(job, out)
        assert out.read_bytes() == expected, f"killed after {after}"


def test_a_step_that_is_repeated_with_prompts_has_no_effect_on_other_objects(
    demo, make_boxes, tmp_path
):
    """A wanderer's position is a hash of all its steps: one step too many would move it."""
    click, boxes = (
        point(8, 1),
        make_boxes({n: [mech(moved_box(10 * n, 300))] for n in range(9, 14)}),
    )
    for name, given in (("alone", None), ("beside", boxes)):
        job = a_job(demo, given, Wanderer(), [click], {1: "raine"}, stop=20)
        run.run_to_file(job, tmp_path / f"{name}.jsonl")
    alone, beside = (objects_by_frame(tmp_path / f"{n}.jsonl") for n in ("alone", "beside"))
    assert any(len(detections) > 1 for detections in beside.values())
    assert {n: detections[1].box for n, detections in beside.items() if 1 in detections} == {
        n: detections[1].box for n, detections in alone.items() if 1 in detections
    }


def test_a_run_with_other_boxes_is_refused(demo, make_boxes, tmp_path):
    run.run_to_file(a_job(demo, make_boxes(WALK), stop=20), tmp_path / "m.jsonl")
    less = dict(list(WALK.items())[:-1])
    with pytest.raises(SettingsDiffer, match="boxes: "):
        run.run_to_file(a_job(demo, make_boxes(less), stop=20), tmp_path / "m.jsonl")
    with pytest.raises(SettingsDiffer, match=r"least: 0.25 in the file, 0.5 now"):
        run.run_to_file(a_job(demo, make_boxes(WALK, 0.5), stop=20), tmp_path / "m.jsonl")


def test_boxes_in_both_directions_are_an_error(demo, make_boxes, tmp_path):
    with pytest.raises(PromptError, match="with `boxes` objects start as they come"):
        run.run_to_file(a_job(demo, make_boxes(WALK), both_directions=True), tmp_path / "m.jsonl")


def test_boxes_of_another_clip_are_an_error(demo, tmp_path):
    videos = {"dock.mp4": {"fingerprint": "00", "path": "dock.mp4"}}
    journal.write(tmp_path / "b.jsonl", Header("detect", videos=videos), [])
    with pytest.raises(ItemsError, match=r"b.jsonl: boxes of dock.mp4, not of .*demo.mp4"):
        propagators_boxes.read(tmp_path / "b.jsonl", reader.probe(demo))


def test_boxes_of_another_picture_size_are_an_error(demo, tmp_path):
    small = [dataclasses.replace(make_items({0: []})[0], width=400, height=300)]
    journal.write(tmp_path / "b.jsonl", Header("detect"), small)
    with pytest.raises(ItemsError, match="boxes on pictures of 400x300, but the clip is 800x600"):
        propagators_boxes.read(tmp_path / "b.jsonl", reader.probe(demo))


def test_boxes_of_a_class_outside_the_vocabulary_are_an_error(demo, make_boxes, tmp_path):
    make_boxes({0: [mech(HOME)]})
    with pytest.raises(PromptError, match=r"boxes.jsonl: no class 'mech'. There are: plate"):
        propagators_boxes.read(tmp_path / "boxes.jsonl", reader.probe(demo), classes=("plate",))


def test_the_header_lists_all_classes(demo, make_boxes, tmp_path):
    boxes = make_boxes({3: [mech(HOME), mech(HOME, label="raine")]})
    job = a_job(demo, boxes, prompts=[point(2, 9)], labels={9: "object"}, stop=5)
    assert set(job.header().vocabulary["labels"]) == {"mech", "raine", "object"}


def test_boxes_out_of_order_are_an_error(demo, make_boxes, tmp_path):
    boxes = make_boxes({9: [mech(HOME)], 3: [mech(HOME)]})
    with pytest.raises(ItemsError, match="frame 3 stands behind frame 9"):
        run.run_to_file(a_job(demo, boxes), tmp_path / "m.jsonl")


def test_from_the_command_line(annotate, demo, make_boxes, tmp_path):
    make_boxes({n: [mech((530.0, 234.0, 581.0, 318.0), 0.5)] for n in range(2, 6)})
    words = ["propagate", demo, "--from", "boxes.jsonl", "--fast", "--stop", "6"]
    code, out, err = annotate(*words, "-o", "m.jsonl")
    assert (code, out.strip()) == (0, "m.jsonl"), err
    assert [item.frame for item in journal.read(tmp_path / "m.jsonl")] == [2, 3, 4, 5]
    code, _, err = annotate(*words, "--min-score", "0.6", "-o", "n.jsonl")
    assert code == 1 and "no prompt and no box lies between frame 0 and frame 6" in err
    code, _, err = annotate(*words, "--box", "2,7,10,10,90,90", "--update", "-o", "m.jsonl")
    assert code == 1 and "with light objects depend on each other: --force" in err
    code, _, err = annotate(*words, "--device", "cuda", "-o", "n.jsonl")
    assert code == 1 and "no option of light 'device'" in err

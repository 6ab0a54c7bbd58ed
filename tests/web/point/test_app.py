"""The requests of the point page: each answers the state, and an error is one line."""

import http.client
import json
import threading

import pytest
from local_server import Client
from point_page import SIDE, square_editor

from annotate.active_learning.frame_list import ListedFrame
from annotate.items.records import Object
from annotate.vocabulary import read_vocabulary
from annotate.web.point.app import serving
from annotate.web.point.detectors import FrameDetectors, OfferedDetector, detectors_of
from annotate.web.server import TOKEN_HEADER


@pytest.fixture
def editor(demo, tmp_path):
    with square_editor(demo, tmp_path / "points.csv") as editor:
        yield editor


@pytest.fixture
def client(editor):
    with serving(editor) as address:
        client = Client(address)
        client.json("state?client=me")
        yield client


def act(client, kind, who="me", **fields):
    return client.json("act", {"client": who, "action": {"kind": kind, **fields}})


def click(client, frame, object_id, x, y, label=1, **fields):
    return act(client, "point", frame=frame, object=object_id, x=x, y=y, label=label, **fields)


class Watch:
    """Reads the events of a server, line by line."""

    def __init__(self, client, after=0):
        self.connection = http.client.HTTPConnection(client.host, client.port, timeout=30)
        headers = {TOKEN_HEADER: client.token}
        self.connection.request("GET", f"/watch?after={after}", headers=headers)
        self.answer = self.connection.getresponse()

    def next(self, key):
        """Read up to the next event that has a key."""
        while line := self.answer.readline():
            event = json.loads(line) if line.strip() else {}
            if key in event:
                return event
        raise AssertionError(f"no event with {key}")

    def close(self):
        self.connection.close()


def run_to_end(client, editor, frame=0, direction="forward"):
    """Propagate, and wait until that is done."""
    watch = Watch(client, editor.events.last)
    client.json("run", {"client": "me", "frame": frame, "direction": direction})
    watch.next("message")
    watch.close()


def test_a_frame_is_the_jpeg_of_its_index(client, editor):
    for index in (0, 139, 7, 6):
        status, body = client.request(f"frame/{index}")
        assert status == 200 and body == editor.pictures.jpeg(index).jpeg
    assert client.status("frame/140") == client.status("frame/-1") == 404


def test_a_click_gives_the_mask_of_its_frame(client):
    state = click(client, 3, 1, 100, 200, **{"class": "imp"})
    assert state["rev"] == 1 and state["can_undo"]
    (found,) = state["objects"]
    assert (found["class"], found["prompts"]) == ("imp", [3])
    masks = client.json("masks/3")
    assert masks["rev"] == 1
    assert masks["objects"][0]["box"] == [100 - SIDE / 2, 180, 120, 220]
    assert client.json("masks/4")["objects"] == []


def test_an_engine_that_is_busy_for_too_long_is_reported(client, editor, monkeypatch):
    monkeypatch.setattr("annotate.web.point.tracking.previews._WAIT_SECONDS", 0.01)
    free = threading.Event()
    editor._thread.call(free.wait, 0)
    click(client, 3, 1, 100, 200)
    status, body = client.request("masks/3")
    free.set()
    assert status == 400 and b"no mask for 0.01 seconds: it is still busy" in body
    monkeypatch.undo()
    assert len(client.json("masks/3")["objects"]) == 1


def test_a_rough_mask_comes_at_once_and_is_replaced(client, editor):
    editor.engine.rough_side = 10
    editor.engine.gate.clear()
    watch = Watch(client, editor.events.last)
    click(client, 3, 1, 100, 200)
    masks = client.json("masks/3")
    assert masks["pending"] and masks["objects"][0]["box"] == [95, 195, 105, 205]
    editor.engine.gate.set()
    better = watch.next("masks")["masks"]
    assert not better["pending"] and better["objects"][0]["box"] == [80, 180, 120, 220]
    assert client.json("masks/3") == better
    watch.close()


def test_a_preview_changes_nothing(client, editor):
    record = {"frame": 3, "object": 1, "x": 50, "y": 60, "label": 1}
    assert client.json("preview", record)["box"] == [30, 40, 70, 80]
    assert client.status("preview", record | {"x": 900}) == 400
    assert client.status("preview", record | {"label": 0}) == 400  # nothing to take away from
    assert client.json("state?client=me")["rev"] == 0
    assert not editor.session.points.exists()


def test_a_run_is_streamed_and_fills_the_lane(client):
    click(client, 10, 1, 100, 200)
    watch = Watch(client)
    client.json("run", {"client": "me", "frame": 10, "direction": "both"})
    frames = []
    while True:
        event = watch.next("event")
        if "masks" in event:
            frames.append(event["masks"]["frame"])
            assert event["masks"]["objects"][0]["status"] == "tracked"
        if "message" in event:
            break
    assert frames == [*range(10, 140), *range(10, -1, -1)]
    assert event["state"]["objects"][0]["lanes"]["tracked"] == [[0, 140]]
    assert event["state"]["running"] is None
    watch.close()


def test_a_click_is_answered_while_it_propagates_and_stop_keeps_what_is_done(client, editor):
    click(client, 0, 1, 100, 200)
    click(client, 50, 2, 300, 300)
    watch = Watch(client, editor.events.last)
    editor.engine.gate.clear()
    client.json("run", {"client": "me", "frame": 0, "direction": "forward", "objects": [1]})
    editor.engine.gate.set()
    watch.next("masks")
    state = click(client, 50, 2, 310, 300)  # another object: the run goes on
    assert state["running"] is not None or state["objects"][0]["lanes"]["tracked"] == [[0, 140]]
    client.json("stop", {"client": "me"})
    state = client.json("state?client=me")
    assert state["running"] is None
    (span,) = state["objects"][0]["lanes"]["tracked"]
    assert span[0] == 0 and span[1] >= 1
    watch.close()


def test_undo_brings_back_the_masks_of_earlier_points(client, editor):
    click(client, 0, 1, 100, 200)
    run_to_end(client, editor)
    changed = click(client, 5, 1, 400, 200)["objects"][0]["lanes"]
    assert changed["tracked"] == [] and changed["stale"] == [[0, 140]]
    assert client.json("masks/60")["objects"][0]["status"] == "stale"
    undone = act(client, "undo")["objects"][0]["lanes"]
    assert undone["tracked"] == [[0, 140]] and undone["stale"] == []
    assert client.json("masks/60")["objects"][0]["status"] == "tracked"


def test_masks_of_dependent_objects_are_provisional_after_a_change(demo, tmp_path):
    with (
        square_editor(demo, tmp_path / "points.csv", independent=False) as editor,
        serving(editor) as address,
    ):
        client = Client(address)
        client.json("state?client=me")
        click(client, 0, 1, 100, 200)
        run_to_end(client, editor)
        state = click(client, 0, 2, 300, 300)
        assert state["objects"][0]["lanes"]["provisional"] == [[0, 140]]
        assert state["provisional"] == 140


def test_a_gone_object_has_no_mask_until_its_next_point(client, editor):
    click(client, 0, 1, 100, 200)
    run_to_end(client, editor)
    act(client, "gone", frame=20, object=1)
    state = click(client, 40, 1, 300, 300)
    assert state["objects"][0]["lanes"]["gone"] == [[20, 40]]
    assert client.json("masks/30")["objects"] == []
    assert client.json("masks/19")["objects"] and client.json("masks/41")["objects"]


def test_an_engine_that_fails_keeps_its_frames_and_the_page(client, editor):
    click(client, 0, 1, 100, 200)
    editor.engine.fail_on = 7
    watch = Watch(client, editor.events.last)
    client.json("run", {"client": "me", "frame": 0, "direction": "forward"})
    event = watch.next("error")
    assert event["error"] == "the engine failed: RuntimeError: out of memory"
    assert event["state"]["objects"][0]["lanes"]["tracked"] == [[0, 7]]
    assert click(client, 0, 1, 120, 200)["rev"] == 2
    watch.close()


def test_a_second_page_reads_until_it_takes_over(client):
    assert client.json("state?client=other")["writer"] == "me"
    action = {"kind": "point", "frame": 0, "object": 1, "x": 5, "y": 5, "label": 1}
    status, body = client.request("act", {"client": "other", "action": action})
    assert status == 400 and b"another tab" in body
    assert client.json("take-over", {"client": "other"})["writer"] == "other"
    assert act(client, who="other", **action)["rev"] == 1
    client.json("leave", {"client": "me"})  # it does not edit
    assert client.json("state?client=me")["writer"] == "other"
    client.json("leave", {"client": "other"})
    assert client.json("state?client=me")["writer"] == "me"


def test_proposed_boxes_become_prompts_by_one_action(demo, tmp_path):
    boxes = {3: [Object("imp", (10, 20, 50, 60), 0.8), Object("demon", (100, 100, 140, 180), 0.7)]}
    with (
        square_editor(demo, tmp_path / "points.csv", proposals=boxes) as editor,
        serving(editor) as address,
    ):
        client = Client(address)
        state = client.json("state?client=me")
        assert [each["class"] for each in state["proposals"]["3"]] == ["imp", "demon"]
        state = act(client, "accept", frame=3)
        assert [each["class"] for each in state["objects"]] == ["imp", "demon"]
        assert state["proposals"] == {}
        assert client.json("masks/3")["objects"][0]["box"] == [10, 20, 50, 60]
        assert act(client, "undo")["objects"] == []
        assert (
            client.status("act", {"client": "me", "action": {"kind": "accept", "frame": 9}}) == 400
        )


def test_a_listed_frame_is_done_with_its_first_point_or_where_nothing_is_to_label(demo, tmp_path):
    listed = [ListedFrame("demo.mp4", 80, 2.29, 1, "imp missing", 1)]
    listed.append(ListedFrame("demo.mp4", 12, 0.34, 0.5, "random", 4))
    with (
        square_editor(demo, tmp_path / "points.csv", listed=listed) as editor,
        serving(editor) as address,
    ):
        client = Client(address)
        first, second = client.json("state?client=me")["to_label"]
        assert first == {"frame": 80, "rank": 1, "why": "imp missing", "done": False}
        assert (second["frame"], second["rank"]) == (12, 4)
        done = [[each["done"] for each in state["to_label"]] for state in (
            click(client, 80, 1, 300, 200),
            act(client, "reviewed", frame=12),
            act(client, "undo"),
            act(client, "undo"),
        )]  # fmt: skip
        assert done == [[True, False], [True, True], [True, False], [False, False]]


def test_a_list_of_another_clip_is_one_line(demo, tmp_path, annotate):
    (tmp_path / "next.csv").write_text("clip,frame\ndock.mp4,3\n")
    words = ["--frames", tmp_path / "next.csv", "-p", tmp_path / "p.csv", "--no-open"]
    code, _, err = annotate("point", demo, *words)
    assert code == 1 and "next.csv: none of its frames is of demo.mp4, but of dock.mp4" in err
    assert [path.name for path in tmp_path.iterdir()] == ["next.csv"]


def test_what_was_looked_at_is_counted_and_kept(client, editor):
    client.json("seen", {"client": "me", "frames": [0, 1, 2, 2, 999, -4]})
    state = act(client, "reviewed", frame=1)
    assert state["looked"] == [[0, 3]] and state["reviewed"] == [1]
    assert state["looked_share"] == pytest.approx(3 / 140)


def test_saving_runs_in_the_directions_that_were_used(client, editor):
    click(client, 5, 1, 100, 200)
    assert client.json("save", {"client": "me"})["message"] == "saved masks.jsonl"
    run_to_end(client, editor, 5, "backward")
    client.json("save", {"client": "me"})
    act(client, "reviewed", frame=5)
    assert client.json("dataset", {"client": "me"})["message"] == "built dataset"
    assert editor.writer.calls == [
        ("save", False),
        ("save", True),
        ("save", True),
        ("dataset", [5]),
    ]


def test_points_edited_outside_are_shown_and_settled(client, editor):
    click(client, 0, 1, 100, 200)
    editor.session.points.write_text("frame_id,object_id,x,y,label,class\n4,7,5,5,1,imp\n")
    state = client.json("state?client=me")
    assert state["outside"] == {"added": 1, "removed": 1, "error": ""}
    action = {"kind": "point", "frame": 0, "object": 1, "x": 1, "y": 1, "label": 1}
    status, body = client.request("act", {"client": "me", "action": action})
    assert status == 400 and b"changed by another program" in body
    state = client.json("outside", {"client": "me", "take": True})
    assert [each["id"] for each in state["objects"]] == [7]
    assert [each["id"] for each in act(client, "undo")["objects"]] == [1]


def test_an_accepted_box_on_the_mask_of_an_object_is_the_box_of_that_object(demo, tmp_path):
    boxes = {
        3: [Object("imp", (85, 185, 125, 225), 0.9), Object("demon", (80, 180, 120, 220), 0.9)]
    }
    with (
        square_editor(demo, tmp_path / "points.csv", proposals=boxes) as editor,
        serving(editor) as address,
    ):
        client = Client(address)
        client.json("state?client=me")
        click(client, 0, 1, 97, 200, **{"class": "imp"})
        run_to_end(client, editor)
        state = act(client, "accept", frame=3)
        found = [(each["id"], each["class"], each["prompts"]) for each in state["objects"]]
        assert found == [(1, "imp", [0, 3]), (2, "demon", [3])]
        click(client, 5, 1, 97, 200)
        assert client.json("state?client=me")["proposals"] == {}


def test_a_detector_proposes_boxes_on_a_frame(demo, tmp_path):
    words = read_vocabulary("designator.v1")
    offered = [*detectors_of(words), OfferedDetector("mine", "yolo", {"model": "not-there.pt"})]
    detectors = FrameDetectors(offered, words)
    with (
        square_editor(demo, tmp_path / "points.csv", detectors=detectors) as editor,
        serving(editor) as address,
    ):
        client = Client(address)
        assert client.json("state?client=me")["detectors"][-1] == "mine"
        ask = {"client": "me", "frame": 0, "detector": "colour"}
        state = client.json("propose", ask)
        assert state["message"] == "colour, frame 0: 1 box; Enter accepts what is dashed"
        (proposed,) = state["proposals"]["0"]
        assert proposed["class"] == "designator"
        state = act(client, "accept", frame=0)
        assert [each["class"] for each in state["objects"]] == ["designator"]
        assert client.json("propose", ask)["proposals"] == {}  # the same box was accepted
        for detector in ("mine", "nobody"):
            status, body = client.request("propose", ask | {"detector": detector})
            assert status == 400 and body and b"\n" not in body
        assert client.status("propose", ask | {"frame": 140}) == 400


def test_a_session_on_a_part_of_the_clip_stays_in_it(demo, tmp_path):
    with (
        square_editor(demo, tmp_path / "points.csv", bounds=(10, 60)) as editor,
        serving(editor) as address,
    ):
        client = Client(address)
        state = client.json("state?client=me")
        assert state["range"] == state["clip"]["bounds"] == [10, 60]
        for start, stop in [(9, 60), (10, 61), (20, 20)]:
            assert client.status("range", {"client": "me", "start": start, "stop": stop}) == 400
        click(client, 20, 1, 100, 200)
        run_to_end(client, editor, frame=5, direction="both")
        (found,) = client.json("state?client=me")["objects"]
        assert found["lanes"]["tracked"] == [[10, 60]]


@pytest.mark.parametrize(
    ("path", "record"),
    [
        ("act", {"client": "me"}),
        ("act", {"client": "me", "action": 3}),
        ("act", {"client": "me", "action": {"kind": "drop"}}),
        ("act", {"client": "me", "action": {"kind": "undo"}}),
        ("act", [1]),
        ("run", {"client": "me", "frame": 0, "direction": "forward"}),
        ("run", {"client": "me", "frame": 0, "direction": "up"}),
        ("run", {"client": "me"}),
        ("range", {"client": "me", "start": 5, "stop": 5}),
        ("range", {"client": "me", "start": "x", "stop": 5}),
        ("seen", {"client": "me", "frames": "abc"}),
        ("preview", {"frame": 0}),
        ("outside", {"client": "me"}),
    ],
)
def test_requests_that_cannot_be_used_get_one_line(client, path, record):
    status, body = client.request(path, record)
    assert status == 400 and body and b"\n" not in body
    assert client.json("state?client=me")["rev"] == 0

"""A session loses no action that was acknowledged: undo, crashes, outside edits, full disks."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.errors import AnnotateError, ItemsError, OutputError, PromptError
from annotate.items.points import PromptScope
from annotate.web.point import log as log_module
from annotate.web.point.session import PointSession, log_path

SCOPE = PromptScope((64, 48), 20)
CLIP = {"clip": "a.mp4", "fingerprint": "f1"}


_open = []


def open_session(points, clip=CLIP):
    _open.append(PointSession(points, SCOPE, clip))
    return _open[-1]


@pytest.fixture(autouse=True)
def _close_sessions():
    yield
    while _open:
        _open.pop().close()


def point(session, frame, object_id, x, y=5, label=1):
    action = {"kind": "point", "frame": frame, "object": object_id, "x": x, "y": y, "label": label}
    return session.act(action)


@pytest.fixture
def points(tmp_path):
    return tmp_path / "points.csv"


def test_every_action_is_in_the_file_at_once(points):
    session = open_session(points)
    point(session, 0, 1, 5)
    assert points.read_text() == "frame_id,object_id,x,y,label,class\n0,1,5,5,1,object\n"
    session.undo()
    assert points.read_text() == "frame_id,object_id,x,y,label,class\n"
    session.redo()
    assert "0,1,5,5,1,object" in points.read_text()


def test_undo_and_redo_go_on_after_a_restart(points):
    session = open_session(points)
    for x in range(3):
        point(session, 0, 1, x)
    session.undo()
    session.close()
    again = open_session(points)
    assert [row.x for row in again.document.rows] == [0, 1]
    assert again.revision == session.revision
    assert [row.x for row in again.redo().rows] == [0, 1, 2]
    for _ in range(3):
        again.undo()
    assert not again.document.rows and not again.can_undo
    with pytest.raises(PromptError, match="nothing to undo"):
        again.undo()


def test_an_existing_table_is_where_a_session_begins(points):
    content = "note,frame_id,object_id,x,y,label\nmine,3,1,5.0,6,1\n"
    points.write_text(content)
    session = open_session(points)
    assert points.read_text() == content
    point(session, 4, 1, 7)
    assert points.read_text().splitlines()[1] == "mine,3,1,5.0,6,1"
    session.undo()
    assert points.read_text() == content


ACTIONS = st.lists(
    st.one_of(
        st.just({"kind": "undo"}),
        st.just({"kind": "redo"}),
        st.builds(
            lambda frame, number, x, label: {
                "kind": "point",
                "frame": frame,
                "object": number,
                "x": x,
                "y": 3,
                "label": label,
            },
            st.integers(0, 19),
            st.integers(1, 3),
            st.integers(0, 63),
            st.integers(0, 1),
        ),
        st.builds(
            lambda frame, number: {"kind": "gone", "frame": frame, "object": number},
            st.integers(0, 19),
            st.integers(1, 3),
        ),
        st.builds(lambda number: {"kind": "delete", "object": number}, st.integers(1, 3)),
    ),
    max_size=30,
)


def do(session, action):
    try:
        if action["kind"] in ("undo", "redo"):
            getattr(session, action["kind"])()
        else:
            session.act(action)
    except PromptError:
        return False
    return True


@given(ACTIONS, st.randoms(use_true_random=False))
def test_a_crash_at_any_byte_keeps_what_was_acknowledged(tmp_path_factory, actions, chance):
    folder = tmp_path_factory.mktemp("session")
    points = folder / "points.csv"
    session = open_session(points)
    states = [(log_path(points).stat().st_size, session.document)]
    for action in actions:
        if do(session, action):
            states.append((log_path(points).stat().st_size, session.document))
    session.close()
    content = log_path(points).read_bytes()
    cut = chance.randrange(states[0][0], len(content) + 1)
    log_path(points).write_bytes(content[:cut])
    # the file of points was written after the log: it is of the last whole line, or the one before
    written = [document for size, document in states if size <= cut]
    points.write_bytes(written[max(len(written) - chance.randrange(1, 3), 0)].table.to_csv())
    again = open_session(points)
    assert [row.key for row in again.document.rows] == [row.key for row in written[-1].rows]
    assert points.read_bytes() == again.document.table.to_csv()
    assert again.outside_edit() is None
    again.close()


@given(ACTIONS)
def test_as_many_undos_as_actions_lead_back(tmp_path_factory, actions):
    points = tmp_path_factory.mktemp("session") / "points.csv"
    session = open_session(points)
    before = session.document.table.to_csv()
    for action in actions:
        do(session, action)
    last = points.read_bytes() if points.exists() else before
    count = 0
    while session.can_undo:
        session.undo()
        count += 1
    assert session.document.table.to_csv() == before
    for _ in range(count):
        session.redo()
    assert session.document.table.to_csv() == last or actions[-1]["kind"] == "undo"
    session.close()


def test_edits_of_another_program_are_shown_and_taken_or_refused(points):
    session = open_session(points)
    point(session, 0, 1, 5)
    theirs = "frame_id,object_id,x,y,label,class\n0,1,6,5,1,object\n"
    points.write_text(theirs)
    with pytest.raises(OutputError, match="changed by another program"):
        point(session, 0, 1, 9)
    edit = session.outside_edit()
    assert [row.x for row in edit.added] == [6] and [row.x for row in edit.removed] == [5]
    session.take_outside_edit()
    assert points.read_text() == theirs and session.outside_edit() is None
    assert [row.x for row in session.undo().rows] == [5]
    points.write_text("frame_id,object_id\nx\n")
    assert "no column" in session.outside_edit().error
    session.keep_own_rows()
    assert session.outside_edit() is None and "0,1,5,5,1" in points.read_text()


def test_an_edit_between_two_sessions_is_noticed(points):
    session = open_session(points)
    point(session, 0, 1, 5)
    session.close()
    points.write_text(points.read_text() + "2,1,7,7,1,object\n")
    again = open_session(points)
    assert [row.x for row in again.outside_edit().added] == [7]
    points.unlink()
    assert again.outside_edit() is None and points.exists()  # a deleted file is written again


def test_a_full_disk_loses_nothing_acknowledged(points, monkeypatch):
    session = open_session(points)
    point(session, 0, 1, 5)
    size = log_path(points).stat().st_size

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "fsync", full)
        with pytest.raises(OutputError, match="was not saved"):
            point(session, 0, 1, 6)
    assert log_path(points).stat().st_size == size
    assert [row.x for row in session.document.rows] == [5]
    point(session, 0, 1, 7)
    session.close()
    assert [row.x for row in open_session(points).document.rows] == [5, 7]


def test_points_that_cannot_be_written_are_in_the_log(points, monkeypatch):
    session = open_session(points)
    point(session, 0, 1, 5)
    old = points.read_bytes()

    def refuse(table, path):
        raise OutputError(f"{path}: cannot write there: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("annotate.web.point.table.PointTable.write", refuse)
        point(session, 0, 1, 6)
        point(session, 0, 1, 7)
        assert "No space left" in session.save_error and points.read_bytes() == old
    session.close()
    again = open_session(points)  # the file is three states behind
    assert again.outside_edit() is None
    assert [row.x for row in again.document.rows] == [5, 6, 7]
    assert points.read_bytes() == again.document.table.to_csv()


def test_the_log_of_another_clip_is_refused(points):
    open_session(points).close()
    with pytest.raises(ItemsError, match="another clip, a.mp4"):
        open_session(points, {"clip": "b.mp4", "fingerprint": "f2"})


@pytest.mark.parametrize("line", [b"x\n", b"[1]\n", b"\xff\n", b'{"annotate-point-session":99}\n'])
def test_a_foreign_log_is_refused_in_one_line(points, line):
    log_path(points).write_bytes(line)
    with pytest.raises(ItemsError) as caught:
        open_session(points)
    assert "\n" not in str(caught.value)


def test_damaged_actions_are_an_error_in_one_line(points):
    session = open_session(points)
    for x in range(4):
        point(session, 0, 1, x)
    session.close()
    lines = log_path(points).read_bytes().splitlines(keepends=True)
    rng = random.Random(1)
    for _ in range(40):
        damaged = list(lines)
        row = rng.randrange(1, len(lines))
        record = json.loads(lines[row])
        record["act"][rng.choice(["kind", "frame", "x", "label"])] = rng.choice([None, "x", -5, []])
        damaged[row] = json.dumps(record).encode() + b"\n"
        log_path(points).write_bytes(b"".join(damaged))
        with pytest.raises(AnnotateError) as caught:
            open_session(points)
        assert "\n" not in str(caught.value)

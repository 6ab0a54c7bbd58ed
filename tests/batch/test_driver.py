"""The loop that hands out clips: deaths, silence, errors, Ctrl-C; with scripted workers."""

from collections import deque

import pytest

from annotate.batch.driver import Driver, Event
from annotate.batch.stores.folder import FolderStore
from annotate.batch.worker import Outcome, StageOutput, Task
from annotate.errors import BatchError, WeightsError


class ScriptedWorker:
    """Answers each task by `script(worker, task)`: a list of messages, None for its death."""

    def __init__(self, engine, node):
        self.engine, self.node, self.is_killed = engine, node, False

    def give(self, task):
        self.engine.given.append((self.node, task.key))
        self.engine.send(self, *self.engine.script(self, task))

    def stop(self):
        self.engine.send(self, None)

    def kill(self):
        self.is_killed = True
        self.engine.send(self, None)


class ScriptedEngine:
    def __init__(self, script, slots=1, nodes=("a",), ready=({},)):
        self.script, self.slots, self.nodes, self.ready = script, slots, nodes, ready
        self.events, self.given, self.started, self.is_closed = deque(), [], [], False

    def start(self):
        worker = ScriptedWorker(self, self.nodes[len(self.started) % len(self.nodes)])
        self.started.append(worker)
        self.send(worker, *self.ready)
        return worker

    def send(self, worker, *messages):
        death = "killed by SIGKILL"
        self.events += [Event(worker, each, "" if each is not None else death) for each in messages]

    def wait(self, seconds):
        if not self.events:
            return []
        event = self.events.popleft()
        if isinstance(event.message, BaseException) and not isinstance(event.message, WeightsError):
            raise event.message
        return [event]

    def close(self):
        self.is_closed = True


def succeed(worker, task):
    return [Outcome(task, frames=8, is_first=True)]


def tasks(*keys):
    return [Task(key, f"/clips/{key}.mp4") for key in keys]


@pytest.fixture
def drive(tmp_path):
    def drive(engine, keys, **options):
        output = StageOutput(None, FolderStore(tmp_path / "out"))
        return Driver(engine, [output], **options).run(tasks(*keys))

    return drive


def test_every_task_is_done_by_as_many_workers_as_there_is_work_for(drive):
    engine = ScriptedEngine(succeed, slots=3)
    tally = drive(engine, "ab")
    assert tally.done == 2 and tally.frames == 16 and not tally.failures
    assert len(engine.started) == 2 and engine.is_closed


def test_a_task_whose_worker_died_goes_first_to_another_node(drive):
    deaths = []

    def script(worker, task):
        if task.key == "b" and not deaths:
            deaths.append(worker.node)
            return [3, None]
        return [3, *succeed(worker, task)]

    engine = ScriptedEngine(script, slots=2, nodes=("a", "b"))
    tally = drive(engine, "abc")
    assert tally.done == 3 and not tally.failures
    assert len(engine.started) == 3
    nodes = [node for node, key in engine.given if key == "b"]
    assert len(nodes) == 2 and nodes[0] != nodes[1]


def test_a_task_that_kills_three_workers_fails_and_the_others_go_on(drive, tmp_path):
    def script(worker, task):
        return [None] if task.key == "poison" else succeed(worker, task)

    engine = ScriptedEngine(script)
    tally = drive(engine, ["a", "poison", "b"])
    assert tally.done == 2 and [each.task.key for each in tally.failures] == ["poison"]
    assert [key for _, key in engine.given].count("poison") == 3
    record = FolderStore(tmp_path / "out").failure("poison")
    assert record["tries"] == 3 and "SIGKILL" in record["reason"]


def test_a_task_with_an_error_fails_at_once(drive, tmp_path):
    engine = ScriptedEngine(lambda worker, task: [Outcome(task, error="x.mp4: empty")])
    tally = drive(engine, "a")
    assert len(tally.failures) == 1 and len(engine.given) == 1
    assert FolderStore(tmp_path / "out").failure("a")["reason"] == "x.mp4: empty"


def test_a_worker_that_is_silent_is_killed_and_replaced(drive):
    now = [0.0]

    def clock():
        now[0] += 1
        return now[0]

    def script(worker, task):
        return [] if len(engine.started) == 1 else succeed(worker, task)

    engine = ScriptedEngine(script)
    tally = drive(engine, "a", silence_seconds=20, clock=clock)
    assert tally.done == 1 and [each.is_killed for each in engine.started] == [True, False]


def test_a_stage_that_cannot_run_ends_the_batch_with_what_is_missing(drive):
    engine = ScriptedEngine(succeed, ready=[WeightsError("no weights"), None])
    with pytest.raises(WeightsError, match="no weights"):
        drive(engine, "a")
    assert engine.is_closed and not engine.given


def test_workers_that_never_start_end_the_batch(drive):
    engine = ScriptedEngine(succeed, ready=[None])
    with pytest.raises(BatchError, match="no worker starts: killed by SIGKILL"):
        drive(engine, "a")
    assert len(engine.started) == 3


def test_an_output_that_cannot_be_written_ends_the_batch_and_fails_no_clip(drive, tmp_path):
    def script(worker, task):
        return [Outcome(task, error="disk full", is_fatal=True)]

    with pytest.raises(BatchError, match="disk full"):
        drive(ScriptedEngine(script), "ab")
    assert FolderStore(tmp_path / "out").failed_keys() == set()


def test_ctrl_c_waits_for_the_workers_and_hands_out_nothing_more(drive):
    def script(worker, task):
        return [KeyboardInterrupt(), 2]

    engine = ScriptedEngine(script)
    with pytest.raises(KeyboardInterrupt):
        drive(engine, "ab")
    assert engine.is_closed and [key for _, key in engine.given] == ["a"]


def test_a_second_ctrl_c_does_not_wait(drive):
    def script(worker, task):
        return [KeyboardInterrupt(), KeyboardInterrupt()]

    engine = ScriptedEngine(script)
    with pytest.raises(KeyboardInterrupt):
        drive(engine, "a")
    assert engine.is_closed


def test_a_finished_task_may_lead_to_others(drive):
    follow = {"a": tasks("b", "c"), "b": tasks("d")}
    engine = ScriptedEngine(succeed)
    drive(engine, "a", follow=lambda outcome: follow.get(outcome.task.key, []))
    assert [key for _, key in engine.given] == ["a", "b", "c", "d"]

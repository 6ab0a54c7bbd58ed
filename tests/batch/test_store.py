"""A result is written once, whoever is first; a later one is compared with it."""

import errno
import os
from contextlib import ExitStack

import pytest

from annotate.batch.stores.folder import FolderStore, first_difference
from annotate.errors import OutputError, ResultsDiffer
from annotate.items import journal
from annotate.items.records import Header, Item

KEY = "ab" * 32


@pytest.fixture(params=["links", "no links"])
def store(request, tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EPERM, "no links here")

    if request.param == "no links":
        monkeypatch.setattr(os, "link", refuse)
    return FolderStore(tmp_path / "out")


def make(folder, frames=2, video="a.mp4", width=64):
    path = folder / "items.jsonl"
    header = Header("detect", videos={video: {"path": f"/clips/{video}", "fingerprint": "ab"}})
    items = [Item(video, n, n, width if n else 64, 48) for n in range(frames)]
    journal.write(path, header, items)
    return path


def test_the_first_result_stays_and_an_equal_one_is_dropped(store):
    with store.attempt(KEY) as one, store.attempt(KEY) as other:
        assert one != other  # two workers at one clip do not meet
        assert store.commit(KEY, make(one))
        bytes_before = store.result(KEY, ".jsonl").read_bytes()
        assert not store.commit(KEY, make(other))
    assert store.done_keys() == {KEY}
    assert store.result(KEY, ".jsonl").read_bytes() == bytes_before
    assert not list((store.root / "work").iterdir())
    assert not (store.root / "differing").exists()


def test_a_result_that_differs_is_kept_and_named_with_the_line(store):
    with store.attempt(KEY) as one, store.attempt(KEY) as other:
        store.commit(KEY, make(one))
        before = store.result(KEY, ".jsonl").read_bytes()
        with pytest.raises(ResultsDiffer, match="differ at line 3") as raised:
            store.commit(KEY, make(other, width=65))
    assert store.result(KEY, ".jsonl").read_bytes() == before
    [kept] = (store.root / "differing").iterdir()
    assert str(kept) in str(raised.value) and "65" in kept.read_text()


def test_another_name_and_path_of_the_clip_is_no_difference(tmp_path):
    folders = [tmp_path / name for name in ("one", "other", "short")]
    for folder in folders:
        folder.mkdir()
    one, other = make(folders[0]), make(folders[1], video="b.mp4")
    assert one.read_bytes() != other.read_bytes() and first_difference(one, other) == 0
    assert first_difference(one, make(folders[2], frames=1)) == 3


def test_work_that_was_stopped_is_continued_by_the_next_worker(store):
    with store.attempt(KEY) as folder:
        (folder / "half").write_text("x")
    with store.attempt(KEY) as again:
        assert again == folder and (again / "half").read_text() == "x"
        assert store.running_count() == 1
    assert store.running_count() == 0


def test_what_a_worker_that_was_killed_after_its_result_left_is_removed(store):
    other = "cd" * 32
    with store.attempt(KEY) as mine, store.attempt(other) as half:
        for folder in (mine, half):
            (folder / "copy").mkdir()
        store.remove_attempts({KEY})
        assert mine.is_dir()  # a worker is at it
    store.remove_attempts({KEY})
    assert not mine.exists() and half.is_dir()


def test_an_attempt_that_wrote_nothing_leaves_nothing(store):
    with store.attempt(KEY):
        pass
    assert not list((store.root / "work").iterdir())


def test_an_output_that_cannot_be_written_is_an_error_and_not_another_try(tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"), ExitStack() as stack:
        stack.enter_context(FolderStore(tmp_path / "out").attempt(KEY))


def test_failures_are_recorded_and_forgotten(store):
    store.record_failure(KEY, {"clip": "/a.mp4", "reason": "empty"})
    assert store.failed_keys() == {KEY} and store.failure(KEY)["reason"] == "empty"
    store.forget_failure(KEY)
    assert store.failed_keys() == set() and store.failure(KEY) == {}


def test_logs_are_read_but_for_a_line_that_was_cut(store):
    store.log({"key": KEY})
    [path] = (store.root / "log").iterdir()
    with path.open("a") as file:
        file.write('{"key": "c')
    assert [record["key"] for record in store.log_records()] == [KEY]

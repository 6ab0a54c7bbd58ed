"""The plan of a batch has the clips of all drivers, whoever writes it when."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest
from batch_stages import colour_stage, make_clips, run_here

from annotate.batch import results
from annotate.batch.plan import make_units, read_plan
from annotate.batch.run import BatchOptions, prepare
from annotate.batch.stores.folder import FolderStore
from annotate.errors import OutputError
from annotate.locking.locks import locked_folder

TWO = BatchOptions(workers="local:2")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), 4)


def run_quickly(clips):
    return run_here(prepare(colour_stage(), clips, Path("out"), TWO))


def planned_names():
    return [unit.name for unit in read_plan(FolderStore(Path("out"))).units]


def test_two_drivers_with_different_clips_are_both_in_the_plan(clips, monkeypatch):
    def make_units_while_another_plans(*given):
        patch.undo()
        prepare(colour_stage(), clips[2:4], Path("out"), TWO)
        return make_units(*given)

    with monkeypatch.context() as patch:
        patch.setattr("annotate.batch.run.make_units", make_units_while_another_plans)
        first = prepare(colour_stage(), clips[:2], Path("out"), TWO)
    assert sorted(planned_names()) == [clip.name for clip in clips[:4]]
    assert [unit.name for unit in first.to_run] == [clip.name for clip in clips[:2]]


def test_a_driver_waits_for_the_one_that_writes_the_plan(clips, monkeypatch):
    waits, is_free = Event(), Event()

    def sleep(seconds):
        waits.set()
        is_free.wait(60)

    monkeypatch.setattr("annotate.batch.stores.folder.time", SimpleNamespace(sleep=sleep))
    with ThreadPoolExecutor() as pool:
        with locked_folder(Path("out")):
            made = pool.submit(prepare, colour_stage(), clips[:1], Path("out"), TWO)
            assert waits.wait(60) and not Path("out/plan.jsonl").exists()
        is_free.set()
        assert len(made.result().to_run) == 1
    assert planned_names() == [clips[0].name]


def test_a_plan_that_another_driver_replaced_has_all_clips_at_the_end(clips):
    run_quickly(clips[:1])
    before = Path("out/plan.jsonl").read_text()
    batch = prepare(colour_stage(), clips[1:2], Path("out"), BatchOptions("local:1"))
    Path("out/plan.jsonl").write_text(before)  # by a driver that had read it earlier: no locks
    batch.run()
    assert planned_names() == [clip.name for clip in clips[:2]]


def test_a_clip_that_was_moved_is_known_under_its_new_name_alone(clips, tmp_path):
    clip = Path(shutil.copy(clips[0], tmp_path / "old.mp4"))
    run_quickly([clip, clips[1]])
    moved = clip.rename(tmp_path / "new.mp4")
    again = prepare(colour_stage(), [moved], Path("out"), TWO)
    assert again.done == 1 and not again.to_run
    assert planned_names() == [clips[1].name, "new.mp4"]
    names = [path.name for path in results.collect(Path("out"), Path("items"))]
    assert names == ["c0001.jsonl", "new.jsonl"]


def test_a_disk_that_is_nearly_full_is_refused_before_the_first_clip(clips, monkeypatch):
    monkeypatch.setattr("annotate.batch.stores.folder._MIN_FREE_BYTES", 2**80)
    with pytest.raises(OutputError, match="MiB are free there on .*, less than"):
        prepare(colour_stage(), clips[:1], Path("out"), TWO)
    store = FolderStore(Path("out"))
    store.write_token("token")
    with pytest.raises(OutputError, match="MiB are free there"):  # on a node of a cluster
        store.check_shared("token")

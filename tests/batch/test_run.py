"""A batch gives the bytes of one command a clip, each once, whoever dies meanwhile."""

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from batch_stages import colour_stage, make_clip, make_clips, run_here, trap_stage

from annotate.batch import results
from annotate.batch.run import BatchOptions, parse_shard, prepare
from annotate.batch.stages import FramesStage, PropagateStage, ScenesStage, SegmentStage
from annotate.batch.stores.folder import first_difference
from annotate.errors import AnnotateError, BatchError, SettingsDiffer
from annotate.sampling.filter import SamplingOptions
from annotate.sampling.run import Job as SamplingJob
from annotate.sampling.run import fill_folder
from annotate.scenes import library
from annotate.video.reader import FrameSelection

TWO = BatchOptions(workers="local:2")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), 200)


def run(stage, sources, out, options=TWO):
    return prepare(stage, sources, Path(out), options).run()


def run_quickly(stage, sources, out, options=TWO):
    return run_here(prepare(stage, sources, Path(out), options))


def units(out):
    """Key -> bytes of the results."""
    files = [path for path in (Path(out) / "units").glob("??/*") if path.is_file()]
    return {path.name: path.read_bytes() for path in files}


def one_by_one(stage, clips, folder):
    """File name -> bytes of what the command for one clip writes."""
    made = {}
    for clip in clips:
        (folder / clip.stem).mkdir(parents=True)
        made[f"{clip.stem}.jsonl"] = stage.run(clip, folder / clip.stem, lambda item: None)
    return {name: path.read_bytes() for name, path in made.items()}


def collected(out, folder="items"):
    results.collect(Path(out), Path(folder))
    return {path.name: path.read_bytes() for path in Path(folder).glob("*.jsonl")}


def test_processes_and_shards_give_the_bytes_of_one_command_a_clip(clips, tmp_path):
    stage = colour_stage()
    expected = one_by_one(stage, clips, tmp_path / "single")
    tally = run(stage, clips, "processes")
    assert tally.done == 200 and tally.frames == 1600 and not tally.failures
    assert collected("processes") == expected
    for number in (1, 2):
        part = prepare(stage, clips, Path("shards"), BatchOptions(shard=(number, 2)))
        assert 60 < len(part.to_run) < 140 and part.done == 0
        run_here(part)
    assert units("shards") == units("processes")
    assert not list(Path("shards/work").iterdir())


def test_what_is_done_is_not_run_again_under_whatever_name(clips, tmp_path):
    run_quickly(colour_stage(), clips[:3], "out")
    before = {path: path.stat().st_mtime_ns for path in Path("out/units").glob("??/*")}
    moved = Path(shutil.copy(clips[1], tmp_path / "renamed.mp4"))
    again = prepare(colour_stage(), [*clips[:2], moved, clips[3]], Path("out"), TWO)
    assert again.done == 2 and [unit.name for unit in again.to_run] == [clips[3].name]
    run_here(again)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(units("out")) == 4
    expected = one_by_one(colour_stage(), [*clips[:4], moved], tmp_path / "single")
    assert collected("out") == expected  # the same clip under two names has each name's items


def test_a_clip_that_changed_is_another_unit(clips, tmp_path):
    clip = Path(shutil.copy(clips[0], tmp_path / "a.mp4"))
    run_quickly(colour_stage(), [clip], "out")
    make_clip(clip, 77)
    assert len(prepare(colour_stage(), [clip], Path("out"), TWO).to_run) == 1
    run_quickly(colour_stage(), [clip], "out")
    assert collected("out") == one_by_one(colour_stage(), [clip], tmp_path / "single")


def test_other_settings_are_refused_and_named(clips):
    run_quickly(colour_stage(), clips[:1], "out")
    message = "stage: detect in the file, segment now.*: give another output path$"
    with pytest.raises(SettingsDiffer, match=message):
        prepare(SegmentStage(), clips[:1], Path("out"), TWO)


def test_a_folder_of_something_else_is_not_written_into(clips, tmp_path):
    (tmp_path / "out" / "units").mkdir(parents=True)
    with pytest.raises(AnnotateError, match="not of such a run"):
        prepare(colour_stage(), clips[:1], Path("out"), TWO)


def test_clips_that_cannot_be_read_fail_with_a_reason_and_the_others_are_done(clips, tmp_path):
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "cut.mp4").write_bytes(clips[0].read_bytes()[:700])
    sources = [clips[0], Path("zero.mp4"), Path("cut.mp4"), clips[1]]
    outcomes = run_quickly(colour_stage(), sources, "out")
    state = results.status(Path("out"))
    assert state.done == 2 and state.left == 0 and len(state.failed) == 2
    reasons = {Path(path).name: reason for path, reason in state.failed}
    assert "empty" in reasons["zero.mp4"] and "cut.mp4" in reasons["cut.mp4"]
    assert len(outcomes) == 3  # the empty one is not run at all
    again = prepare(colour_stage(), sources, Path("out"), TWO)
    assert again.done == 2 and not again.to_run and len(again.failed) == 2
    (tmp_path / "cut.mp4").write_bytes(clips[2].read_bytes())
    (tmp_path / "zero.mp4").write_bytes(clips[3].read_bytes())
    run_quickly(colour_stage(), sources, "out", BatchOptions(retry_failed=True))
    assert results.status(Path("out")).done == 4


def test_a_poisoned_clip_fails_after_three_workers_and_the_others_are_done(clips):
    tally = run(trap_stage(clip=clips[3].name), clips[:8], "out")
    assert tally.done == 7 and [Path(each.task.clip) for each in tally.failures] == [clips[3]]
    [(path, reason)] = results.status(Path("out")).failed
    assert path == str(clips[3]) and "3 times" in reason and "exit code 7" in reason


def test_a_fault_of_a_plugin_fails_its_clip_alone_and_is_in_the_log(clips):
    outcomes = run_quickly(trap_stage(clip=clips[0].name, trap="raise"), clips[:3], "out")
    assert [bool(each.error) for each in outcomes] == [True, False, False]
    assert "ZeroDivisionError" in outcomes[0].error
    logs = "".join(path.read_text() for path in Path("out/log").glob("*.jsonl"))
    assert "Traceback" in logs


def test_a_worker_that_dies_is_replaced_and_its_clip_continued(clips, tmp_path):
    stage = trap_stage(clip=clips[2].name, once=tmp_path / "sprung")
    tally = run(stage, clips[:6], "out")
    assert tally.done == 6 and not tally.failures and (tmp_path / "sprung").exists()
    assert collected("out") == one_by_one(colour_stage(), clips[:6], tmp_path / "single")
    assert tally.frames <= 6 * 8  # the frames before the death were not processed again


def test_a_result_that_differs_from_an_earlier_one_is_named(clips, tmp_path):
    run_quickly(colour_stage(), clips[:1], "out")
    [unit] = Path("out/units").glob("??/*")
    shutil.copytree("out", "other")
    for path in Path("other/units").glob("??/*"):
        path.unlink()
    part = prepare(colour_stage(), clips[:1], Path("other"), TWO)
    text = unit.read_text().replace('"frame":5', '"frame":6', 1)
    (Path("other") / unit.relative_to("out")).write_text(text)  # another writer was first
    [outcome] = run_here(part)
    assert "not deterministic: two runs differ at line 7" in outcome.error
    assert len(list(Path("other/differing").iterdir())) == 1


COMMAND = """
import sys
from pathlib import Path
from batch_stages import trap_stage
from annotate.batch.run import BatchOptions, prepare

if __name__ == "__main__":
    out, trap, once, *clips = sys.argv[1:]
    stage = trap_stage(clip=Path(clips[5]).name, trap=trap, once=Path(once))
    prepare(stage, list(map(Path, clips)), Path(out), BatchOptions("local:2")).run()
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("trap", ["SIGKILL", "SIGINT"])
def test_a_driver_that_is_killed_or_stopped_loses_nothing(trap, clips, tmp_path):
    script = tmp_path / "command.py"
    script.write_text(COMMAND)
    words = [sys.executable, script, "out", trap, tmp_path / "sprung", *clips[:12]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    default_sigint = partial(
        signal.signal, signal.SIGINT, signal.SIG_DFL
    )  # also where we run behind nohup
    stopped = subprocess.run(
        words, env=environment, capture_output=True, text=True, preexec_fn=default_sigint
    )
    assert stopped.returncode == -getattr(signal, trap), stopped.stderr
    done = {path: path.stat().st_mtime_ns for path in Path("out/units").glob("??/*.jsonl")}
    assert len(done) < 12
    rest = prepare(colour_stage(), clips[:12], Path("out"), TWO)
    run_here(rest)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert collected("out") == one_by_one(colour_stage(), clips[:12], tmp_path / "single")


def test_two_drivers_at_once_share_the_work(clips, tmp_path):
    first = prepare(colour_stage(), clips[:20], Path("out"), TWO)
    second = prepare(colour_stage(), clips[:20], Path("out"), BatchOptions("local:1"))
    assert len(first.to_run) == len(second.to_run) == 20
    assert first.run().done == 20
    assert not any(each.is_first or each.error for each in run_here(second))  # it compared
    assert len(units("out")) == 20 and not Path("out/differing").exists()


def test_collect_refuses_while_clips_are_missing(clips):
    run_quickly(colour_stage(), clips[:2], "out", BatchOptions(limit=1))
    with pytest.raises(BatchError, match="1 of 2 clips have no result"):
        results.collect(Path("out"), Path("items"))
    assert not Path("items").exists()
    assert len(results.collect(Path("out"), Path("items"), partial=True)) == 1
    state = results.status(Path("out"))
    assert (state.done, state.left, state.running) == (1, 1, 0) and state.clips_per_minute


def test_frames_of_each_clip_come_in_a_folder_of_its_own(clips, tmp_path):
    stage = FramesStage(SamplingOptions(False, FrameSelection(every=3)))
    run_quickly(stage, clips[:2], "out")
    results.collect(Path("out"), Path("frames"))
    for clip in clips[:2]:
        fill_folder(SamplingJob((clip,), stage.sampling_options), tmp_path / "one" / clip.stem)
        mine, theirs = Path("frames") / clip.stem, tmp_path / "one" / clip.stem
        names = sorted(path.name for path in theirs.iterdir())
        assert names == sorted(path.name for path in mine.iterdir()) and "items.jsonl" in names
        assert all((mine / n).read_bytes() == (theirs / n).read_bytes() for n in names)


def test_points_of_many_clips_come_in_one_table(clips, tmp_path):
    rows = [f"{clip.name},0,1,{20 + n},20,1" for n, clip in enumerate(clips[:2])]
    table = tmp_path / "points.csv"
    table.write_text("\n".join(["video,frame_id,object_id,x,y,label", *rows]))
    stage = PropagateStage("light", {"fast": True}, table, stop=3)
    run_quickly(stage, clips[:3], "out")
    [(path, reason)] = results.status(Path("out")).failed
    assert path == str(clips[2]) and "no row has 'c0002.mp4'" in reason
    before = units("out")
    changed = [rows[0], rows[1].replace(",20,1", ",21,1")]
    table.write_text("\n".join(["video,frame_id,object_id,x,y,label", *changed]))
    fresh = PropagateStage("light", {"fast": True}, table, stop=3)
    again = prepare(fresh, clips[:2], Path("out"), TWO)
    assert [unit.name for unit in again.to_run] == [clips[1].name]  # of the changed rows alone
    assert units("out") == before


def test_boxes_of_an_earlier_batch_are_propagated(clips, tmp_path):
    run_quickly(colour_stage(), clips[:2], "boxes")
    stage = PropagateStage("light", {"fast": True}, boxes=Path("boxes"), stop=3)
    run_quickly(stage, clips[:1], "tracks")
    assert collected("tracks") == one_by_one(stage, clips[:1], tmp_path / "single")


def test_segments_equal_those_of_one_command_a_clip(clips, tmp_path):
    pytest.importorskip("skimage")
    stage = SegmentStage("slic", {"n_segments": 20}, FrameSelection(stop=2))
    run_quickly(stage, clips[:2], "out")
    assert collected("out") == one_by_one(stage, clips[:2], tmp_path / "single")


def test_shards_and_workers_that_do_not_exist_are_refused(clips):
    assert parse_shard("2/8") == (2, 8)
    for text in ("0/2", "3/2", "1", "a/b", "-1/2"):
        with pytest.raises(AnnotateError, match="expected I/N"):
            parse_shard(text)
    with pytest.raises(BatchError, match="no workers 'cloud'"):
        run(colour_stage(), clips[:1], "out", BatchOptions("cloud"))


def test_the_commands_run_count_and_collect(clips, tmp_path, annotate):
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "red.toml").write_text("[classes.red]\ncolour = [340, 20]\n")
    words = ["batch", "detect", clips[0], "zero.mp4", "-d", "colour", "-v", "red.toml", "-o", "out"]
    code, out, err = annotate(*words, "--on", "local:1")
    assert code == 3 and out == f"{tmp_path}/out\n"
    assert "zero.mp4: the file is empty" in err and "1 clip done (1 now), 1 failed" in err
    assert "Traceback" not in err and err.count("failed:") == 1
    code, out, err = annotate("batch", "status", "out")
    assert code == 0 and "detect\t1\t1\t0\t0\t" in out and "zero.mp4" in err
    code, out, err = annotate("batch", "collect", "out", "-o", "items")
    assert code == 1 and "1 of 2 clips have no result" in err and "--partial" in err
    assert annotate("batch", "collect", "out", "-o", "items", "--partial")[0] == 0
    assert (tmp_path / "items" / f"{clips[0].stem}.jsonl").is_file()
    code, _, err = annotate(*words, "--every", "2")
    assert code == 1 and "every: 1 in the file, 2 now" in err
    code, _, err = annotate(*words, "--gpus", "0.5")
    assert code == 1 and "--gpus shares out GPUs among workers of Ray: give --on ray" in err


def test_scenes_of_many_clips_come_in_the_database_of_one_command_a_clip(clips, tmp_path):
    chosen = clips[:3]
    for clip in chosen:
        library.add([clip], Path("single.db"))
    run_quickly(ScenesStage(), reversed(chosen), "out")
    renamed = Path(shutil.copy(chosen[1], tmp_path / "renamed.mp4"))
    run_quickly(ScenesStage(), [*chosen, renamed], "again")  # one content, two names
    assert results.collect(Path("again"), Path("merged.db")) == chosen
    assert Path("merged.db").read_bytes() == Path("single.db").read_bytes()
    library.add(chosen[2:], Path("grown.db"))
    assert results.collect(Path("out"), Path("grown.db")) == [chosen[1], chosen[0]]
    names = [clip.name for clip in library.list_clips(Path("grown.db"))]
    assert names == [chosen[n].name for n in (2, 1, 0)]
    with pytest.raises(BatchError, match="added to what is there"):
        results.collect(Path("out"), Path("grown.db"), force=True)


def test_scenes_under_another_name_are_no_difference_but_other_frames_are(clips, tmp_path):
    copy = Path(shutil.copy(clips[0], tmp_path / "copy.mp4"))
    dbs = []
    for clip, rate in ((clips[0], None), (copy, None), (copy, 2)):
        dbs.append(tmp_path / f"{len(dbs)}.db")
        library.add([clip], dbs[-1], FrameSelection(rate=rate))
    assert dbs[0].read_bytes() != dbs[1].read_bytes() and first_difference(*dbs[:2]) == 0
    assert first_difference(*dbs[1:]) == 1  # the row of the clip counts its frames
    library.merge([(dbs[0], copy.name, copy)], tmp_path / "named.db")
    assert (tmp_path / "named.db").read_bytes() == dbs[1].read_bytes()

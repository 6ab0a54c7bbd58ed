"""Clips that lie in an object store: known by their bytes, copied for a run, named by address."""

import json
import shutil
import uuid
from pathlib import Path

import pytest
from batch_stages import colour_stage, make_clips, run_here, trap_stage
from s3_server import serve

from annotate.batch import results
from annotate.batch.clips import clip_digest, expand_sources
from annotate.batch.run import BatchOptions, prepare
from annotate.batch.stages import FramesStage, PropagateStage, ScenesStage, current_key
from annotate.batch.stores import bucket
from annotate.batch.stores.bucket import BucketFolder
from annotate.batch.stores.remote_clips import find_clip, local_copy
from annotate.batch.worker import Task, UnitRunner
from annotate.errors import AnnotateError, BatchError, VideoError
from annotate.sampling.filter import SamplingOptions
from annotate.video.reader import FrameSelection

pytest.importorskip("s3fs", reason="needs s3fs: pip install 'annotate-local[s3]'")
pytest.importorskip("moto", reason="needs moto: pip install 'moto[s3]' flask flask-cors")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of moto and the AWS client


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), 4)


@pytest.fixture(scope="module")
def server():
    with serve() as application:
        yield application


@pytest.fixture
def source(server, clips, monkeypatch):
    """A prefix that holds c0000.mp4, c0001.mp4, deep/c0002.mp4, and notes.txt."""
    monkeypatch.setattr(bucket, "_PAUSE_SECONDS", 0.0)
    folder = BucketFolder(f"s3://bucket-{uuid.uuid4().hex[:12]}/show")
    folder._system.mkdir(folder.url.split("/")[2])
    for name, clip in zip(["c0000.mp4", "c0001.mp4", "deep/c0002.mp4"], clips, strict=False):
        folder.upload(name, clip)
    folder.write("notes.txt", b"mine")
    server.requests.clear()
    return folder


def names(*sources):
    return [clip.as_posix().partition("/show/")[2] for clip in expand_sources(sources)]


def items_of(path):
    """The path of the clip, and all lines without it."""
    first, *rest = path.read_text().splitlines()
    header = json.loads(first)
    [entry] = header["videos"].values()
    return entry.pop("path"), [header, *rest]


def test_addresses_and_patterns_are_sources(source):
    assert names(f"{source.url}/c0001.mp4") == ["c0001.mp4"]
    assert names(f"{source.url}/*.mp4") == ["c0000.mp4", "c0001.mp4"]
    assert names(f"{source.url}/**/*.mp4") == ["c0000.mp4", "c0001.mp4", "deep/c0002.mp4"]
    Path("list.txt").write_text(f"{source.url}/deep/*\n{source.url}/c0000.mp4\n")
    assert names(Path("list.txt")) == ["deep/c0002.mp4", "c0000.mp4"]
    for missing in ("none.mp4", "*.mkv"):
        with pytest.raises(VideoError, match="no such clip"):
            expand_sources([f"{source.url}/{missing}"])
    with pytest.raises(VideoError, match="expected the address of a clip"):
        expand_sources(["s3://bucket/../x.mp4"])


@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
def test_the_digest_is_that_of_a_copy(size, source, clips, tmp_path):
    data = (clips[0].read_bytes() * (size // 1000 + 1))[:size]
    (tmp_path / "a.mp4").write_bytes(data)
    source.write("a.mp4", data)
    assert find_clip(f"{source.url}/a.mp4").digest() == clip_digest(tmp_path / "a.mp4")


def test_a_batch_of_addresses_gives_the_items_of_local_clips(source, server, clips, tmp_path):
    sources = [f"{source.url}/**/*.mp4"]
    run_here(prepare(colour_stage(), sources, Path("out"), BatchOptions()))
    results.collect(Path("out"), Path("items"))
    for name, clip in zip(["c0000", "c0001", "deep/c0002"], clips, strict=False):
        folder = tmp_path / clip.stem
        folder.mkdir()
        path, lines = items_of(Path("items", f"{clip.stem}.jsonl"))
        expected = items_of(colour_stage().run(clip, folder, lambda item: None))
        assert path == f"{source.url}/{name}.mp4"
        lines[0]["videos"] = dict(zip([clip.name], lines[0]["videos"].values(), strict=True))
        assert lines[0] == expected[1][0]
    assert not list(Path("out/work").iterdir())
    server.requests.clear()
    again = prepare(colour_stage(), sources, Path("out"), BatchOptions())
    assert again.done == 3 and [method for method, _ in server.requests] == ["GET"]  # the listing
    local = prepare(colour_stage(), [clips[0]], Path("out"), BatchOptions())
    assert local.done == 1  # the same bytes are the same unit, wherever they lie


def test_frames_name_the_address_too(source):
    stage = FramesStage(SamplingOptions(False, FrameSelection(every=4)))
    run_here(prepare(stage, [f"{source.url}/c0000.mp4"], Path("out"), BatchOptions()))
    [folder] = results.collect(Path("out"), Path("frames"))
    assert items_of(folder / "items.jsonl")[0] == f"{source.url}/c0000.mp4"
    assert list(folder.glob("**/*.png")) and not list(Path("out/work").iterdir())


def test_points_are_found_by_the_end_of_the_address(source, tmp_path):
    Path("points.csv").write_text(
        "video,frame_id,object_id,x,y,label\ndeep/c0002.mp4,0,1,20,20,1\n"
    )
    stage = PropagateStage("light", {"fast": True}, Path("points.csv"))
    planned = prepare(stage, [f"{source.url}/**/*.mp4"], Path("out"), BatchOptions())
    [task] = planned.tasks()
    assert task.clip == f"{source.url}/deep/c0002.mp4" and len(planned.failed) == 2
    with local_copy(task.clip, tmp_path / "here") as clip:
        assert current_key(stage, clip) == task.key
    assert not list(Path("here").rglob("*.mp4"))


def test_a_clip_that_was_replaced_since_it_was_listed_is_not_taken_for_it(source, clips):
    planned = prepare(colour_stage(), [f"{source.url}/c0000.mp4"], Path("out"), BatchOptions())
    runner = UnitRunner([planned.output])
    runner.check(*planned.tasks())
    source.upload("c0000.mp4", clips[3])
    with pytest.raises(AnnotateError, match="changed meanwhile"):
        runner.check(*planned.tasks())
    [outcome] = run_here(planned)
    assert outcome.error.startswith(f"{source.url}/c0000.mp4: it, or the weights")
    source.remove("c0000.mp4")
    [outcome] = run_here(planned)
    assert outcome.error == f"{source.url}/c0000.mp4: no such clip"
    assert not list(Path("out").rglob("*.mp4"))


def test_an_error_names_the_address_and_leaves_no_copy(source, clips):
    source.write("cut.mp4", clips[0].read_bytes()[:700])
    planned = prepare(colour_stage(), [f"{source.url}/cut.mp4"], Path("out"), BatchOptions())
    [outcome] = run_here(planned)
    assert f"{source.url}/cut.mp4" in outcome.error and str(Path.cwd()) not in outcome.error
    assert not list(Path("out").rglob("*.mp4"))


def test_a_copy_that_a_killed_worker_left_is_used_and_removed(source, server, clips):
    planned = prepare(colour_stage(), [f"{source.url}/c0000.mp4"], Path("out"), BatchOptions())
    [task] = planned.tasks()
    with planned.output.store.attempt(task.key) as folder:
        copy = folder / "clip" / task.clip.removeprefix("s3://")
        copy.parent.mkdir(parents=True)
        shutil.copy(clips[0], copy)
    server.requests.clear()
    [outcome] = run_here(planned)
    assert not outcome.error and not server.requests and not list(Path("out/work").iterdir())


def test_a_copy_of_a_clip_that_is_done_is_removed_by_the_next_run(source):
    sources, place = [f"{source.url}/c0000.mp4"], f"{source.url}/out"
    planned = prepare(colour_stage(), sources, place, BatchOptions())
    run_here(planned)
    store = planned.output.store
    with store.attempt(planned.tasks()[0].key) as left:
        (left / "c0000.mp4").touch()
    prepare(colour_stage(), sources, place, BatchOptions())
    assert not list((store.local / "work").iterdir())


def test_stages_that_need_the_clip_itself_are_refused(source):
    for stage in (ScenesStage(), PropagateStage(boxes=Path("boxes"))):
        with pytest.raises(BatchError, match="must be on this machine: download them first"):
            prepare(stage, [f"{source.url}/c0000.mp4"], Path("out"), BatchOptions())


def test_a_clip_of_a_trap_runs_on_after_a_fault(source):
    stage = trap_stage(clip="c0000.mp4", trap="raise", once=Path("sprung"))
    planned = prepare(stage, [f"{source.url}/c0000.mp4"], f"{source.url}/out", BatchOptions())
    assert run_here(planned)[0].error and not run_here(planned)[0].error
    assert results.status(f"{source.url}/out").done == 1


def test_a_task_of_a_local_clip_needs_no_store(clips, server):
    planned = prepare(colour_stage(), clips[:1], Path("out"), BatchOptions())
    assert planned.tasks() == [Task(planned.to_run[0].key, clips[0].as_posix())]
    server.requests.clear()
    assert not run_here(planned)[0].error and not server.requests

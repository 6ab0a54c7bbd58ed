"""A batch whose results go to an object store: the bytes of a folder, each written once.

The store is moto's, on the loopback interface; nothing else is reached.
"""

import os
import pickle
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from batch_stages import colour_stage, make_clips, run_here, trap_stage
from s3_server import SILENCE, nth, serve

from annotate.batch import results
from annotate.batch.run import BatchOptions, prepare
from annotate.batch.stages import DetectStage, FramesStage
from annotate.batch.stores import bucket, object_store
from annotate.batch.stores.bucket import BucketFolder
from annotate.batch.stores.object_store import ObjectStore
from annotate.batch.stores.store import open_store
from annotate.errors import BatchError, MissingPackage, OutputError, ResultsDiffer
from annotate.sampling.filter import SamplingOptions
from annotate.video.reader import FrameSelection
from annotate.vocabulary import read_vocabulary

pytest.importorskip("s3fs", reason="needs s3fs: pip install 'annotate-local[s3]'")
pytest.importorskip("moto", reason="needs moto: pip install 'moto[s3]' flask flask-cors")
pytestmark = pytest.mark.filterwarnings("ignore")  # those of moto and the AWS client
KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture(scope="module")
def server():
    with serve() as application:
        yield application


@pytest.fixture
def url(server, monkeypatch):
    """The address of a prefix in a new bucket."""
    monkeypatch.setattr("random.random", lambda: 0.0)  # the pauses of the AWS client
    monkeypatch.setattr(bucket, "_PAUSE_SECONDS", 0.0)
    server.fault = lambda method, path: None
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    BucketFolder(f"s3://{name}/x")._system.mkdir(name)
    server.requests.clear()
    yield f"s3://{name}/batch"
    server.fault = lambda method, path: None


@pytest.fixture
def new_client(url):
    """Let the AWS client read its variables again, and once more after the test."""
    forget = sys.modules["s3fs"].S3FileSystem.clear_instance_cache
    forget()
    yield
    forget()


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), 12)


def draft(store, text):
    """Make a finished file as a worker does; returns it, and leaves its folder."""
    folder = store.local / "work" / f"{KEY}.here.{uuid.uuid4().hex[:4]}"
    folder.mkdir(parents=True)
    (folder / "items.txt").write_text(text)
    return folder / "items.txt"


def bodies(place):
    """Name -> bytes of the results in a folder or in a store."""
    if isinstance(place, Path):
        return {p.name: p.read_bytes() for p in place.glob("units/??/*")}
    folder = BucketFolder(place)
    return {Path(name).name: folder.read(name) for name in folder.names("units/")}


def test_of_two_writers_one_is_first_and_an_equal_result_is_dropped(url):
    store, other = ObjectStore(url), pickle.loads(pickle.dumps(ObjectStore(url)))
    drafts = [draft(store, "same\n") for _ in range(8)]
    firsts = []
    threads = [
        threading.Thread(target=lambda s=s, d=d: firsts.append(s.commit(KEY, d)))
        for s, d in zip([store, other] * 4, drafts, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(firsts) == [False] * 7 + [True]
    assert bodies(url) == {f"{KEY}.txt": b"same\n"}
    assert not any(each.parent.exists() for each in drafts)
    assert not BucketFolder(url).names("differing/")


def test_a_result_that_differs_is_kept_and_named_with_the_line(url):
    store = ObjectStore(url)
    assert store.commit(KEY, draft(store, "a\nb\nc\n"))
    with pytest.raises(ResultsDiffer, match="differ at line 3: s3://") as raised:
        store.commit(KEY, draft(store, "a\nb\nx\n"))
    assert bodies(url) == {f"{KEY}.txt": b"a\nb\nc\n"}
    [kept] = BucketFolder(url).names("differing/")
    assert f"{url}/{kept}" in str(raised.value)
    assert BucketFolder(url).read(kept) == b"a\nb\nx\n"


@pytest.mark.parametrize("fault", [500, 503, SILENCE])
def test_what_may_pass_is_tried_again(fault, server, url, monkeypatch):
    if fault == SILENCE:
        monkeypatch.setattr(bucket, "_READ_SECONDS", 0.5)
    store = ObjectStore(url)
    server.fault = nth(2, fault, part="/units/")
    assert store.commit(KEY, draft(store, "a\n"))
    assert server.count("PUT", "/units/") >= 3
    server.fault = nth(1, fault, "GET")
    assert store.done_keys() == {KEY}
    server.fault = nth(1, fault, "GET", part="/units/")
    assert store.fetch(KEY, ".txt").read_text() == "a\n"


def test_a_result_that_arrived_although_the_answer_did_not_is_no_second_one(server, url):
    store = ObjectStore(url)
    folder, file = BucketFolder(url), draft(store, "a\n")

    def answer_lost(method, path):
        if method == "PUT" and "/units/" in path and not server.lost:
            server.lost = True
            server.fault = lambda method, path: None
            folder.create(f"units/{KEY[:2]}/{KEY}.txt", b"a\n")
            return 500
        return None

    server.lost, server.fault = False, answer_lost
    assert not store.commit(KEY, file) and server.lost
    assert bodies(url) == {f"{KEY}.txt": b"a\n"} and not folder.names("differing/")


def test_an_upload_whose_end_was_repeated_is_there_and_an_aborted_one_is_not(server, url):
    body = b"<Error><Code>NoSuchUpload</Code><Message>it ended</Message></Error>"
    folder = BucketFolder(url)
    folder.write("units/x", b"1")
    server.fault = nth(1, (404, body))
    assert not folder.create("units/x", b"1")
    server.fault = nth(1, (404, body))
    with pytest.raises(OutputError, match="units/y: the upload was aborted"):
        folder.create("units/y", b"1")


def test_writers_that_meet_try_again(server, url):
    body = b"<Error><Code>ConditionalRequestConflict</Code><Message>later</Message></Error>"
    server.fault = nth(2, (409, body))
    assert BucketFolder(url).create("units/x", b"1")
    server.fault = nth(9, (409, body))
    with pytest.raises(OutputError, match="the object store answers 409"):
        BucketFolder(url).create("units/y", b"1")


def test_a_store_that_stays_ill_ends_with_a_line_after_a_bound(
    server, url, new_client, monkeypatch
):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")
    server.fault = lambda method, path: 500
    with pytest.raises(OutputError, match=r"units/x: the object store answers 500"):
        BucketFolder(url).write("units/x", b"1")
    assert len(server.requests) == 3


def test_a_412_without_a_name_of_the_condition_is_one_too(server, url):
    """As other stores than Amazon's answer."""
    body = b"<Error><Code>PreconditionFailed</Code><Message>it is there</Message></Error>"
    server.fault = nth(1, (412, body))
    assert not BucketFolder(url).create("units/x", b"1")


def test_more_than_a_thousand_results_are_listed_page_by_page(server, url, monkeypatch):
    store = ObjectStore(url)
    keys = {f"{number:064x}" for number in range(1003)}
    moto_bucket(url)(f"batch/units/{key[:2]}/{key}.jsonl" for key in keys)
    server.requests.clear()
    assert store.done_keys() == keys and len(server.requests) == 2
    assert store.clips_per_minute() > 0 and len(server.requests) == 2
    server.requests.clear()
    server.fault = nth(1, 500, "GET")
    assert store.done_keys() == keys


def moto_bucket(url):
    """Return a function that puts empty objects into a bucket of the server in this process."""
    from moto.s3.models import s3_backends

    [backend] = [each["aws"] for each in s3_backends.values() if "aws" in each]
    name = url.split("/")[2]
    return lambda names: [backend.put_object(name, each, b"") for each in names]


def test_a_batch_gives_the_bytes_of_a_folder_and_is_found_done(server, url, clips):
    run_here(prepare(colour_stage(), clips, Path("out"), BatchOptions()))
    for number in (1, 2):
        part = prepare(colour_stage(), clips, url, BatchOptions(shard=(number, 2)))
        assert 0 < len(part.to_run) < 12
        run_here(part)
        part.output.store.close()
    assert bodies(url) == bodies(Path("out"))
    assert results.collect(url, Path("items")) == [Path("items", f"{c.stem}.jsonl") for c in clips]
    results.collect(Path("out"), Path("expected"))
    for path in Path("expected").iterdir():
        assert (Path("items") / path.name).read_bytes() == path.read_bytes()
    assert not list(Path("items").glob(".*"))
    server.requests.clear()
    again = prepare(colour_stage(), clips, url, BatchOptions())
    assert again.done == 12 and not again.to_run
    methods = [method for method, _ in server.requests]
    assert methods == ["PUT", "PUT", "DELETE", "HEAD", "GET", "GET", "GET"]  # plan, two listings
    state = results.status(url)
    assert (state.done, state.left, state.running) == (12, 0, 0) and state.clips_per_minute
    logs = BucketFolder(url)
    lines = b"".join(logs.read(name) for name in logs.names("log/")).splitlines()
    assert len(lines) == 12 and not list(part.output.store.local.glob("log/*.jsonl"))
    assert not list((part.output.store.local / "work").iterdir())


def test_frames_are_collected_from_an_archive(url, clips):
    stage = FramesStage(SamplingOptions(False, FrameSelection(every=4)))
    run_here(prepare(stage, clips[:1], url, BatchOptions()))
    [folder] = results.collect(url, Path("frames"))
    assert (folder / "items.jsonl").is_file() and list(folder.glob("**/*.png"))


def test_a_clip_that_fails_is_recorded_and_run_again_on_request(url, clips):
    stage = trap_stage(clip=clips[0].name, trap="raise", once=Path("sprung"))
    run_here(prepare(stage, clips[:2], url, BatchOptions()))
    state = results.status(url)
    assert state.done == 1 and "ZeroDivisionError" in state.failed[0][1]
    again = prepare(stage, clips[:2], url, BatchOptions())
    assert len(again.failed) == 1 and not again.to_run
    with pytest.raises(BatchError, match="1 of 2 clips have no result"):
        results.collect(url, Path("items"))
    run_here(prepare(stage, clips[:2], url, BatchOptions(retry_failed=True)))
    state = results.status(url)
    assert state.done == 2 and not state.failed


COMMAND = """
import sys
from pathlib import Path
from batch_stages import trap_stage
from annotate.batch.run import BatchOptions, prepare

if __name__ == "__main__":
    out, once, *clips = sys.argv[1:]
    stage = trap_stage(clip=Path(clips[5]).name, trap="SIGKILL", once=Path(once))
    prepare(stage, list(map(Path, clips)), out, BatchOptions("local:1")).run()
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_goes_on_to_the_bytes_of_a_folder(server, url, clips, tmp_path):
    run_here(prepare(colour_stage(), clips, Path("out"), BatchOptions()))
    (tmp_path / "command.py").write_text(COMMAND)
    words = [sys.executable, tmp_path / "command.py", url, tmp_path / "sprung", *clips]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    done = bodies(url)
    assert len(done) < 12
    rest = prepare(colour_stage(), clips, url, BatchOptions())
    assert rest.done == len(done) and len(rest.to_run) == 12 - len(done)
    server.requests.clear()
    outcomes = run_here(rest)
    assert server.count("PUT", "/units/") == len(outcomes)
    assert bodies(url) == bodies(Path("out"))


def test_a_bucket_or_credentials_that_are_wrong_give_one_line(
    server, url, new_client, clips, monkeypatch
):
    missing = "s3://no-such-bucket-here/batch"
    with pytest.raises(OutputError, match=r"no-such-bucket-here/batch/\S+: no such bucket"):
        prepare(colour_stage(), clips, missing, BatchOptions())
    body = b"<Error><Code>SignatureDoesNotMatch</Code><Message>verysecretkey</Message></Error>"
    server.fault = lambda method, path: (403, body)
    with pytest.raises(OutputError, match="access denied") as raised:
        prepare(colour_stage(), clips, url, BatchOptions())
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    sys.modules["s3fs"].S3FileSystem.clear_instance_cache()
    with pytest.raises(OutputError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        prepare(colour_stage(), clips, url, BatchOptions())


def test_a_server_that_is_not_there_gives_one_line_without_a_password(url, new_client, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:hunter2@127.0.0.1:1")
    with pytest.raises(OutputError, match="127.0.0.1:1") as raised:
        BucketFolder(url).read("plan.jsonl")
    assert "hunter2" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_store_that_would_write_twice_is_refused(server, url, clips):
    def ignoring(environment, start, store=server.store):
        environment.pop("HTTP_IF_NONE_MATCH", None)
        return store(environment, start)

    store = server.store
    server.store = ignoring
    try:
        with pytest.raises(OutputError, match="ignores If-None-Match"):
            prepare(colour_stage(), clips, url, BatchOptions())
    finally:
        server.store = store
    assert not BucketFolder(url).names("")


def test_objects_of_something_else_are_not_written_among(url, clips):
    BucketFolder(url).write("units/mine.txt", b"1")
    with pytest.raises(OutputError, match=r"units: not of such a run \(no plan.jsonl"):
        prepare(colour_stage(), clips, url, BatchOptions())


def test_other_machines_recognise_the_output_by_a_token(url):
    store = ObjectStore(url)
    store.write_token("t")
    ObjectStore(url).check_shared("t")
    store.remove_token("t")
    with pytest.raises(OutputError, match="another object store than that of the driver"):
        store.check_shared("t")


def test_a_log_is_sent_in_pieces_and_a_piece_of_a_killed_process_later(url, monkeypatch):
    store = ObjectStore(url)
    store.log({"key": KEY})
    assert not BucketFolder(url).names("log/")
    monkeypatch.setattr(object_store, "_LOG_SECONDS", 0)
    store.log({"key": OTHER})
    assert len(BucketFolder(url).names("log/")) == 1
    (store.local / "log" / ".here-7-1.jsonl").write_text("{}\n")  # killed before it was sent
    ObjectStore(url).close()
    assert len(BucketFolder(url).names("log/")) == 2
    assert not list((store.local / "log").glob(".*"))


@pytest.mark.parametrize("place", ["gs://bucket/x", "s3://", "s3:///x", "ftp://x/y"])
def test_other_addresses_are_refused(place):
    with pytest.raises(OutputError, match="expected a folder, or an address s3://BUCKET/PREFIX"):
        open_store(place)


def test_without_the_extra_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackage, match=r"pip install 'annotate-local\[s3\]'"):
        open_store("s3://bucket/x")


def test_the_commands_take_an_address(url, clips, tmp_path, annotate):
    (tmp_path / "red.toml").write_text("[classes.red]\ncolour = [340, 20]\n")
    stage = DetectStage("colour", read_vocabulary("red.toml"))
    run_here(prepare(stage, clips[:1], url, BatchOptions()))
    words = ["batch", "detect", clips[0], "-d", "colour", "-v", "red.toml", "-o", url]
    code, out, err = annotate(*words)
    assert code == 0 and out == f"{url}\n" and "1 clip done (0 now)" in err
    code, out, err = annotate("batch", "status", url)
    assert code == 0 and "detect\t1\t0\t0\t0\t" in out
    code, out, err = annotate("batch", "collect", url, "-o", "items")
    assert code == 0 and (tmp_path / "items" / f"{clips[0].stem}.jsonl").is_file(), err
    code, out, err = annotate("batch", "status", "s3://no-such-bucket-here/x")
    assert code == 1 and err.count("\n") == 1 and "no such bucket" in err

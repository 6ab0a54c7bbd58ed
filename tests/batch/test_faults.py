"""A disk that is full or read-only, and a worker that goes on too late, spoil no result."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch_stages import colour_stage, driver_command, make_clips, run_here

from annotate.batch.run import BatchOptions, prepare
from annotate.batch.stages import ScenesStage
from annotate.batch.worker import UnitRunner
from annotate.items import journal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and mounts")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), 4)


def batch(clips, out="out", stage=None):
    return prepare(stage or colour_stage(), clips, Path(out), BatchOptions("local:1"))


def units(out):
    files = [path for path in (Path(out) / "units").glob("??/*") if path.is_file()]
    return {path.name: path.read_bytes() for path in files}


def expected(clips, stage=None):
    run_here(batch(clips, "expected", stage))
    return units("expected")


def failing(function, error_number, number=1):
    """Return the function, which fails when it is called for the `number`-th time."""
    calls = []

    def call(*given, **options):
        calls.append(given)
        if len(calls) == number:
            raise OSError(error_number, os.strerror(error_number))
        return function(*given, **options)

    return call


FULL, READ_ONLY = errno.ENOSPC, errno.EROFS


@pytest.mark.parametrize(
    "owner, name, error_number, number, done",
    [
        (journal, "item_to_json", FULL, 13, 1),  # at a frame of the second clip
        (os, "fsync", FULL, 3, 1),  # of the second result: file, folder, file
        (os, "link", READ_ONLY, 2, 1),
        (os, "mkdir", READ_ONLY, 1, 0),
    ],
)
def test_what_cannot_be_written_ends_the_run_fails_no_clip_and_is_done_later(
    owner, name, error_number, number, done, clips, monkeypatch
):
    planned = batch(clips)
    runner = UnitRunner([planned.output])
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, failing(getattr(owner, name), error_number, number))
        outcomes = [runner.run(task) for task in planned.tasks()[: done + 1]]
    assert [each.is_fatal for each in outcomes] == [False] * done + [True]
    assert os.strerror(error_number) in outcomes[-1].error and "\n" not in outcomes[-1].error
    store = planned.output.store
    assert len(store.done_keys()) == done and not store.failed_keys()
    run_here(batch(clips))
    assert units("out") == expected(clips) and not any(Path("out/work").iterdir())


def test_an_output_that_is_a_file_is_refused_in_one_line(clips, tmp_path, annotate):
    (tmp_path / "out").write_text("mine")
    words = ["batch", "scenes", clips[0], "-o", "out", "--on", "local:1"]
    code, out, err = annotate(*words)
    assert code == 1 and not out and "out" in err and err.strip().count("\n") == 0
    assert (tmp_path / "out").read_text() == "mine"


STOPPED = """
import sys
from pathlib import Path
from batch_stages import run_here, trap_stage
from annotate.batch.run import BatchOptions, prepare

clip = Path(sys.argv[1])
stage = trap_stage(clip=clip.name, frame=7, trap="SIGSTOP")
[outcome] = run_here(prepare(stage, [clip], Path("out"), BatchOptions()))
print(outcome.frames, outcome.is_first, outcome.error)
"""


def test_a_worker_that_was_stopped_and_goes_on_too_late_changes_nothing(clips):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    words = [sys.executable, "-c", STOPPED, str(clips[0])]
    late = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    _, status = os.waitpid(late.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)  # at its last frame
    planned = batch(clips[:1])
    assert planned.output.store.running_count() == 1
    [outcome] = run_here(planned)
    [result] = Path("out/units").glob("??/*")
    before = (result.stat().st_ino, result.stat().st_mtime_ns, result.read_bytes())
    assert outcome.is_first
    late.send_signal(signal.SIGCONT)
    text, _ = late.communicate()
    assert text == "8 False \n"  # it did all its frames, and was not first
    assert (result.stat().st_ino, result.stat().st_mtime_ns, result.read_bytes()) == before
    assert not Path("out/differing").exists() and not any(Path("out/work").iterdir())


DISK = """
mount -t tmpfs -o size="$1" none out || exit 77
shift
"$@" 2> full; echo $? > codes
mount -o remount,ro out; "$@" 2> read-only; echo $? >> codes
cp -r out/failed . 2> /dev/null
mount -o remount,rw,size=32m out; "$@"; echo $? >> codes
cp -r out/units .
"""


@pytest.mark.skipif("BATCH_CLIPS" not in os.environ, reason="takes long: set BATCH_CLIPS")
@pytest.mark.parametrize(
    "stage, size", [(colour_stage(), "20k"), (ScenesStage(), "36k")], ids=["detect", "scenes"]
)
def test_a_disk_that_is_full_then_read_only_then_neither(stage, size, clips, tmp_path):
    Path("out").mkdir()
    Path("disk.sh").write_text(DISK)
    command = driver_command(tmp_path, stage, clips, tmp_path / "out", "local:1")
    apart = ["unshare", "--user", "--map-root-user", "--mount", "sh", "disk.sh", size]
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare")
    process = subprocess.run([*apart, *command], capture_output=True, text=True)
    if process.returncode == 77:
        pytest.skip(f"no disk of our own: {process.stderr}")
    assert Path("codes").read_text().split() == ["1", "1", "0"], process.stderr
    for name, reason in (("full", "No space left"), ("read-only", "Read-only file system")):
        text = Path(name).read_text()
        assert text.count("\n") == 1 and (reason in text or "disk is full" in text), text
    assert not Path("failed").exists() and 0 < int(process.stdout) < 4
    made = {path.name: path.read_bytes() for path in Path("units").rglob("*.*")}
    assert made == expected(clips, stage)

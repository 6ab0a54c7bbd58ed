"""Ray without its head, with a worker that is stopped for a while, and without a network.

Each needs a cluster of its own, which takes half a minute: `BATCH_CLIPS=1` runs them.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from batch_stages import colour_stage, driver_command, make_clips, run_here, trap_stage

from annotate.batch.ray_actors import _LOOPBACK, _VARIABLES
from annotate.batch.run import BatchOptions, prepare

pytest.importorskip("ray", reason="needs ray: pip install 'annotate-local[ray]'")
pytestmark = [
    pytest.mark.skipif("BATCH_CLIPS" not in os.environ, reason="takes minutes: set BATCH_CLIPS"),
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def clips(tmp_path):
    return make_clips(tmp_path / "clips", 8)


@pytest.fixture
def drive(tmp_path):
    """Start a driver in a process of its own, whose first words are `before`."""

    def drive(stage, clips, *, on="ray", silence=600, before=()):
        command = driver_command(tmp_path, stage, clips, tmp_path / "out", on, silence)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*before, *command], **pipes)

    return drive


def units(out):
    files = [path for path in (Path(out) / "units").glob("??/*") if path.is_file()]
    return {path.name: path.read_bytes() for path in files}


def expected(clips):
    run_here(prepare(colour_stage(), clips, Path("here"), BatchOptions()))
    return units("here")


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None, process.communicate()
        signal.sigtimedwait([], 0.1)


def test_a_driver_whose_head_dies_ends_with_one_line_and_the_rest_is_done_later(
    clips, drive, tmp_path, monkeypatch
):
    from ray.cluster_utils import Cluster

    for name, value in {**_VARIABLES, **_LOOPBACK, "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster()
    try:
        head = cluster.add_node(num_cpus=0, include_dashboard=False, **small)
        cluster.add_node(num_cpus=1, **small)
        stage = trap_stage(clip=clips[4].name, trap="wait", once=tmp_path / "sprung")
        driver = drive(stage, clips, on=f"ray:{cluster.address}")
        wait_for(tmp_path / "sprung", driver)
        head.all_processes["gcs_server"][0].process.kill()
        _, text = driver.communicate()  # it waits for the head, for less than the test's time
        assert driver.returncode == 1
        assert text.startswith("the head of the Ray cluster at 127.0.0.1:")
        assert text.count("\n") == 1 and "give the command again" in text
    finally:
        cluster.shutdown()
    assert len(units("out")) == 4
    run_here(prepare(colour_stage(), clips, Path("out"), BatchOptions()))
    assert units("out") == expected(clips)


def test_a_worker_that_was_stopped_and_replaced_changes_nothing_when_it_goes_on(
    clips, drive, tmp_path
):
    sprung = tmp_path / "sprung"
    stage = trap_stage(clip=clips[4].name, frame=7, trap="SIGSTOP", once=sprung)
    driver = drive(stage, clips, silence=15)
    text, errors = driver.communicate()
    assert text == "8\n", errors
    done = {path: path.stat().st_mtime_ns for path in Path("out/units").glob("??/*")}
    try:
        os.kill(int(sprung.read_text()), signal.SIGCONT)
        while True:  # until it has ended
            os.kill(int(sprung.read_text()), 0)
            signal.sigtimedwait([], 0.1)
    except ProcessLookupError:
        pass
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert units("out") == expected(clips) and not Path("out/differing").exists()


NETWORK = """
ip link set lo up &&
ip link add outside type veth peer name other &&
for name in outside other; do ip link set $name addrgenmode none up || exit 77; done &&
ip address add 10.9.9.9/24 dev outside &&
ip route add default dev outside || exit 77
count=$1
shift
"$@"
code=$?
awk '/outside/ { print $11 }' /proc/net/dev > "$count"
exit $code
"""
SEND = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))"


def test_nothing_is_sent_to_another_machine(clips, drive, tmp_path):
    """In a network where all that is not for this machine leaves by one link, nothing does."""
    script, count = tmp_path / "network.sh", tmp_path / "packets"
    script.write_text(NETWORK)
    apart = ["unshare", "--user", "--map-root-user", "--net", "sh", script, count]
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs unshare and ip")
    trial = subprocess.run([*apart, sys.executable, "-c", SEND], capture_output=True, text=True)
    if trial.returncode:
        pytest.skip(f"no network of our own: {trial.stderr}")
    assert int(count.read_text()) > 0  # what is sent out is counted
    driver = drive(colour_stage(), clips, before=apart)
    text, errors = driver.communicate()
    assert text == "8\n", errors
    assert int(count.read_text()) == 0

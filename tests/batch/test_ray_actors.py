"""A batch on Ray gives the bytes of one command a clip, though a worker and a node die.

The cluster is a head without cores and two nodes of one core, all on the loopback interface. A clip
of the stage kills the process that runs it, or the raylet above that, which is the node.
"""

import os
from pathlib import Path

import pytest
from batch_stages import colour_stage, make_clips, run_here, trap_stage

from annotate.batch.driver import Driver
from annotate.batch.ray_actors import _LOOPBACK, _VARIABLES, RayEngine, _join
from annotate.batch.run import BatchOptions, prepare
from annotate.batch.worker import Task
from annotate.errors import BatchError

ray = pytest.importorskip("ray", reason="needs ray: pip install 'annotate-local[ray]'")
pytestmark = [
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals"),
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), 24)


def start_cluster():
    from ray.cluster_utils import Cluster

    small = {"object_store_memory": 100 * 2**20}
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=0, include_dashboard=False, **small)
        for _ in range(2):
            cluster.add_node(num_cpus=1, **small)
    except Exception as error:  # Ray gives each node thirty seconds
        cluster.shutdown()
        return str(error)
    return cluster


@pytest.fixture(scope="module")
def cluster():
    support = Path(__file__).parents[1] / "support"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**_VARIABLES, **_LOOPBACK, "RAY_AUTH_MODE": "disabled"}.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", str(support), prepend=os.pathsep)
        patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)  # read at its import
        for _ in range(3):
            cluster = start_cluster()
            if not isinstance(cluster, str):
                break
        else:
            pytest.skip(f"Ray does not start its nodes in its own time: {cluster}")
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()  # `ray stop` would end every Ray of this machine


def units(out):
    files = [path for path in (Path(out) / "units").glob("??/*") if path.is_file()]
    return {path.name: path.read_bytes() for path in files}


def run(stage, clips, out):
    batch = prepare(stage, clips, Path(out), BatchOptions("ray"))
    tally = batch.run()
    starts = [r for r in batch.output.store.log_records() if "frames" in r]
    return tally, starts


def alive_nodes():
    return sum(node["Alive"] for node in ray.nodes())


def test_a_worker_that_is_killed_is_replaced(cluster, clips, tmp_path):
    assert cluster.address.startswith("127.0.0.1:")
    stage = trap_stage(clip=clips[5].name, once=tmp_path / "sprung")
    tally, ends = run(stage, clips, "out")
    assert (tmp_path / "sprung").exists() and not tally.failures
    assert tally.done == len(ends) == 24 and all(each["first"] for each in ends)
    run_here(prepare(colour_stage(), clips, Path("here"), BatchOptions()))
    assert units("out") == units("here")


def test_an_address_without_a_cluster_is_refused_at_once():
    with pytest.raises(BatchError, match="no Ray cluster at 127.0.0.1:1: nothing answers there"):
        _join(ray, "127.0.0.1:1")


def test_a_node_whose_output_is_another_folder_is_refused(cluster, clips, monkeypatch):
    batch = prepare(colour_stage(), clips[:1], Path("out"), BatchOptions("ray"))
    engine = RayEngine([batch.output], Task(batch.to_run[0].key, batch.to_run[0].path))
    batch.output.store.remove_token(engine._token)
    with pytest.raises(BatchError, match="another folder than that of the driver"):
        Driver(engine, [batch.output]).run(batch.tasks())


def test_a_node_that_dies_loses_nothing(cluster, clips, tmp_path):
    assert alive_nodes() == 3
    stage = trap_stage(clip=clips[5].name, trap="SIGKILL", once=tmp_path / "sprung")
    tally, ends = run(stage, clips, "out")
    assert (tmp_path / "sprung").exists() and not tally.failures and tally.done == 24
    assert len({each["key"] for each in ends if each["first"]}) == 24
    run_here(prepare(colour_stage(), clips, Path("here"), BatchOptions()))
    assert units("out") == units("here")

"""The same bytes by processes, by shards and by Ray, also where workers and drivers are killed.

`BATCH_CLIPS=1000` runs a thousand clips, Ray, and thirty kills: some minutes. Without it there are
fewer clips and kills, and no Ray, which has a test file of its own.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from batch_stages import RED, ManyTrapsStage, colour_stage, make_clips, run_here

from annotate.batch.run import BatchOptions, prepare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
BY_HAND = "BATCH_CLIPS" in os.environ
COUNT = int(os.environ.get("BATCH_CLIPS", "60"))
WORKER_KILLS, DRIVER_KILLS = (24, 6) if BY_HAND else (2, 1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return make_clips(tmp_path_factory.mktemp("clips"), COUNT)


@pytest.fixture(scope="module")
def expected(clips, tmp_path_factory):
    """Key -> bytes, by two shards, one after the other in this process."""
    out = tmp_path_factory.mktemp("batch") / "shards"
    for number in (1, 2):
        run_here(prepare(colour_stage(), clips, out, BatchOptions(shard=(number, 2))))
    return units(out)


def units(out):
    files = [path for path in (Path(out) / "units").glob("??/*") if path.is_file()]
    return {path.name: path.read_bytes() for path in files}


def test_processes_give_the_same_bytes(clips, expected):
    tally = prepare(colour_stage(), clips, Path("out"), BatchOptions("local:2")).run()
    assert tally.done == COUNT == len(expected) and units("out") == expected


@pytest.mark.skipif(not BY_HAND, reason="takes minutes: set BATCH_CLIPS")
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_same_bytes(clips, expected, monkeypatch):
    pytest.importorskip("ray", reason="needs ray: pip install 'annotate-local[ray]'")
    support = Path(__file__).parents[1] / "support"
    monkeypatch.setenv("PYTHONPATH", str(support), prepend=os.pathsep)
    tally = prepare(colour_stage(), clips, Path("out"), BatchOptions("ray")).run()
    assert tally.done == COUNT and units("out") == expected


COMMAND = """
import pickle, sys
from pathlib import Path
from annotate.batch.run import BatchOptions, prepare

if __name__ == "__main__":
    stage, clips, out = pickle.loads(Path(sys.argv[1]).read_bytes())
    tally = prepare(stage, clips, out, BatchOptions("local:2")).run()
    assert not tally.failures, tally.failures
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_kills_lose_and_double_nothing(clips, expected, tmp_path):
    import pickle

    chosen = random.Random(1).sample(clips, WORKER_KILLS + DRIVER_KILLS)
    kinds = ["exit"] * WORKER_KILLS + ["SIGKILL"] * DRIVER_KILLS
    frames = [random.Random(2).randrange(8) for _ in chosen]
    traps = {c.name: (f, kind) for c, f, kind in zip(chosen, frames, kinds, strict=True)}
    marks = tmp_path / "marks"
    marks.mkdir()
    stage = ManyTrapsStage("colour", RED, traps=traps, marks=marks)
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "run").write_bytes(pickle.dumps((stage, clips, tmp_path / "out")))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    codes = []
    while 0 not in codes:  # the same command, until it ends by itself
        words = [sys.executable, tmp_path / "command.py", tmp_path / "run"]
        codes.append(subprocess.run(words, env=environment).returncode)
        assert len(codes) <= DRIVER_KILLS + 1
    assert len(list(marks.iterdir())) == WORKER_KILLS + DRIVER_KILLS
    assert codes.count(-9) == DRIVER_KILLS
    assert units(tmp_path / "out") == expected
    output = prepare(stage, clips, tmp_path / "out", BatchOptions()).output
    firsts = Counter(each["key"] for each in output.store.log_records() if each.get("first"))
    assert len(firsts) == COUNT and set(firsts.values()) == {1}
    assert not (tmp_path / "out" / "differing").exists()

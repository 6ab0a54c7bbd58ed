"""Kill trainings by `light` at many points, and check that each goes on to the same tensors.

    python benchmarks/kill_training.py [--points 20]

The points are spread over a training of five epochs: while features are computed, in the middle of
each epoch, while the state of each epoch is written (half a file is left), while the weights are
written, and while the folder of the model is filled. Each point is a training of its own, which is
killed once by SIGKILL and then given again. Printed is for each point whether the tensors are those
of a training that was not killed, and what was found in the way.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from training_samples import drawn_dataset

EPOCHS = 5
CHILD = """
import importlib, os, signal, sys
from pathlib import Path
from annotate.training.run import Training, train
name, function, count, half = sys.argv[1:5]
dataset, output, epochs = Path(sys.argv[5]), Path(sys.argv[6]), int(sys.argv[7])
calls = []
def deadly(*args, **options):
    calls.append(args)
    if len(calls) == int(count):
        if half:
            with open(args[0], "wb") as file:
                file.write(b"half a file")
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **options)
if name:
    module = importlib.import_module(name)
    real = getattr(module, function)
    setattr(module, function, deadly)
options = {"copies": 2, "min_steps": 6}
model = train(Training(dataset, output, "light", options, epochs, 128, threads=1))
print(model.lineage.tensor_sha256)
"""
LIGHT = "annotate.training.light"
POINTS = [
    # module, function, number of the call, whether half a file is left
    *((f"{LIGHT}.features", "make_copy", count, "") for count in (1, 9, 25, 29)),
    *(("numpy", "savez", count, "half") for count in (1, 2)),  # the tables of boxes
    *((f"{LIGHT}.trainer", "learn", count, "") for count in (1, 4, 11, 17, 23, 29)),
    *(("numpy", "savez", count, "half") for count in range(3, 3 + EPOCHS)),  # the states
    (f"{LIGHT}.trainer", "remove_features", 1, ""),
    ("annotate.training.record", "sha256", 1, ""),
    ("annotate.training.record", "measure", 1, ""),
]


def run(dataset: Path, output: Path, *point: object) -> tuple[int, str]:
    """Train in a child, which is killed at the point; returns its exit code and the hash."""
    words = [*map(str, point or ("", "", "", "")), str(dataset), str(output), str(EPOCHS)]
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *words], capture_output=True, text=True, check=False
    )
    if child.returncode not in (0, -9):
        raise RuntimeError(child.stderr)
    return child.returncode, child.stdout.strip()


def main() -> None:
    """Kill at each point."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=len(POINTS))
    points = POINTS[: parser.parse_args().points]
    equal = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dataset = drawn_dataset(folder, train=12, val=4).path
        _, whole = run(dataset, folder / "whole")
        for number, point in enumerate(points):
            output = folder / f"model{number}"
            code, _ = run(dataset, output, *point)
            half = output.exists()
            _, digest = run(dataset, output)
            left = sorted(path.name for path in folder.glob(f"model{number}?*"))
            found = {"point": point[:3], "killed": code == -9, "half a model": half, "left": left}
            equal += digest == whole and code == -9 and not half and not left
            print(json.dumps({**found, "same tensors": digest == whole}), flush=True)
    print(f"{equal} of {len(points)} killed, with the same tensors, and nothing half written")


if __name__ == "__main__":
    main()

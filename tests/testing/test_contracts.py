"""The contract checks, run on plugins of a package outside this tree: those of CONTRIBUTING.md."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import supervision as sv

from annotate.items.records import Vocabulary
from annotate.testing import contracts

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python title=\"(\w+\.py)\"\n(.*?)```", re.DOTALL)
ENTRY_POINTS = """
[annotate.detectors]
everything = everything:EverythingDetector

[annotate.propagators]
still = still:StillPropagator
"""


@pytest.fixture
def package(tmp_path):
    """A stranger's package, installed: the examples of CONTRIBUTING.md and their entry points."""
    blocks = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))
    assert set(blocks) == {"everything.py", "still.py"}
    for name, text in blocks.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    info = tmp_path / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return tmp_path


def contract_tests(package, *arguments):
    words = [sys.executable, "-m", "pytest", "-q", "--pyargs", "annotate.testing", *arguments]
    return subprocess.run(
        [*words, "-p", "no:cacheprovider", "--import-mode=importlib"],
        cwd=package,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{package}:{ROOT}", "PATH": "", "HOME": str(package)},
    )


def test_the_examples_of_the_documentation_keep_the_contract(package):
    ran = contract_tests(package, "--detector", "everything", "--propagator", "still")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout


def test_options_reach_the_plugin(package):
    ran = contract_tests(package, "--detector", "everything", "--plugin-option", "border=70")
    assert ran.returncode == 1  # with a border of 70 px at each edge no box is left of 120 px
    assert "x1 < x2 and y1 < y2" in ran.stdout
    unknown = contract_tests(package, "--detector", "everithing")
    assert unknown.returncode == 1 and "did you mean 'everything'" in unknown.stdout


@dataclass(frozen=True)
class Faulty:
    """A detector that breaks one clause of the contract."""

    vocabulary: Vocabulary
    fault: str

    def propose(self, frames):
        given = {"class_id": np.array([1]), "confidence": np.array([0.5])}
        xyxy = np.array([[1, 2, 30, 40.0]])
        if self.fault == "one too few":
            frames = frames[:-1]
        elif self.fault == "beyond the picture":
            xyxy = xyxy * 10
        elif self.fault == "no score":
            del given["confidence"]
        elif self.fault == "unknown class":
            given["class_id"] = np.array([2])
        elif self.fault == "extra data":
            given["data"] = {"colour": np.array(["red"])}
        elif self.fault == "random":
            xyxy = xyxy + np.random.default_rng().random()
        return [sv.Detections(xyxy, **given) for _ in frames]


FAULTS = {
    "one too few": "one Detections for each frame",
    "beyond the picture": "in the picture",
    "no score": "confidence must be set",
    "unknown class": "beyond 2 classes",
    "extra data": "`phrase` and nothing else",
    "random": "same boxes and scores",
}


@pytest.mark.parametrize("fault, clause", FAULTS.items(), ids=FAULTS)
def test_each_clause_for_detectors_is_checked(fault, clause):
    vocabulary = contracts.sample_vocabulary("faulty")
    with pytest.raises(AssertionError, match=clause):
        contracts.check_detector(Faulty(vocabulary, fault))
    contracts.check_detector(Faulty(vocabulary, ""))


class Forgetful:
    """A propagator whose session forgets where it was when it is restored."""

    def __init__(self, fault):
        self.fault = fault

    def begin(self, prompted_frames):
        return ForgetfulSession(self.fault)


class ForgetfulSession:
    def __init__(self, fault):
        self.fault, self.count = fault, 0

    def step(self, frame, prompts):
        self.count += 1
        width, height = frame.size_wh
        if self.fault == "never sees it":
            return sv.Detections.empty()
        mask = np.zeros((1, height, width), bool)
        mask[:, : self.count, :9] = True
        if self.fault == "other size":
            mask = mask[:, :-1]
        ids = np.array([7 if self.fault == "other object" else 5])
        xyxy = np.array([[0, 0, 9, self.count]], float)
        return sv.Detections(xyxy, mask=mask, confidence=np.ones(1), tracker_id=ids)

    def state(self):
        return {"count": np.array(self.count)}

    def restore(self, state):
        self.count = 0 if self.fault == "forgets" else int(state["count"])


@pytest.mark.parametrize(
    "fault, clause",
    [
        ("never sees it", "seen on the frame of its own box"),
        ("other size", "(n, H, W)"),
        ("other object", "only objects that have started"),
        ("forgets", "go on to the same masks"),
    ],
)
def test_each_clause_for_propagators_is_checked(fault, clause):
    with pytest.raises(AssertionError, match=re.escape(clause)):
        contracts.check_propagator(Forgetful(fault))
    contracts.check_propagator(Forgetful(""))


@dataclass(frozen=True)
class Counting:
    """A propagator whose masks show how many steps its session has made."""

    fault: str
    causal: ClassVar[bool] = True  # it reads no prompts before the first step

    def begin(self, prompted_frames):
        return ForgetfulSession(self.fault)


def test_an_interactive_session_is_checked():
    contracts.check_interactive(Counting(""))
    with pytest.raises(AssertionError, match="bytes of one run"):
        contracts.check_interactive(Counting("forgets"))
    with pytest.raises(AssertionError, match="preview must show the object"):
        contracts.check_interactive(Counting("never sees it"))


def test_the_trainer_that_ships_keeps_the_contract():
    contracts.check_trainer("light", {"copies": 1, "min_steps": 2})


def test_a_trainer_that_is_not_deterministic_must_say_so(monkeypatch):
    from annotate.training.light import trainer

    seeds = iter(range(9))
    real = trainer.new_head
    monkeypatch.setattr(
        trainer, "new_head", lambda classes, _: real(classes, np.random.default_rng(next(seeds)))
    )
    with pytest.raises(AssertionError, match="deterministic, but"):
        contracts.check_trainer("light", {"copies": 1, "min_steps": 2})

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import supervision as sv

from annotate import files, segmenters
from annotate.detectors import run as detectors_run
from annotate.errors import SettingsDiffer
from annotate.items.records import Header, Prompt, Vocabulary
from annotate.plugins import RUNTIME_ONLY
from annotate.prompts import PromptTable
from annotate.propagators import job as propagators_job
from annotate.propagators import run as propagators_run
from annotate.video.reader import FrameSelection
from annotate.weights import identity

WORDS = Vocabulary("mugs.v1", {"mug": {}}, "5e1f" * 16)
STOP = 3


@dataclass(frozen=True)
class Trained:
    """A plugin of every family, with weights in a file: it finds one box, as large as they say."""

    vocabulary: Vocabulary = WORDS
    model: str = "best.pt"

    @property
    def side(self):
        return int(Path(self.model).read_text())

    def propose(self, frames):
        return [self.segment(frame) for frame in frames]

    def segment(self, frame):
        mask = np.zeros((1, *frame.image.shape[:2]), bool)
        mask[0, : self.side, : self.side] = True
        one = np.zeros(1, int)
        xyxy = np.array([[0.0, 0, self.side, self.side]])
        return sv.Detections(xyxy, mask=mask, confidence=np.ones(1), class_id=one)


@dataclass(frozen=True)
class TrainedEngine:
    model: str = "best.pt"

    def begin(self, prompted_frames):
        list(prompted_frames)
        return self

    def step(self, frame, prompts):
        found = Trained(model=self.model).segment(frame)
        found.tracker_id = np.array([1])
        return found

    def state(self):
        return {}

    def restore(self, state):
        pass


def runs(clip):
    """Of each family: a function that writes a file of items of `STOP` frames."""
    selection = FrameSelection(stop=STOP)
    table = PromptTable((Prompt(0, 1, box=(0, 0, 9, 9)),), {1: "mug"})
    detect = detectors_run.Job(Trained(), "trained", clip, selection)
    segment = segmenters.Job(Segmenter(), "trained", clip, selection)
    propagate = propagators_job.Job(TrainedEngine(), "trained", clip, table, stop=STOP)
    return {
        "detect": lambda out, **more: detectors_run.run_to_file(detect, out, **more),
        "segment": lambda out, **more: segmenters.run_to_file(segment, out, **more),
        "propagate": lambda out, **more: propagators_run.run_to_file(propagate, out, **more),
    }


@dataclass(frozen=True)
class Segmenter:
    model: str = "best.pt"

    def segment(self, frame):
        return Trained(model=self.model).segment(frame)


class Stop(Exception):
    pass


def stop_at_one(item):
    if item.frame == 1:
        raise Stop


@pytest.mark.parametrize("stage", ["detect", "segment", "propagate"])
@pytest.mark.parametrize("complete", [True, False])
def test_weights_that_were_trained_again_are_never_mixed(stage, complete, demo, tmp_path):
    run, out, weights = runs(demo)[stage], tmp_path / "a.jsonl", tmp_path / "best.pt"
    weights.write_text("20")
    if complete:
        assert run(out)
    else:
        with pytest.raises(Stop):
            run(out, progress=stop_at_one)
    before = out.read_bytes()
    weights.write_text("30")
    with pytest.raises(SettingsDiffer, match=r"weights of model: \w{12} in the file, \w{12} now"):
        run(out)
    assert out.read_bytes() == before
    weights.write_text("20")
    assert run(out) is not complete


def test_a_file_without_a_hash_is_continued_only_by_a_plugin_without_weights():
    old = Header("detect", {"detector": "yolo", "model": "best.pt"})
    new = Header("detect", {**old.settings, "weights": {"model": "5e" * 32}})
    assert old.differences(new) == ["weights of model: not set in the file, 5e5e5e5e5e5e now"]
    assert old.differences(old) == []


@dataclass(frozen=True)
class Outer:
    vocabulary: Vocabulary
    first: Trained
    others: dict
    encoder: str = "text.bin"
    label: str = "best.pt"
    odd: str = "best.pt"
    unused_model: str = field(default="best.pt", metadata=RUNTIME_ONLY)
    weights = ("odd",)


def test_the_weights_of_nested_plugins_are_hashed(tmp_path):
    for name in ("best.pt", "text.bin", "deep.pt"):
        (tmp_path / name).write_text(name)
    outer = Outer(WORDS, Trained(), {"a": Trained(model="deep.pt"), "b": Trained(model="gpt-9")})
    expected = {"first.model": "best.pt", "others.a.model": "deep.pt"}
    expected |= {"encoder": "text.bin", "odd": "best.pt"}
    assert identity.weights_hashes(outer) == {
        option: files.sha256(tmp_path / name) for option, name in expected.items()
    }
    assert identity.header_settings(Trained(model="gpt-9")) == {}


def test_random_weights_are_not_read(tmp_path):
    @dataclass(frozen=True)
    class Random:
        model: str = "best.pt"
        random_weights: int | None = None

    (tmp_path / "best.pt").touch()
    assert identity.weights_hashes(Random()) and not identity.weights_hashes(
        Random(random_weights=1)
    )


def test_the_hash_of_a_folder_covers_names_and_contents(tmp_path):
    folder = tmp_path / "export"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a.bin").write_text("a")
    (folder / ".cache").write_text("not a weight")
    seen = [identity.content_sha256(folder)]
    (folder / ".cache").write_text("changed")
    assert identity.content_sha256(folder) == seen[0]
    (folder / "deep" / "a.bin").write_text("b")
    seen.append(identity.content_sha256(folder))
    (folder / "deep" / "a.bin").rename(folder / "a.bin")
    seen.append(identity.content_sha256(folder))
    assert len(set(seen)) == 3
    shutil.copytree(folder, tmp_path / "copy")
    assert identity.content_sha256(tmp_path / "copy") == seen[-1]


def old(path, seconds):
    os.utime(path, (seconds, seconds))


@pytest.fixture
def hashed(monkeypatch):
    """The files that were read; those that are kept in the cache are not. No file is too new."""
    read = []
    monkeypatch.setattr(identity, "_RACY_NS", -1)
    sha256 = files.sha256
    monkeypatch.setattr(
        identity.files, "sha256", lambda path: (read.append(path.name), sha256(path))[1]
    )
    return read


def test_a_file_is_read_again_only_when_it_changed(tmp_path, hashed):
    path = tmp_path / "best.pt"
    path.write_text("one")
    first = identity.weights_sha256("best.pt")
    assert identity.weights_sha256(str(path)) == first == files.sha256(path)
    del hashed[:]
    assert identity.weights_sha256("best.pt") == first and not hashed
    stat = path.stat()
    path.write_text("two")  # of the same size, at the same time, in the same inode
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert identity.weights_sha256("best.pt") == files.sha256(path) != first


def test_a_file_that_has_just_changed_is_not_kept(tmp_path):
    (tmp_path / "best.pt").write_text("one")
    assert identity.weights_sha256("best.pt")
    assert not files.cache_dir("hashes").exists()


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, hashed, monkeypatch):
    monkeypatch.setattr(
        identity.files,
        "write_json",
        lambda *_: (_ for _ in ()).throw(identity.OutputError("read-only")),
    )
    (tmp_path / "best.pt").write_text("one")
    assert identity.weights_sha256("best.pt")


def test_missing_weights_have_no_hash():
    assert identity.weights_sha256("nowhere.pt") == "" == identity.weights_sha256("yolo11n")

import dataclasses
import subprocess
import sys
from dataclasses import dataclass

import detector_contract
import detector_factories
import numpy as np
import pytest
import supervision as sv
from sample_data import picture

from annotate.detectors.run import (
    DETECTORS,
    Job,
    detect_frames,
    detector_settings,
    read_detector_vocabulary,
    run_to_file,
)
from annotate.errors import (
    AnnotateError,
    MissingPackage,
    MissingWeights,
    PluginError,
    PromptError,
    UnknownName,
)
from annotate.items.records import Vocabulary
from annotate.plugins import parse_options
from annotate.video import reader
from annotate.video.reader import FrameSelection
from annotate.vocabulary import packaged_vocabularies, read_vocabulary
from annotate.weights import lineage

DESIGNATOR = read_vocabulary("designator.v1") if packaged_vocabularies() else None


@dataclass(frozen=True)
class Counter:
    """A detector: as many boxes as the frame's index says, in its first channel, modulo 3."""

    vocabulary: Vocabulary
    side: int = 10
    scale: float = 1.0
    name: str | None = None
    careful: bool = False

    def propose(self, frames):
        assert len(frames) <= 8
        return [self._one(int(frame.image[0, 0, 0]) % 3) for frame in frames]

    def _one(self, count):
        xyxy = np.array([[5.0 * n, 0, 5 * n + self.side, 20] for n in range(count)]).reshape(-1, 4)
        return sv.Detections(xyxy, class_id=np.ones(count, int), confidence=np.full(count, np.nan))


def test_an_item_for_each_frame_the_empty_ones_too(vocabulary):
    frames = [picture(n) for n in range(20)]
    found = list(detect_frames(Counter(vocabulary), iter(frames), "counter"))
    assert [item.frame for item in found] == list(range(20))
    assert [len(item.objects) for item in found] == [n % 3 for n in range(20)]
    assert found[1].objects[0].label == "mug" and found[1].objects[0].source == "counter"


def test_a_stopped_run_goes_on_to_the_same_bytes(vocabulary, demo, tmp_path):
    class Stop(Exception):
        pass

    def stop(item):
        if item.frame == 24:
            raise Stop

    job = Job(Counter(vocabulary), "counter", demo, FrameSelection(every=4, start=4, stop=60))
    run_to_file(job, tmp_path / "whole.jsonl")
    with pytest.raises(Stop):
        run_to_file(job, tmp_path / "a.jsonl", progress=stop)
    again = []
    assert run_to_file(job, tmp_path / "a.jsonl", progress=lambda item: again.append(item.frame))
    assert again[0] == 28
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert run_to_file(job, tmp_path / "a.jsonl") is False


def test_the_header_says_what_shaped_the_file(vocabulary, demo):
    header = Job(Counter(vocabulary, side=7), "counter", demo, FrameSelection(every=3)).header()
    assert header.settings["side"] == 7 and header.settings["every"] == 3
    assert header.vocabulary["labels"] == ["plate", "mug"]
    assert header.videos["demo.mp4"]["frame_count"] == 140
    assert header.videos["demo.mp4"]["fingerprint"] == reader.probe(demo).fingerprint


def test_option_texts_become_the_fields_types():
    texts = {"side": "12", "scale": "3", "name": "none", "careful": "yes"}
    options = parse_options(Counter, "counter", texts)
    assert options == {"side": 12, "scale": 3.0, "name": None, "careful": True}
    with pytest.raises(AnnotateError, match="counter: side must be int, got 'big'"):
        parse_options(Counter, "counter", {"side": "big"})
    with pytest.raises(UnknownName, match="no option of counter 'sied'; did you mean 'side'"):
        parse_options(Counter, "counter", {"sied": "1"})


def test_unknown_detectors_name_the_nearest(vocabulary):
    with pytest.raises(UnknownName, match="no detector 'color'; did you mean 'colour'"):
        DETECTORS.load("color", vocabulary)
    with pytest.raises(UnknownName, match="no option of colour"):
        DETECTORS.load("colour", vocabulary, nothing_like_it=1)


def test_listing_detectors_imports_none():
    probe = (
        "import sys; from annotate.plugins import FAMILIES; FAMILIES['detectors'].names();"
        "print([m for m in sys.modules if m.startswith('annotate.detectors.')])"
    )
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def words_for(name):
    """A vocabulary that tells every detector something."""
    if name in DESIGNATOR.detectors:
        return DESIGNATOR
    told = {**DESIGNATOR.classes["designator"], name: "person"}
    return Vocabulary("told.v1", {"thing": {}, "designator": told}, "5e1f" * 16)


@pytest.mark.parametrize("name", DETECTORS.names())
def test_it_is_made_without_what_it_needs(name):
    """No server, weights or package: whoever lists detectors, or writes a header, needs none."""
    detector = DETECTORS.load(name, words_for(name))
    assert set(detector_settings(detector)) <= {f.name for f in dataclasses.fields(detector)}


@pytest.mark.parametrize("name", DETECTORS.names())
def test_the_contract(name, demo):
    """Over every installed detector, as far as its packages and weights are on this machine."""
    try:
        with detector_factories.options(name) as given:
            detector = DETECTORS.load(name, words_for(name), **given)
            detector_contract.check(detector, list(reader.frames_at(demo, [0, 30, 60])))
    except (MissingPackage, MissingWeights) as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize(
    "change, count", [(lambda found: found[:-1], 2), (lambda found: [*found, found[0]], 4)]
)
def test_a_detector_gives_one_result_for_each_frame(vocabulary, change, count):
    class Broken(Counter):
        def propose(self, frames):
            return change(super().propose(frames))

    frames = [picture(n) for n in range(3)]
    with pytest.raises(
        PluginError, match=f"mine: dock.mp4#0: it gave {count} Detections for 3 frames"
    ):
        list(detect_frames(Broken(vocabulary), iter(frames), "mine"))


def test_a_trained_model_has_its_own_vocabulary(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    options = {"model": str(model)}
    with pytest.raises(PromptError, match=r"needs a vocabulary.*designator\.v1; .* is no model of"):
        read_detector_vocabulary(None, options)
    (model / lineage.LINEAGE_FILE).write_text("{}")
    (model / lineage.VOCABULARY_FILE).write_text("[classes.mech]\n[classes.imp]\n")
    assert read_detector_vocabulary(None, options).labels == ("mech", "imp")
    assert read_detector_vocabulary("designator.v1", options).labels == ("designator",)

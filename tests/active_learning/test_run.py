import shutil
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import supervision as sv

from annotate.active_learning import run
from annotate.active_learning.frame_list import read_frame_list
from annotate.active_learning.run import NextSources, next_frames
from annotate.active_learning.selection import SelectionOptions
from annotate.dataset.build import build_dataset
from annotate.dataset.folder import load_dataset
from annotate.errors import ItemsError
from annotate.items import journal
from annotate.items.records import Header, Item, Object, Vocabulary
from annotate.video import reader
from annotate.video.writer import VideoWriter

SIZE_WH, RATE, COUNT = (96, 64), 10, 120
STEADY = Object("mech", (10.0, 10.0, 30.0, 30.0), 0.99)


@pytest.fixture
def clip(tmp_path):
    """A clip of twelve seconds: each second shows another picture."""
    noise, path = np.random.default_rng(5), tmp_path / "dock.mp4"
    with VideoWriter(path, Fraction(RATE), SIZE_WH) as out:
        for n in range(COUNT):
            if n % 10 == 0:
                blocks = noise.integers(0, 255, (8, 12, 3), dtype=np.uint8)
            out.write(np.repeat(np.repeat(blocks, 8, 0), 8, 1))
    return path


def write_items(path, clip, objects_at=lambda frame: [STEADY]):
    videos = reader.header_entry(reader.probe(clip))
    lines = [
        Item(clip.name, n, Fraction(n, RATE), *SIZE_WH, tuple(objects_at(n))) for n in range(COUNT)
    ]
    journal.write(path, Header("detect", videos=videos), lines)
    return path


def blinking(frame):
    return [] if frame in (35, 77) else [STEADY]


def test_frames_where_the_detector_blinks_are_listed_with_the_reason(tmp_path, clip):
    items = write_items(tmp_path / "items.jsonl", clip, blinking)
    listed = next_frames(NextSources([items]), SelectionOptions(16, random_share=0))
    found = {each.frame: each for each in listed}
    assert {35, 77} <= found.keys() and found[35].why == "mech missing"
    assert found[35].clip == "dock.mp4" and found[35].seconds == 3.5
    assert [each.rank for each in listed] == [*range(1, 17)]
    listed = next_frames(NextSources([items]), SelectionOptions(16, random_share=0.25))
    assert [each.rank for each in listed if each.why == "random"] == [4, 8, 12, 16]


def test_the_command_writes_the_same_bytes_and_build_takes_them(tmp_path, clip, annotate):
    items = write_items(tmp_path / "items.jsonl", clip, blinking)
    for name in ("one.csv", "two.csv"):
        code, out, err = annotate("next", str(items), "--count", "6", "-o", name)
        assert (code, out.splitlines()[-1]) == (0, name), err
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    code, _, err = annotate("build", str(items), "--frames", "one.csv", "-o", "set")
    assert code == 0, err
    listed = {each.frame for each in read_frame_list("one.csv")}
    assert {sample.item.frame for sample in load_dataset("set")} == listed and len(listed) == 6
    code, _, err = annotate(
        "build", str(items), "--frames", "one.csv", "--frame", "3", "-o", "other"
    )
    assert code == 2 and "give only one of --frame and --frames" in err


def test_known_frames_and_what_is_like_them_are_left_out(tmp_path, clip):
    items = write_items(tmp_path / "items.jsonl", clip)
    known = build_dataset([items], tmp_path / "known", frames=[5, 15, 25, 35, 45, 55, 65, 75])
    listed = next_frames(NextSources([items], known=known), SelectionOptions(4, random_share=0))
    assert {each.frame // 10 for each in listed[:3]} <= {8, 9, 10, 11} and len(listed) >= 3
    assert all(abs(each.frame - n) >= 5 for each in listed for n in range(5, 76, 10))
    everything = build_dataset([items], tmp_path / "all")
    with pytest.raises(ItemsError, match="within half a second of a labelled one"):
        next_frames(NextSources([items], known=everything))


def test_disagreement_with_other_items_of_a_renamed_clip_counts(tmp_path, clip):
    items = write_items(tmp_path / "items.jsonl", clip)
    renamed = shutil.copy(clip, tmp_path / "same.mp4")
    extra = Object("mech", (60.0, 10.0, 80.0, 40.0), 0.9)
    others = write_items(
        tmp_path / "others.jsonl", renamed, lambda n: [STEADY, extra] if n == 64 else [STEADY]
    )
    listed = next_frames(NextSources([items], [others]), SelectionOptions(4, random_share=0))
    assert max(listed, key=lambda each: each.worth).frame == 64
    assert next(e for e in listed if e.frame == 64).why.startswith("mech only by the other")


def test_items_of_other_clips_are_refused(tmp_path, clip, demo):
    items = write_items(tmp_path / "items.jsonl", clip)
    foreign = tmp_path / "foreign.jsonl"
    journal.write(foreign, Header("detect", videos=reader.header_entry(reader.probe(demo))), [])
    with pytest.raises(ItemsError, match="its clips are not those of the items"):
        next_frames(NextSources([items], [foreign]))
    with pytest.raises(ItemsError, match="no frames to choose from"):
        next_frames(NextSources([foreign]))


def test_a_model_is_asked_on_the_pool_only_and_counts_where_it_disagrees(
    tmp_path, clip, monkeypatch
):
    """The model sees another object in the second half; it is not asked about every frame."""
    asked = []

    @dataclass(frozen=True)
    class Model:
        vocabulary: Vocabulary

        def propose(self, frames):
            asked.extend(frame.index for frame in frames)
            return [seen(frame.index) for frame in frames]

    def seen(frame):
        xyxy = [STEADY.box, *([(60.0, 10.0, 80.0, 40.0)] if frame >= 60 else [])]
        scores = np.full(len(xyxy), 0.9)
        return sv.Detections(np.array(xyxy), confidence=scores, class_id=np.zeros(len(xyxy), int))

    detector = Model(Vocabulary("mechs", {"mech": {}}, "5e1f"))
    monkeypatch.setattr(run, "load_model", lambda folder: (detector, 0.4))
    items = write_items(tmp_path / "items.jsonl", clip)
    sources = NextSources([items], model=tmp_path / "model")
    listed = next_frames(sources, SelectionOptions(6, random_share=0))
    best = max(listed, key=lambda each: each.worth)
    assert best.frame >= 60 and best.why.startswith("mech only by the other detector")
    assert len(asked) < 30

import json
from fractions import Fraction

import cv2
import numpy as np
import pytest
from dataset_samples import items

from annotate.dataset import build, split
from annotate.dataset.folder import SplitRange, load_dataset, with_split
from annotate.errors import DatasetError
from annotate.items.records import Item

SIZE_WH = (64, 48)
PER_SHOT = 8


def scene(seed):
    """Make an image of colour blocks, different for every seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return cv2.resize(blocks, SIZE_WH, interpolation=cv2.INTER_NEAREST)


def clip(folder, seeds, flash=None):
    """Write a clip of shots: in each, a scene moves by a pixel every second frame."""
    folder.mkdir()
    for index in range(PER_SHOT * len(seeds)):
        image = np.roll(scene(seeds[index // PER_SHOT]), index % PER_SHOT // 2, axis=1)
        cv2.imwrite(
            str(folder / f"{index:03d}.png"), np.full_like(image, 255) if index == flash else image
        )
    return folder


def built(tmp_path, clips):
    lines = [
        Item(c.name, f, Fraction(f), *SIZE_WH) for c in clips for f in range(len(list(c.iterdir())))
    ]
    return build.build_dataset([items(tmp_path / "i.jsonl", clips, lines)], tmp_path / "out")


@pytest.fixture
def two_clips(tmp_path):
    clips = [clip(tmp_path / "dock", [1, 2, 3]), clip(tmp_path / "quay", [4, 5, 1, 6])]
    return built(tmp_path, clips)


def test_shots_are_detected(two_clips):
    shots = split.find_shots(two_clips)
    assert [(s.clip, s.start, s.stop) for s in shots] == [
        *(("dock", 8 * n, 8 * n + 8) for n in range(3)),
        *(("quay", 8 * n, 8 * n + 8) for n in range(4)),
    ]
    assert [shot.group for shot in shots] == [
        0,
        1,
        2,
        3,
        4,
        0,
        6,
    ]  # one shot of quay shows a scene of dock


def test_a_flash_is_not_a_cut(tmp_path):
    data = built(tmp_path, [clip(tmp_path / "dock", [1, 2], flash=4)])
    assert [shot.start for shot in split.find_shots(data)] == [0, 8]


def test_cuts_can_be_given(two_clips):
    shots = split.find_shots(two_clips, {"dock": [4, 20], "quay": []})
    assert [(s.clip, s.start) for s in shots] == [
        ("dock", 0), ("dock", 4), ("dock", 20), ("quay", 0)
    ]  # fmt: skip
    with pytest.raises(
        DatasetError, match="`cuts` names the clip 'pier', but there are: dock, quay"
    ):
        split.find_shots(two_clips, {"pier": [3]})


def test_a_shot_is_never_split(two_clips):
    data = split.split_dataset(two_clips, {"train": 0.6, "val": 0.2, "test": 0.2})
    split_by_frame = {(s.item.video, s.item.frame): s.split for s in data}
    assert set(split_by_frame.values()) == {"train", "val", "test"} and data.splits == (
        "train",
        "val",
        "test",
    )
    for shot in split.find_shots(data):
        assert len({split_by_frame[shot.clip, f] for f in range(shot.start, shot.stop)}) == 1
    assert split_by_frame["dock", 0] == split_by_frame["quay", 16]  # the same scene
    assert load_dataset(data.path) == data


@pytest.mark.parametrize("seed", range(5))
def test_splits_have_about_their_fractions(two_clips, seed):
    parts = [s.split for s in split.split_dataset(two_clips, {"train": 0.7, "val": 0.3}, seed=seed)]
    assert abs(parts.count("train") / len(parts) - 0.7) <= 0.2


def test_a_split_is_repeatable_and_depends_on_the_seed(two_clips):
    splits = [split.split_dataset(two_clips, seed=seed).split_ranges for seed in (0, 0, 1, 2, 3)]
    assert splits[0] == splits[1]
    assert len({json.dumps([s.split for s in ranges]) for ranges in splits}) > 1


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.5, "val": -0.5}], ids=str)
def test_fractions_must_add_up_to_one(two_clips, fractions):
    with pytest.raises(DatasetError, match="add up to 1"):
        split.split_dataset(two_clips, fractions)


def test_one_shot_is_not_split(tmp_path):
    data = built(tmp_path, [clip(tmp_path / "dock", [1])])
    with pytest.raises(DatasetError, match="shots that share no image: 1; add clips"):
        split.split_dataset(data)


def test_the_leak_report_shows_a_shot_in_two_splits(tmp_path):
    data = built(tmp_path, [clip(tmp_path / "dock", [1, 2])])
    clean = split.find_leaks(split.split_dataset(data, {"train": 0.5, "val": 0.5}))
    split_ranges = [SplitRange("dock", 0, 5, "train"), SplitRange("dock", 5, 16, "val")]
    leaking = split.find_leaks(with_split(data, split_ranges))
    assert clean.summary().loc["val", "alike"] == 0 < leaking.summary().loc["val", "alike"]
    assert clean.table["distance"].min() > 3 * leaking.table["distance"].min()
    worst = leaking.worst(1).iloc[0]
    assert (worst["image"], worst["near_in_looks"]) == ("005.png", "004.png")
    later = leaking.table.set_index("image").loc["007.png"]
    assert (later["seconds"], later["near_in_time"]) == (3, "004.png")


def test_time_is_not_measured_across_clips(tmp_path):
    data = built(tmp_path, [clip(tmp_path / "dock", [1]), clip(tmp_path / "quay", [2])])
    table = split.find_leaks(split.split_dataset(data, {"train": 0.5, "val": 0.5})).table
    assert table["seconds"].isna().all() and (table["distance"] > split.DUPLICATE_RMS).all()


def test_an_unsplit_dataset_has_no_leaks(two_clips):
    report = split.find_leaks(two_clips)
    assert report.table.empty and report.summary().empty and report.worst().empty


def test_a_missing_image_is_named(two_clips):
    (two_clips.images / "dock-000003.png").unlink()
    with pytest.raises(DatasetError, match=r"dock-000003.png: not an image"):
        split.find_shots(two_clips)


def test_two_shots_give_the_longer_one_to_train(tmp_path):
    """Of a clip in one take, cut once: whatever the seed, val must not be the larger part."""
    data = built(tmp_path, [clip(tmp_path / "dock", [1, 2, 3])])
    for seed in range(6):
        done = split.split_dataset(data, seed=seed, cuts={"dock": [16]})
        assert [(s.start, s.split) for s in done.split_ranges] == [(0, "train"), (16, "val")]

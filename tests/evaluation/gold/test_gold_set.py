import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
from dataset_samples import SIZE_WH, item, items, mug

from annotate.dataset import build
from annotate.dataset.folder import load_dataset
from annotate.errors import DatasetError
from annotate.evaluation.gold import gold_set


def dataset(folder, name, seed, size_wh=SIZE_WH, suffix=".png"):
    """Build a dataset of one clip: four pictures of blocks, different for each seed."""
    rng, footage = np.random.default_rng(seed), folder / name
    footage.mkdir(parents=True)
    for index in range(4):
        blocks = rng.integers(0, 256, (3, 4, 3), np.uint8)
        image = cv2.resize(blocks, SIZE_WH, interpolation=cv2.INTER_NEAREST)
        image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(footage / f"{name}-{index:06d}{suffix}"), image)
    lines = [item(name, n, *([mug()] if size_wh == SIZE_WH else []), size_wh=size_wh)
             for n in range(4)]  # fmt: skip
    return build.build_dataset([items(folder / f"{name}.jsonl", [footage], lines)], folder / "data")


def test_the_first_use_seals_and_a_changed_gold_set_is_refused(tmp_path):
    data = dataset(tmp_path, "dock", 1)
    gold = gold_set.open_gold(data.path)
    seal = (data.path / "gold.toml").read_text()
    assert gold.sha256 in seal and "frames = 4\nobjects = 4" in seal and '"dock" = "' in seal
    assert gold_set.open_gold(data.path).sha256 == gold.sha256
    assert (data.path / "gold.toml").read_text() == seal
    text = data.items.read_text()
    data.items.write_text(text.replace("[10.0,", "[11.0,", 1))
    with pytest.raises(DatasetError, match=r"changed after it was sealed .* remove gold.toml"):
        gold_set.open_gold(data.path)
    data.items.write_text(text)
    gold_set.open_gold(data.path)
    (data.path / "gold.toml").write_text("sha256")
    with pytest.raises(DatasetError, match=r"gold.toml: cannot be read"):
        gold_set.open_gold(data.path)


def test_looks_are_counted_once_for_the_same_models(tmp_path):
    gold = gold_set.open_gold(dataset(tmp_path, "dock", 1).path)
    assert gold.looks == 0
    assert [gold.record_look(names) for names in (["b", "a"], ["a", "b"], ["a", "c"])] == [1, 1, 2]
    path = gold.dataset.path / "looks.jsonl"
    assert path.read_text() == '{"models":["a","b"]}\n{"models":["a","c"]}\n'
    with path.open("a") as file:
        file.write('{"models":["a')  # a run was killed
    assert gold.looks == 3


def test_a_clip_of_gold_in_training_is_named(tmp_path):
    data = dataset(tmp_path / "one", "dock", 1)
    shutil.copytree(data.path, tmp_path / "gold")
    gold = gold_set.open_gold(tmp_path / "gold")
    [overlap] = gold_set.find_overlaps(data, gold)
    assert str(overlap) == "dock is the same clip as dock"
    with pytest.raises(DatasetError, match="gold: overlaps with .*data: dock is the same clip"):
        gold_set.refuse_overlaps(data, gold)


def test_a_copy_of_a_clip_in_another_size_and_encoding_is_named(tmp_path):
    data = dataset(tmp_path / "one", "dock", 1)
    copy = dataset(tmp_path / "two", "pier", 1, size_wh=(96, 72), suffix=".jpg")
    overlaps = gold_set.find_overlaps(data, gold_set.open_gold(copy.path))
    assert len(overlaps) == 4
    assert str(overlaps[0]) == "pier-000000.png is a near-duplicate of dock-000000.png"
    with pytest.raises(DatasetError, match="; and 1 more: numbers on it would be too good"):
        gold_set.refuse_overlaps(data, gold_set.open_gold(copy.path))


def test_other_clips_do_not_overlap_and_black_pictures_do_not_count(tmp_path):
    data, other = (dataset(tmp_path / str(n), f"clip{n}", n) for n in (1, 2))
    for each in (data, other):
        black = sorted(each.images.iterdir())[0]
        cv2.imwrite(str(black), np.full((48, 64, 3), 8, np.uint8))
    assert gold_set.find_overlaps(data, gold_set.open_gold(other.path)) == []
    unused = replace(load_dataset(other.path), clips={**other.clips, **data.clips})
    gold = replace(gold_set.open_gold(other.path), dataset=unused)
    assert gold_set.find_overlaps(data, gold) == []  # a clip without frames in it

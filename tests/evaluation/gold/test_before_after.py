import csv
from dataclasses import replace

import cv2
import numpy as np
import pytest
from dataset_samples import item, items
from PIL import Image

from annotate.dataset import build
from annotate.errors import ItemsError
from annotate.evaluation.gold import before_after_report as report
from annotate.evaluation.gold import gold_set
from annotate.evaluation.gold.before_after import ModelOnGold, compare_models
from annotate.items.records import Object

CLIP_FRAMES = 4  # the last is empty
BOX = (20.0, 10.0, 44.0, 40.0)


def gold(folder, clip_count=6):
    clips, lines = [], []
    for number in range(clip_count):
        name = f"clip{number}"
        (folder / name).mkdir()
        for frame in range(CLIP_FRAMES):
            picture = np.random.default_rng(10 * number + frame).integers(
                0, 256, (48, 64, 3), np.uint8
            )
            cv2.imwrite(str(folder / name / f"{name}-{frame:06d}.png"), picture)
        shown = [[Object("mug", BOX)]] * (CLIP_FRAMES - 1) + [[]]
        lines += [item(name, frame, *objects) for frame, objects in enumerate(shown)]
        clips.append(folder / name)
    path = items(folder / "items.jsonl", clips, lines)
    return gold_set.open_gold(build.build_dataset([path], folder / "gold").path)


def model(gold, name, right, *, false_boxes=False, score=0.9):
    """A model that finds the mug on the clips `right`, and perhaps one on each empty frame."""
    found = []
    for sample in gold.dataset:
        shown = bool(sample.item.objects)
        hit = shown and int(sample.item.video[4:]) in right
        objects = [Object("mug", BOX, score)] if hit or (not shown and false_boxes) else []
        found.append(replace(sample.item, objects=tuple(objects)))
    return ModelOnGold(name, found, 0.5, digest=name)


def rows_of(comparison):
    return {row.name: row for row in comparison.measures}


def test_a_model_that_finds_more_on_all_clips_is_better(tmp_path):
    data = gold(tmp_path)
    after = model(data, "after", range(6))
    comparison = compare_models(data, [after], model(data, "before", [], false_boxes=True))
    rows = rows_of(comparison)
    assert rows["AP50"].before.value == 0 and rows["AP50"].after.value == pytest.approx(1)
    assert rows["AP50"].difference.interval == pytest.approx((1, 1))
    assert rows["AP50"].verdict == rows["recall"].verdict == "better"
    assert rows["AP50, small boxes"].truth_count == 18
    assert "AP50, large boxes" not in rows and "AP50 of plate" not in rows
    empty = rows["false boxes per empty frame"]
    assert (empty.before.value, empty.after.value, empty.verdict) == (1, 0, "better")
    backwards = rows_of(compare_models(data, [comparison.before], after))
    assert backwards["AP50"].verdict == backwards["false boxes per empty frame"].verdict == "worse"


def test_what_one_clip_decides_is_no_difference(tmp_path):
    data = gold(tmp_path)
    before, after = model(data, "before", range(5)), model(data, "after", range(6))
    row = rows_of(compare_models(data, [after], before))["AP50"]
    assert row.difference.value > 0.1 and row.difference.interval[0] == 0
    assert row.verdict == "no difference shown"


def test_every_seed_must_agree(tmp_path):
    data = gold(tmp_path)
    before, good = model(data, "before", [0]), model(data, "after", range(6))
    bad = model(data, "after, seed 1", [])
    row = rows_of(compare_models(data, [good, good, bad], before))["AP50"]
    assert row.difference.interval[0] > 0 and row.verdict == "no difference shown"
    assert row.seeds == pytest.approx((1, 1, 0))
    assert rows_of(compare_models(data, [good, good], before))["AP50"].verdict == "better"


def test_under_five_clips_nothing_is_stated(tmp_path):
    data = gold(tmp_path, clip_count=4)
    comparison = compare_models(data, [model(data, "a", range(4))], model(data, "b", []))
    row = rows_of(comparison)["AP50"]
    assert row.difference.interval is None and row.verdict == "too few clips to say"
    assert "no intervals: too few clips to say" in report.table_text(comparison)


def test_scores_below_the_threshold_count_for_ap_and_not_for_recall(tmp_path):
    data = gold(tmp_path)
    rows = rows_of(compare_models(data, [model(data, "a", range(6), score=0.3)]))
    assert rows["AP50"].after.value == pytest.approx(1) and rows["recall"].after.value == 0
    assert rows["AP50"].verdict == "" and rows["AP50"].difference is None


def test_missing_frames_and_boxes_without_scores_are_refused(tmp_path):
    data = gold(tmp_path)
    full = model(data, "a", range(6))
    with pytest.raises(ItemsError, match="a: no item for 2 frames of the gold set, such as clip5#"):
        compare_models(data, [replace(full, items=full.items[:-2])])
    with pytest.raises(ItemsError, match="a: boxes without a score have no order"):
        compare_models(data, [model(data, "a", range(6), score=None)])
    assert data.looks == 0


def test_the_report(tmp_path):
    data = gold(tmp_path)
    seeds = [model(data, "after", [1, 2, 3, 4, 5]), model(data, "other", range(6))]
    comparison = compare_models(data, seeds, model(data, "before", [0]))
    report.write_before_after(comparison, tmp_path, rows=4)
    table = (tmp_path / "table.md").read_text()
    assert "| AP50 | 18 | 0.168 | 0.832 |" in table and "lowest to highest seed" in table
    assert "looked at once" in table and "sha256 " + data.sha256[:12] in table
    lines = list(csv.reader((tmp_path / "precision_recall.csv").read_text().splitlines()))
    assert lines[1] == ["before", "all", "0.900000", "1.000000", "0.166667"]
    assert [line[:2] for line in lines[1:]] == [
        [name, label] for name in ("before", "after") for label in ("all", "mug")
    ]
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 3 * 480 and picture.height > 4 * 300
    first = {name: (tmp_path / name).read_bytes() for name in ("table.md", "sheet.png")}
    report.write_before_after(compare_models(data, seeds, comparison.before), tmp_path, rows=4)
    assert all((tmp_path / name).read_bytes() == content for name, content in first.items())
    record = comparison.record()
    assert record["difference"]["AP50"]["verdict"] == "no difference shown"
    assert record["seeds"]["AP50"][1] == pytest.approx(1) and record["clips"] == 6

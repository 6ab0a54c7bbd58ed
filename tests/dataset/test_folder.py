import os
from dataclasses import replace

import pytest
from dataset_samples import PLATE, clip, item, items, mug

from annotate.dataset import build
from annotate.dataset.folder import SplitRange, dataset_sha256, load_dataset, with_split
from annotate.errors import DatasetError


def built(folder, name="dock", boxes=(PLATE,)):
    footage = clip(folder / name, count=3)
    lines = [item(name, 0, *boxes), item(name, 1), item(name, 2, mug())]
    return build.build_dataset([items(folder / "i.jsonl", [footage], lines)], folder / "data")


def test_the_hash_of_a_dataset_is_that_of_its_content_and_not_of_names_order_or_times(tmp_path):
    one, other = (tmp_path / name for name in ("one", "other"))
    one.mkdir(), other.mkdir()
    data, renamed = built(one), built(other, "pier")
    digest = dataset_sha256(data)
    assert dataset_sha256(renamed) == digest
    lines = renamed.items.read_text().splitlines(keepends=True)
    renamed.items.write_text("".join([lines[0], *lines[:0:-1][1:], lines[-1]]))
    for image in renamed.images.iterdir():
        os.utime(image, (1, 1))
    assert dataset_sha256(load_dataset(renamed.path)) == digest


def test_one_moved_box_a_class_or_the_split_is_another_dataset(tmp_path):
    digests = set()
    x1, *rest = PLATE.box
    variants = [(PLATE,), (replace(PLATE, box=(x1 + 1, *rest)),), ()]
    for number, boxes in enumerate(variants):
        (tmp_path / str(number)).mkdir()
        data = built(tmp_path / str(number), boxes=boxes)
        digests.add(dataset_sha256(data))
    digests.add(dataset_sha256(replace(data, classes=(*data.classes, "cup"))))
    digests.add(dataset_sha256(with_split(data, [SplitRange("dock", 0, 3, "val")])))
    assert len(digests) == 5
    next(data.images.iterdir()).unlink()
    with pytest.raises(DatasetError, match="the image is missing"):
        dataset_sha256(data)

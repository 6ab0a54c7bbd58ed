import os
from dataclasses import replace

from dataset_samples import PLATE, clip, item, items, mug

from annotate.dataset.build import build_dataset
from annotate.dataset.folder import SplitRange, load_dataset, with_split
from annotate.files import json_digest, sha256
from annotate.training.content import read_content

LINES = [(PLATE,), (PLATE, mug()), (), (mug(20),)]


def built(folder, name="dock", lines=LINES, labels=("plate", "mug"), splits=(0, 2, 4)):
    folder.mkdir()
    pictures = clip(folder / name, len(lines))
    frames = [item(name, number, *objects) for number, objects in enumerate(lines)]
    path = items(folder / "items.jsonl", [pictures], frames, labels)
    dataset = build_dataset([path], folder / "out")
    ranges = [SplitRange(name, splits[0], splits[1], "train")]
    return with_split(dataset, [*ranges, SplitRange(name, splits[1], splits[2], "val")])


def test_names_order_times_and_persons_do_not_change_the_hash(tmp_path):
    first = read_content(built(tmp_path / "a"))
    changed = [
        [replace(obj, by={"who": "kim", "when": "2026"}, score=0.3) for obj in reversed(each)]
        for each in LINES
    ]
    dataset = built(tmp_path / "b", "quay", changed)
    for path in dataset.images.iterdir():
        os.utime(path, (1, 1))
    lines = dataset.items.read_text().splitlines()
    head, *frames, end = lines
    dataset.items.write_text("\n".join([head, *reversed(frames), end]) + "\n")
    second = read_content(load_dataset(dataset.path))
    assert (first.sha256, first.split_sha256) == (second.sha256, second.split_sha256)
    assert first.classes == ("mug", "plate")


def test_a_moved_box_another_split_another_class_and_another_picture_change_it(tmp_path):
    moved = replace(PLATE, box=(1.0, 2.0, 30.0, 40.5))
    hashes = {
        read_content(built(tmp_path / "a")).sha256,
        read_content(built(tmp_path / "b", lines=[(moved,), *LINES[1:]])).sha256,
        read_content(built(tmp_path / "c", splits=(0, 3, 4))).sha256,
        read_content(built(tmp_path / "d", labels=("plate", "mug", "cup"))).sha256,
        read_content(built(tmp_path / "e", lines=[*LINES, ()], splits=(0, 2, 5))).sha256,
    }
    assert len(hashes) == 5


def test_the_hash_of_the_splits_is_that_of_images_and_splits_alone(tmp_path):
    dataset = built(tmp_path / "a")
    lines = [f"{sha256(dataset.images / each.image)} {each.split}" for each in dataset]
    expected = json_digest({"splits": sorted(lines)})  # as in the lineage of earlier models
    assert read_content(dataset).split_sha256 == expected


def test_objects_are_counted_by_class_and_split(tmp_path):
    content = read_content(built(tmp_path / "a"))
    assert content.count_objects("train") == {"mug": 1, "plate": 2}
    assert content.count_objects("val") == {"mug": 1, "plate": 0}
    assert [len(content.frames[name]) for name in ("train", "val")] == [2, 2]
    assert content.frames["train"][0].image.name == "dock-000000.png"


def test_classes_are_in_alphabetical_order_whatever_their_order_in_the_dataset(tmp_path):
    for number, labels in enumerate([("plate", "mug"), ("mug", "plate")]):
        assert read_content(built(tmp_path / str(number), labels=labels)).classes == (
            "mug",
            "plate",
        )

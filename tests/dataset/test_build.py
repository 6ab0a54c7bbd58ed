import json
import os
import sys
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
from dataset_samples import PLATE, SIZE_WH, clip, item, items, mug, objects
from PIL import Image

from annotate.dataset.build import build_dataset
from annotate.dataset.export import FORMATS, export_dataset, import_dataset
from annotate.dataset.folder import load_dataset
from annotate.errors import DatasetError, ItemsError, OutputError
from annotate.items import journal
from annotate.items.records import Header, Item
from annotate.video import reader


@pytest.fixture
def dock(tmp_path):
    return clip(tmp_path / "dock")


def test_objects_of_two_files_are_joined(tmp_path, dock):
    boxes = items(tmp_path / "boxes.jsonl", [dock], [item("dock", 0, PLATE), item("dock", 2)])
    shapes = items(tmp_path / "masks.jsonl", [dock], [item("dock", 0, mug(), PLATE)])
    built = build_dataset([boxes, shapes], tmp_path / "out")
    assert objects(built) == {"dock-000000.png": (PLATE, mug()), "dock-000002.png": ()}
    assert built.classes == ("plate", "mug") and len(built) == 2
    loaded = load_dataset(tmp_path / "out")
    assert loaded == built and objects(loaded) == objects(built)


def test_objects_with_a_low_score_are_left_out(tmp_path, dock):
    high, low, unscored = (replace(mug(), score=score) for score in (0.5, 0.49, None))
    lines = [item("dock", 0, high, low), item("dock", 1, unscored), item("dock", 2, low)]
    path = items(tmp_path / "a.jsonl", [dock], lines)
    built = build_dataset([path], tmp_path / "out", min_score=0.5)
    assert list(objects(built).values()) == [(high,), (unscored,), ()]


def test_images_are_the_frames_exactly(tmp_path, dock):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", f) for f in range(6)])
    built = build_dataset([source], tmp_path / "out", frames=[1, 4])
    assert [cv2.imread(str(built.images / s.image))[0, 0, 0] for s in built] == [8, 32]


def test_frames_of_a_real_video_are_kept(tmp_path, demo):
    videos = reader.header_entry(reader.probe(demo))
    lines = [Item("demo.mp4", f, Fraction(f, 35), 800, 600) for f in (3, 70, 71)]
    journal.write(tmp_path / "items.jsonl", Header("test", videos=videos), lines)
    built = build_dataset([tmp_path / "items.jsonl"], tmp_path / "out", image_format="png")
    [_, frame, _] = reader.frames_at(demo, [3, 70, 71])
    image = cv2.imread(str(built.images / "demo-000070.png"))[..., ::-1]
    np.testing.assert_array_equal(image, frame.image)


@pytest.mark.parametrize(
    "options, frames",
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"every": 4}, [0, 4]),
        ({"rate": Fraction(1, 2)}, [0, 2, 4]),
        ({"max_frames": 3}, [0, 2, 5]),
        ({"frames": [5, 1]}, [1, 5]),
        ({"frames": {"dock": [2]}}, [2]),
    ],
    ids=str,
)
def test_frames_are_selected(tmp_path, dock, options, frames):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", f) for f in range(6)])
    built = build_dataset([source], tmp_path / "out", **options)
    assert [sample.item.frame for sample in built] == frames


@pytest.mark.parametrize("frames", [[7], {"dock": [7]}, {"quay": [0]}], ids=str)
def test_a_frame_without_an_item_is_refused(tmp_path, dock, frames):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", 0)])
    with pytest.raises(DatasetError, match="not looked at|There are: dock"):
        build_dataset([source], tmp_path / "out", frames=frames)
    assert not (tmp_path / "out").exists()


def test_two_clips_of_the_same_name_get_different_names(tmp_path):
    one, two = clip(tmp_path / "a" / "dock"), clip(tmp_path / "b" / "dock", first=9)
    first = items(tmp_path / "1.jsonl", [one], [item("dock", 0, PLATE)])
    second = items(tmp_path / "2.jsonl", [two], [item("dock", 0, mug())])
    built = build_dataset([first, second], tmp_path / "out")
    again = build_dataset([second, first], tmp_path / "again")
    assert len(objects(built)) == 2 and objects(built) == objects(again)
    fingerprints = [reader.probe(each).fingerprint[:8] for each in (one, two)]
    assert list(objects(built)) == [
        f"dock-{fingerprint}-000000.png" for fingerprint in fingerprints
    ]


def pictures(folder, names):
    """Write a folder of pictures, and return its path and an item of each picture."""
    folder.mkdir()
    for name in names:
        Image.new("RGB", SIZE_WH).save(folder / name)
    return folder, [item(folder.name, frame, PLATE) for frame in range(len(names))]


def test_pictures_of_a_folder_keep_their_names_in_a_dataset_and_its_exports(tmp_path):
    folder, lines = pictures(tmp_path / "imgs", ["cat.jpg", "kühe 2.v1.png", "kühe 10.jpeg"])
    source = items(tmp_path / "i.jsonl", [folder], lines)
    built = build_dataset([source], tmp_path / "out", frames=[0, 2])
    names = ["cat.png", "kühe 10.png"]
    assert list(objects(built)) == names and [s.item.frame for s in built] == [0, 2]
    for name in ("coco", "yolo"):
        export_dataset(built, FORMATS.load(name), tmp_path / name)
        back = import_dataset(tmp_path / name, FORMATS.load(name), tmp_path / f"{name}-back")
        assert sorted(objects(back)) == sorted(names)


@pytest.mark.parametrize(
    "names, expected",
    [
        (["a.jpg", "a.png", "b.png"], ["imgs-000000", "imgs-000001", "b"]),
        (["A.png", "a.jpg", "b.png"], ["imgs-000000", "imgs-000001", "b"]),
        (["b.png", "other.png"], ["b", "imgs-000001"]),  # `other.png` is in the other folder too
        (["a.jpg", "a.png", "imgs-000001.png"], [f"imgs-{n:06d}" for n in range(3)]),
        (["b.png", "demo-000070.png"], ["b", "imgs-000001"]),  # like a frame of the video
        (["b.png", "demo-70.png"], ["b", "demo-70"]),
    ],
    ids=str,
)
def test_pictures_that_would_have_one_name_are_named_by_index(tmp_path, demo, names, expected):
    folder, lines = pictures(tmp_path / "imgs", names)
    other, other_lines = pictures(tmp_path / "more", ["other.png", "zoo.png"])
    source = items(tmp_path / "i.jsonl", [folder, other], [*lines, *other_lines])
    videos = reader.header_entry(reader.probe(demo))
    video_lines = [Item("demo.mp4", 70, Fraction(2), 800, 600)]
    journal.write(tmp_path / "video.jsonl", Header("test", videos=videos), video_lines)
    built = build_dataset([source, tmp_path / "video.jsonl"], tmp_path / "out")
    others = ["more-000000" if "other.png" in names else "other", "zoo", "demo-000070"]
    assert list(objects(built)) == [f"{stem}.png" for stem in [*expected, *others]]


def test_the_selection_of_frames_changes_no_name(tmp_path):
    folder, lines = pictures(tmp_path / "imgs", ["a.jpg", "a.png", "b.png"])
    source = items(tmp_path / "i.jsonl", [folder], lines)
    built = build_dataset([source], tmp_path / "out", frames=[1, 2])
    assert list(objects(built)) == ["imgs-000001.png", "b.png"]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are text on this system")
def test_picture_names_that_are_not_utf8_are_written_with_percent_signs(tmp_path):
    folder, lines = pictures(tmp_path / "imgs", [os.fsdecode(b"caf\xe9.png")])
    built = build_dataset([items(tmp_path / "i.jsonl", [folder], lines)], tmp_path / "out")
    assert list(objects(load_dataset(built.path))) == ["caf%E9.png"]


def test_building_twice_gives_the_same_bytes(tmp_path, dock):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", f, mug()) for f in range(3)])
    for out in ("a", "b"):
        build_dataset([source], tmp_path / out, image_format="jpg")
    a, b = (
        {p.name: p.read_bytes() for p in (tmp_path / out).rglob("*") if p.is_file()} for out in "ab"
    )
    assert a == b and len(a) == 5


def test_class_order_can_be_pinned(tmp_path, dock):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", 0, PLATE, mug())], labels=())
    assert build_dataset([source], tmp_path / "a").classes == ("mug", "plate")
    pinned = build_dataset([source], tmp_path / "b", classes=["spoon", "plate", "mug"])
    assert pinned.classes == ("spoon", "plate", "mug")


def damage_line(path, number, **changes):
    """Change values in a line of a file of items."""
    lines = path.read_text(encoding="utf-8").splitlines()
    record = json.loads(lines[number - 1])
    for key, value in changes.items():
        (record["objects"][0] if key in record["objects"][0] else record)[key] = value
    lines[number - 1] = json.dumps(record)
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


@pytest.mark.parametrize(
    "damage, message",
    [
        ({"label": "cup"}, r"items.jsonl:3: unknown class 'cup'. There are: plate, mug"),
        ({"box": [0, 0, 65, 9]}, r"items.jsonl:3: box .* outside the picture of 64x48"),
        ({"mask": {"size": [4, 4], "counts": "`0"}}, r"items.jsonl:3: .*size \[4, 4\]"),
        ({"mask": {"size": [48, 64], "counts": "0"}}, r"items.jsonl:3: mug: .*do not fill"),
        ({"video": "quay"}, r"items.jsonl:3: a frame of quay"),
        ({"frame": 0}, r"items.jsonl:3: frame 0 comes after 0"),
        ({"width": 128}, r"128x48"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_bad_items_name_their_line(tmp_path, dock, damage, message):
    lines = [item("dock", 0, mug()), item("dock", 1, mug())]
    source = items(tmp_path / "items.jsonl", [dock], lines)
    if "width" in damage:
        bare = [item("dock", 0), item("dock", 1, PLATE)]
        source = items(tmp_path / "items.jsonl", [dock], bare)
    damage_line(source, 3, **damage)
    with pytest.raises((ItemsError, DatasetError), match=message):
        build_dataset([source], tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dock", "items.jsonl"]


def test_items_of_another_clip_are_refused(tmp_path, dock):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", 0)])
    other = clip(tmp_path / "other" / "dock", first=3)
    with pytest.raises(ItemsError, match=r"made from another dock .* `videos`"):
        build_dataset([source], tmp_path / "out", videos={"dock": other})


def test_a_moved_clip_is_found_by_its_given_path(tmp_path, dock):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", 0)])
    moved = dock.rename(tmp_path / "moved")
    with pytest.raises(ItemsError, match="dock is not at .* `videos`"):
        build_dataset([source], tmp_path / "out")
    assert len(build_dataset([source], tmp_path / "out", videos={"dock": moved})) == 1


def test_existing_output_is_not_overwritten(tmp_path, dock):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", 0)])
    built = build_dataset([source], tmp_path / "out")
    with pytest.raises(OutputError, match="already there; give another output path, or `force`"):
        build_dataset([source], tmp_path / "out")
    build_dataset([source], tmp_path / "out", force=True)
    assert len(built) == 1
    with pytest.raises(OutputError, match="something else is there"):
        build_dataset([source], dock, force=True)
    assert len(list(dock.iterdir())) == 6


def test_a_header_without_clips_is_refused(tmp_path, dock):
    source = tmp_path / "items.jsonl"
    for videos, message in (
        ({}, "names no clip"),
        ({"dock": {"path": "dock"}}, "no fingerprint of the clip dock"),
    ):
        journal.write(source, Header("test", videos=videos), [])
        with pytest.raises(ItemsError, match=message):
            build_dataset([source], tmp_path / "out")


@pytest.mark.parametrize("options", [{"every": 0}, {"rate": -1}, {"max_frames": 0}], ids=str)
def test_a_selection_of_no_frames_is_refused(tmp_path, dock, options):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", 0)])
    with pytest.raises(DatasetError, match="must be above 0"):
        build_dataset([source], tmp_path / "out", **options)


def test_a_missing_file_of_a_dataset_is_named(tmp_path, dock):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", 0, PLATE)])
    built = build_dataset([source], tmp_path / "out")
    (built.images / "dock-000000.png").unlink()
    with pytest.raises(DatasetError, match=r"dock-000000.png: the image is not there"):
        export_dataset(built, FORMATS.load("coco"), tmp_path / "coco")
    damage_line(built.items, 2, image="../../dock-000000.png")
    with pytest.raises(DatasetError, match="does not name its image under images"):
        list(built)
    built.items.unlink()
    with pytest.raises(DatasetError, match=r"items.jsonl: not there"):
        list(built)


def test_standard_input_cannot_be_read_twice(tmp_path):
    with pytest.raises(ItemsError, match="save them to a file first"):
        build_dataset(["-"], tmp_path / "out")


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "not a dataset: no dataset.toml"),
        ("classes = [", "dataset.toml: cannot be read"),
        ("annotate = 1", "damaged: 'classes'"),
        ("annotate = 99\nclasses = []", "newer annotate"),
    ],
)
def test_a_folder_without_a_dataset_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "dataset.toml").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path)


def test_a_damaged_dataset_names_the_line(tmp_path, dock):
    source = items(tmp_path / "items.jsonl", [dock], [item("dock", 0, PLATE)])
    built = build_dataset([source], tmp_path / "out")
    damage_line(tmp_path / "out" / "items.jsonl", 2, label="cup")
    with pytest.raises(DatasetError, match=r"items.jsonl:2: unknown class 'cup'"):
        list(built)


def test_names_may_have_spaces_quotes_and_any_letters(tmp_path):
    quay = clip(tmp_path / 'Kai "Süd" \u96e8')
    source = items(tmp_path / "i.jsonl", [quay], [item(quay.name, 0, PLATE)])
    built = build_dataset([source], tmp_path / "aus gang")
    assert load_dataset(built.path) == built
    assert list(objects(built)) == [f"{quay.name}-000000.png"]

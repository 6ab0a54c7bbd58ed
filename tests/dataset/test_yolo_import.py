"""YOLO datasets of other programs: every layout is found, and nothing is lost without a word."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from annotate.dataset.export import import_dataset
from annotate.dataset.yolo import YoloFormat, YoloSegFormat
from annotate.dataset.yolo_labels import RowReader
from annotate.errors import DatasetError
from annotate.items.import_report import ImportReport
from annotate.items.records import Object

BOX = "1 0.5 0.5 0.25 0.5\n"
MUG = Object("mug", (24, 12, 40, 36))
YAML = "names: [plate, mug]\ntrain: images/train\n"


def write(home: Path, files: dict[str, str], images: tuple[str, ...] = ("images/train/a.png",)):
    """Write text files and images of 64x48 into the folder `home`."""
    for name in images:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(home / name), np.zeros((48, 64, 3), np.uint8))
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    return home


def imported(source, tmp_path, dataset_format=None):
    """Import a dataset; return its samples by image name, and its warnings."""
    data = import_dataset(source, dataset_format or YoloFormat(), tmp_path / "in")
    objects = {sample.image: sample.item.objects for sample in data}
    return objects, "\n".join(data.import_report.warnings())


@pytest.mark.parametrize(
    "image, label",
    [
        ("images/train/a.png", "images/train/a.txt"),
        ("images/train/a.png", "labels/train/a.TXT"),
        ("images/train/A.PNG", "labels/train/a.txt"),
        ("images/train/a.png", "labels/train/a.png.txt"),
        ("images/train/images/a.png", "labels/train/images/a.txt"),
        ("images/train/a.png", "images/labels/train/a.txt"),
        ("images/train/é.png", "labels/train/e\u0301.txt"),
    ],
)
def test_labels_are_found_where_other_programs_write_them(tmp_path, image, label):
    source = write(tmp_path / "x", {"data.yaml": YAML, label: BOX}, (image,))
    objects, warnings = imported(source, tmp_path)
    assert [*objects.values()] == [(MUG,)] and warnings == ""


def test_a_linked_image_has_the_labels_of_its_link(tmp_path):
    source = write(tmp_path / "x", {"data.yaml": YAML, "labels/train/a.txt": BOX}, ("pool/x.png",))
    (source / "images" / "train").mkdir(parents=True)
    (source / "images" / "train" / "a.png").symlink_to("../../pool/x.png")
    (source / "images" / "train" / "again").symlink_to(".")
    assert imported(source, tmp_path)[0] == {"a.png": (MUG,)}


def test_images_in_a_linked_folder_and_dangling_links_are_not_lost(tmp_path):
    files = {"data.yaml": YAML, "labels/train/sub/b.txt": BOX, "labels/train/a.txt": ""}
    source = write(tmp_path / "x", files, ("images/train/a.png", "pool/b.png"))
    (source / "images" / "train" / "sub").symlink_to("../../pool")
    (source / "images" / "train" / "gone.png").symlink_to("nowhere.png")
    objects, warnings = imported(source, tmp_path)
    assert objects == {"a.png": (), "b.png": (MUG,)} and "gone.png" in warnings


def test_images_without_labels_and_labels_without_images_are_reported(tmp_path):
    files = {"data.yaml": YAML, "labels/train/a.txt": BOX, "labels/train/bb.txt": BOX}
    files |= {"images/train/classes.txt": "plate\nmug\n"}
    images = ("images/train/a.png", "images/train/b.png", "images/train/c.png")
    objects, warnings = imported(write(tmp_path / "x", files, images), tmp_path)
    assert objects == {"a.png": (MUG,), "b.png": (), "c.png": ()}
    assert "2 images without a label file" in warnings and "b.png and 1 more" in warnings
    assert "1 label file of no imported image" in warnings and "bb.txt" in warnings


def test_an_import_without_any_label_file_fails(tmp_path):
    source = write(tmp_path / "x", {"data.yaml": YAML, "annotations/a.txt": BOX})
    with pytest.raises(DatasetError, match=r"none of the 1 images has a label file; a\.txt"):
        imported(source, tmp_path)


def test_a_split_without_any_label_file_is_left_out(tmp_path):
    files = {"data.yaml": YAML + "test: images/test\n", "labels/train/a.txt": BOX}
    source = write(tmp_path / "x", files, ("images/train/a.png", "images/test/b.png"))
    objects, warnings = imported(source, tmp_path)
    assert objects == {"a.png": (MUG,)} and "no image of test has a label file" in warnings


@pytest.mark.parametrize(
    "rows, expected",
    [
        (["1 .5 .5 .25 .5 0.91 1", "1 .5 .5 .25 .5 0.5 1"], [(0.91, 1), (0.5, 1)]),
        (["1 .5 .5 .25 .5 0.91 7.0"], [(0.91, 7)]),
        (["1 .5 .5 .25 .5 0.91 3", "1 .5 .5 .25 .5 0.5"], [(0.91, 3), (0.5, None)]),
        (["1 .5 .5 .25 .5 1", "1 .5 .5 .25 .5 0.5"], [(1.0, None), (0.5, None)]),
        (["1 .5 .5 .25 .5 1", "1 .5 .5 .25 .5 12"], [(None, 1), (None, 12)]),
    ],
)
def test_scores_and_tracks_are_told_apart_by_all_rows(tmp_path, rows, expected):
    source = write(tmp_path / "x", {"data.yaml": YAML, "labels/train/a.txt": "\n".join(rows)})
    objects, warnings = imported(source, tmp_path)
    assert [(obj.score, obj.track) for obj in objects["a.png"]] == expected
    assert {obj.box for obj in objects["a.png"]} == {MUG.box} and "were read as" in warnings


@pytest.mark.parametrize(
    "extra, rows, dataset_format",
    [
        ("", "1 .1 .1 .5 .1 .3 .4", YoloFormat()),
        ("", "1 .1 .1 .5 .1 .3 1\n1 .1 .1 .5 .1 .3 .9", YoloFormat()),
        ("task: segment\n", "1 .5 .5 .2 .2 .9 1", YoloFormat()),
        ("", "1 .5 .5 .2 .2 .9 1", YoloSegFormat()),
        ("task: obb\n", "1 .1 .1 .5 .1 .5 .5 .1 .5", YoloFormat()),
    ],
)
def test_outlines_stay_outlines(tmp_path, extra, rows, dataset_format):
    source = write(tmp_path / "x", {"data.yaml": YAML + extra, "labels/train/a.txt": rows})
    objects, _ = imported(source, tmp_path, dataset_format)
    assert all(obj.mask and obj.score is None for obj in objects["a.png"])


def test_outlines_with_score_and_track_of_three_rows_or_more(tmp_path):
    rows = "1 .1 .1 .5 .1 .5 .5 .1 .5 0.8 1\n" * 3
    source = write(tmp_path / "x", {"data.yaml": YAML, "labels/train/a.txt": rows})
    objects, _ = imported(source, tmp_path)
    assert {(obj.score, obj.track) for obj in objects["a.png"]} == {(0.8, 1)}


POSE = "1 .5 .5 .25 .5 .5 .5 2 .45 .5 1 0 0 0"


@pytest.mark.parametrize(
    "shape, row, score",
    [
        ("[3, 3]", POSE, None),
        ("[3, 3]", POSE + " 0.75", 0.75),
        ("[1, 2]", "1 .5 .5 .25 .5 .4 .4", None),
        ("[3, 3]", "1 .5 .5 .25 .5", None),
    ],
)
def test_keypoints_are_no_outline(tmp_path, shape, row, score):
    yaml = YAML + f"kpt_shape: {shape}\n"
    source = write(tmp_path / "x", {"data.yaml": yaml, "labels/train/a.txt": row})
    objects, _ = imported(source, tmp_path)
    assert objects["a.png"] == (Object("mug", MUG.box, score),)


@pytest.mark.parametrize(
    "extra, row, message",
    [
        ("", POSE, r"3 keypoints; .* kpt_shape: \[3, 3\]"),
        ("kpt_shape: [4, 3]\n", POSE, r"14 numbers, but a row of kpt_shape \[4, 3\] has 17"),
        ("kpt_shape: many\n", POSE, "kpt_shape must be"),
        ("task: pose\n", POSE, "no kpt_shape"),
        ("task: classify\n", POSE, "`task` must be one of"),
        ("", "1 .5 .5 .25 .5 87.5", "87.5 is no track id"),
        ("task: obb\n", "1 .5 .5 .25 .5 .5", "task obb has 9"),
    ],
)
def test_rows_that_are_not_what_the_dataset_says_are_refused(tmp_path, extra, row, message):
    source = write(tmp_path / "x", {"data.yaml": YAML + extra, "labels/train/a.txt": row})
    with pytest.raises(DatasetError, match=message):
        imported(source, tmp_path)


@pytest.mark.parametrize(
    "row", ["1 x 0.5 0.25 0.5", "1 nan .5 .2 .5", "7 .5 .5 .1 .1", "1 .5", "\udcff"]
)
def test_a_damaged_row_leaves_out_its_image_and_the_rest_is_imported(tmp_path, row):
    images = tuple(f"images/train/{name}.png" for name in "abc")
    labels = {f"labels/train/{name}.txt": BOX for name in "bc"}
    source = write(tmp_path / "x", {"data.yaml": YAML, **labels}, images)
    (source / "labels/train/a.txt").write_bytes(f"{BOX}{row}\n".encode("utf-8", "surrogateescape"))
    objects, warnings = imported(source, tmp_path)
    assert [*objects] == ["b.png", "c.png"]
    assert "1 image left out, because " in warnings
    assert "a.txt" in warnings and "a.png" in warnings
    assert row == "\udcff" or "a.txt:2: " in warnings
    assert "2 objects left out, because their image is left out: " in warnings


def test_an_import_with_more_than_half_of_the_images_damaged_fails(tmp_path):
    images = tuple(f"images/train/{name}.png" for name in "abc")
    labels = {f"labels/train/{name}.txt": BOX + "1 x\n" for name in "bc"}
    files = {"data.yaml": YAML, **labels, "labels/train/a.txt": BOX}
    with pytest.raises(DatasetError, match=r"b.txt:2: not numbers.*\(2 of 3 images are damaged\)"):
        imported(write(tmp_path / "x", files, images), tmp_path)
    assert not (tmp_path / "in").exists()


def test_objects_without_area_are_counted_and_make_no_negative(tmp_path):
    files = {"labels/train/a.txt": BOX + "1 .5 .5 0 .5\n", "labels/train/b.txt": "1 .5 .5 0 0"}
    images = ("images/train/a.png", "images/train/b.png")
    objects, warnings = imported(
        write(tmp_path / "x", {"data.yaml": YAML} | files, images), tmp_path
    )
    assert objects == {"a.png": (MUG,)}
    assert "2 objects left out, because they have no area" in warnings and "b.png" in warnings


@pytest.mark.parametrize(
    "entry",
    ["images\\train", "C:\\Users\\me\\set\\images\\train", "/home/me/set/images/train"],
)
def test_paths_of_other_machines_are_found(tmp_path, entry):
    yaml = f"names: [plate, mug]\ntrain: {entry}\n"
    source = write(tmp_path / "x", {"data.yaml": yaml, "labels/train/a.txt": BOX})
    assert imported(source, tmp_path)[0] == {"a.png": (MUG,)}


@pytest.mark.parametrize(
    "line", ["data/images/train/a.png", "images\\train\\a.png", "/home/me/x/images/train/a.png"]
)
def test_lines_of_a_list_are_found_under_a_shorter_path(tmp_path, line):
    yaml = "path: .\ntrain: lists/train.txt\nnames: {0: plate, 1: mug}\n"
    files = {"data.yaml": yaml, "labels/train/a.txt": BOX, "lists/train.txt": line + "\nno/b.png\n"}
    objects, warnings = imported(write(tmp_path / "x", files), tmp_path)
    assert objects == {"a.png": (MUG,)} and "no/b.png" in warnings


def test_parts_that_are_not_there_are_left_out_and_not_taken_from_elsewhere(tmp_path):
    yaml = YAML + "val: val/images\ntest: ../test/images\n"
    source = write(tmp_path / "x", {"data.yaml": yaml, "labels/train/a.txt": BOX})
    objects, warnings = imported(source, tmp_path)
    assert objects == {"a.png": (MUG,)}
    assert "val names val/images" in warnings and "test names ../test/images" in warnings


def test_the_yaml_file_with_names_and_parts_is_read(tmp_path):
    files = {"args.yaml": "task: detect\n", "bad.yml": "a: [", "z.yml": YAML, "y.yml": "names: [a]"}
    source = write(tmp_path / "x", files | {"labels/train/a.txt": BOX})
    assert imported(source, tmp_path)[0] == {"a.png": (MUG,)}


@pytest.mark.parametrize(
    "names, expected",
    [
        ("[yes, no, 010, 1.10]", ("yes", "no", "010", "1.10")),
        ("{0: null, 1: 2024-01-01, 2: 1e3, 3: '~'}", ("null", "2024-01-01", "1e3", "~")),
    ],
)
def test_class_names_stay_as_they_are_written(tmp_path, names, expected):
    files = {"data.yaml": f"names: {names}\ntrain: images/train\n", "labels/train/a.txt": BOX}
    data = import_dataset(write(tmp_path / "x", files), YoloFormat(), tmp_path / "in")
    assert data.classes == expected


@pytest.mark.parametrize(
    "names, message",
    [
        ("[cat, ~]", "class 1 has no name"),
        ("[cat, ]\n- x", "cannot be read"),
        ("[[cat]]", "class 0 has no name"),
        ("{0: cat, 0: dog}", "'0' is there twice"),
        ("{0: cat, 1: }", "class 1 has no name"),
    ],
)
def test_class_names_that_are_no_text_are_refused(tmp_path, names, message):
    files = {"data.yaml": f"names: {names}\ntrain: images/train\n", "labels/train/a.txt": BOX}
    with pytest.raises(DatasetError, match=message):
        imported(write(tmp_path / "x", files), tmp_path)


@pytest.mark.parametrize("name", ["obj.names", "_darknet.labels", "labels/classes.txt"])
def test_names_of_classes_without_a_yaml_file(tmp_path, name):
    files = {name: "plate\nmug\n", "labels/train/a.txt": BOX, "labels/val/b.txt": BOX}
    source = write(tmp_path / "x", files, ("images/train/a.png", "images/val/b.png"))
    data = import_dataset(source, YoloFormat(), tmp_path / "in")
    assert [sample.split for sample in data] == ["train", "val"]


OBJ_DATA = """# of Darknet
classes = 2
train  = data/train.txt
valid = data/valid.txt
names= data/obj.names
backup = backup/
"""


@pytest.mark.parametrize("home, prefix", [("", "data/"), ("data/", "data/"), ("data/", "")])
@pytest.mark.parametrize("as_file", [False, True])
def test_obj_data_of_darknet_names_the_classes_and_the_lists(tmp_path, home, prefix, as_file):
    files = {
        "obj.data": OBJ_DATA.replace("data/", prefix),
        "obj.names": "plate\nmug\n",
        "valid.txt": "data/obj/b.png\n",
    }
    files |= {"train.txt": "data/obj/a.png\n", "obj/a.txt": BOX, "obj/b.txt": BOX, "obj/c.txt": ""}
    images = tuple(f"{home}obj/{name}.png" for name in "abc")
    write(tmp_path / "x", {f"{home}{name}": text for name, text in files.items()}, images)
    source = tmp_path / "x" / home / "obj.data" if as_file else tmp_path / "x"
    data = import_dataset(source, YoloFormat(), tmp_path / "in")
    assert data.classes == ("plate", "mug")
    assert [(s.image, s.split, s.item.objects) for s in data] == [
        ("a.png", "train", (MUG,)),
        ("b.png", "val", (MUG,)),
    ]


def test_obj_data_without_its_lists_has_the_images_of_the_folder(tmp_path):
    files = {"obj.data": OBJ_DATA, "obj.names": "plate\nmug\n", "obj/a.txt": BOX}
    objects, warnings = imported(write(tmp_path / "x", files, ("obj/a.png",)), tmp_path)
    assert objects == {"a.png": (MUG,)}
    assert "data/train.txt and data/valid.txt not found; all images in " in warnings


def test_obj_data_without_names_is_refused(tmp_path):
    source = write(tmp_path / "x", {"obj.data": OBJ_DATA, "obj/a.txt": BOX}, ("obj/a.png",))
    with pytest.raises(DatasetError, match="obj.data: names must be a file .* data/obj.names"):
        imported(source, tmp_path)


def test_images_beside_their_labels_and_the_names_of_classes(tmp_path):
    files = {"images/classes.txt": "plate\nmug\n", "images/a.txt": BOX}
    source = write(tmp_path / "x", files, ("images/a.png",)) / "images"
    assert imported(source, tmp_path) == ({"a.png": (MUG,)}, "")


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_imported(tmp_path):
    files = {"data.yaml": YAML, "labels/train/a.txt": BOX, "labels/train/b.txt": BOX}
    source = write(tmp_path / "x", files | {"images/train/b.png": "no image"})
    objects, warnings = imported(source, tmp_path)
    assert objects == {"a.png": (MUG,)} and "b.png" in warnings


def test_image_names_that_are_not_utf8_are_imported_under_another_name(tmp_path):
    source = write(tmp_path / "x", {"data.yaml": YAML})
    (source / "images/train/a.png").rename(
        os.fsdecode(bytes(source / "images/train") + b"/\xe9.png")
    )
    (source / "labels/train").mkdir(parents=True)
    Path(os.fsdecode(bytes(source / "labels/train") + b"/\xe9.txt")).write_text(BOX)
    assert [*imported(source, tmp_path)[0].values()] == [(MUG,)]


@pytest.mark.parametrize(
    "row",
    [
        *("0 nan 0.5 0.2 0.2", "2 0.5 0.5 0.2 0.2", "0.5 0.5 0.5 0.2 0.2", "0 0.5 0.5 -0.2 0.2"),
        *("0 0.5 0.5 1.2 0.2", "0 0.5 0.5 0 0.2", "0 0.5 x 0.2 0.2", "0 0.5 0.5 0.2 0.2 0.9"),
    ],
)
def test_only_rows_that_are_all_usable_boxes_are_read_at_once(row):
    """Any other row is read one by one, which names and counts what is wrong."""
    reader = RowReader(["plate", "mug"], ImportReport())
    good = "1 0.5 0.5 0.25 0.5"
    assert reader.read_boxes([good, good], (64, 48)) == [MUG, MUG]
    assert reader.read_boxes([good], (64, 48)) == [reader.read(good, (64, 48), "a")]
    assert reader.read_boxes([good, row], (64, 48)) is None

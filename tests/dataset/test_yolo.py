from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import supervision as sv
from coco_samples import scattered
from dataset_samples import PLATE, clip, item, items, mug, save_turned
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from annotate.dataset import yolo
from annotate.dataset.build import build_dataset
from annotate.dataset.export import export_dataset, import_dataset
from annotate.dataset.folder import SplitRange, with_split
from annotate.dataset.yolo import YoloFormat, YoloSegFormat
from annotate.errors import DatasetError, ExportDiffers
from annotate.items import masks
from annotate.items.records import Object

SIZE_WH = (64, 48)
FORMATS = (YoloFormat(), YoloSegFormat())


@pytest.fixture
def data(tmp_path):
    dock, quay = clip(tmp_path / "dock", 3), clip(tmp_path / "quay", 1, first=9)
    lines = [item("dock", 0, PLATE, mug(), scattered()), item("dock", 2), item("quay", 0, mug())]
    return build_dataset([items(tmp_path / "i.jsonl", [dock, quay], lines)], tmp_path / "data")


def loaded(out, part="train"):
    return sv.DetectionDataset.from_yolo(
        str(out / "images" / part), str(out / "labels" / part), str(out / "data.yaml")
    )


def labels(out, name, part="train"):
    return (out / "labels" / part / name).read_text().splitlines()


def test_a_line_is_a_class_and_a_box(data, tmp_path):
    report = export_dataset(data, YoloFormat(), tmp_path / "out")
    assert labels(tmp_path / "out", "dock-000000.txt")[0] == (
        "0 0.24218750 0.43750000 0.45312500 0.79166667"
    )
    assert report.table()["box_error"].max() < 1e-4


def test_empty_frames_have_empty_files(data, tmp_path):
    for dataset_format in FORMATS:
        export_dataset(data, dataset_format, tmp_path / "out", force=True)
        assert labels(tmp_path / "out", "dock-000002.txt") == []
        assert (tmp_path / "out" / "images" / "train" / "dock-000002.png").is_file()


@pytest.mark.parametrize(
    "dataset_format", [YoloFormat(), YoloSegFormat()], ids=["boxes", "outlines"]
)
def test_supervision_loads_the_export(data, tmp_path, dataset_format):
    out = tmp_path / "out"
    export_dataset(data, dataset_format, out)
    seen = loaded(out)
    assert seen.classes == ["plate", "mug"] and len(seen) == 3
    detections = seen.annotations[str(out / "images" / "train" / "dock-000000.png")]
    assert detections.class_id.tolist() == [0, 1, 0]
    np.testing.assert_allclose(detections.xyxy[0], PLATE.box, atol=1e-4)


def test_an_object_is_one_line_with_its_parts_and_holes(data, tmp_path):
    out = tmp_path / "out"
    export_dataset(data, YoloSegFormat(), out)
    assert len(labels(out, "dock-000000.txt")) == 3
    detections = loaded(out).annotations[str(out / "images" / "train" / "dock-000000.png")]
    np.testing.assert_array_equal(
        detections.mask[1], masks.decode(mug().mask)
    )  # holed: to the pixel
    expected = masks.decode(scattered().mask)
    assert (detections.mask[2] & expected).sum() == expected.sum()
    assert (detections.mask[2] & ~expected).sum() < 40  # the bridges between its parts


def test_an_object_without_mask_is_written_as_a_rectangle_outline(data, tmp_path):
    export_dataset(data, YoloSegFormat(), tmp_path / "out")
    assert [len(line.split()) > 6 for line in labels(tmp_path / "out", "dock-000000.txt")] == [
        True
    ] * 3
    first = labels(tmp_path / "out", "dock-000000.txt")[0].split()
    assert [round(float(x) * 64, 4) for x in first[1::2]] == [1, 30, 30, 1]


any_mask = hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(any_mask.filter(lambda mask: mask.any()), st.sampled_from([(9, 9), (640, 360), (1279, 719)]))
def test_an_outline_reads_back_as_the_mask_and_its_bridges(mask, size_wh):
    picture = np.zeros(size_wh[::-1], bool)
    picture[-mask.shape[0] :, -mask.shape[1] :] = mask
    obj = Object("a", (0, 0, 1, 1), mask=masks.encode(picture))
    text = yolo._format_numbers(yolo._normalized_outline(obj, item("x", 0, size_wh=size_wh)))
    [read] = yolo._reread_objects([f"0 {text}"], size_wh, {0: "a"}, True)
    seen = masks.decode(read.mask)
    assert not (picture & ~seen).any()
    if len(masks.to_polygons(picture)) == 1:
        np.testing.assert_array_equal(seen, picture)
    assert np.abs(np.subtract(read.box, masks.box(picture))).max() < 0.511
    truncated = np.zeros(size_wh[::-1], np.uint8)  # Ultralytics truncates coordinates
    ring = np.array(text.split(), np.float32).reshape(-1, 2) * np.array(size_wh, np.float32)
    cv2.fillPoly(truncated, [ring.astype(np.int32)], 1)
    np.testing.assert_array_equal(truncated.astype(bool), seen)


def test_a_mask_that_is_mostly_bridges_is_an_error(tmp_path):
    mask = np.zeros((48, 64), bool)
    mask[0, 0] = mask[47, 63] = True
    specks = Object("mug", masks.box(mask), mask=masks.encode(mask))
    dock = clip(tmp_path / "dock", 1)
    source = items(tmp_path / "i.jsonl", [dock], [item("dock", 0, specks)])
    data = build_dataset([source], tmp_path / "data")
    with pytest.raises(ExportDiffers, match=r"worst is dock-000000.png, object 1, 0.0"):
        export_dataset(data, YoloSegFormat(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    report = export_dataset(data, YoloSegFormat(min_iou=0.01), tmp_path / "out")
    assert report.table().loc["mug", "iou_least"] == pytest.approx(2 / 64, abs=0.01)


def test_data_yaml_has_no_path_and_pins_the_classes(data, tmp_path):
    export_dataset(data, YoloFormat(), tmp_path / "out")
    lines = (tmp_path / "out" / "data.yaml").read_text().splitlines()
    assert lines[0] == "train: images/train" and lines[1].startswith("val: images/train  # not sp")
    assert lines[2:] == ["names:", '  0: "plate"', '  1: "mug"']
    halves = [SplitRange("dock", 0, 3, "train"), SplitRange("quay", 0, 1, "val")]
    export_dataset(with_split(data, halves), YoloFormat(), tmp_path / "split")
    assert (
        (tmp_path / "split" / "data.yaml")
        .read_text()
        .startswith("train: images/train\nval: images/val\nnames:")
    )
    assert [len(loaded(tmp_path / "split", part)) for part in ("train", "val")] == [2, 1]


def test_images_are_linked_not_copied(data, tmp_path):
    export_dataset(data, YoloFormat(), tmp_path / "out")
    copy = tmp_path / "out" / "images" / "train" / "dock-000000.png"
    assert copy.samefile(data.images / "dock-000000.png")


def foreign(home: Path, label: str, yaml: str | None, picture="images/train/a.png"):
    """Write a YOLO dataset of another program, with one image of 64x48."""
    path = home / picture
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.zeros((48, 64, 3), np.uint8))
    text = home / Path(picture.replace("images", "labels")).with_suffix(".txt")
    text.parent.mkdir(parents=True, exist_ok=True)
    text.write_text(label)
    if yaml is not None:
        (home / "data.yaml").write_text(yaml)
    return home


def imported(source, tmp_path):
    return import_dataset(source, YoloFormat(), tmp_path / "in")


NAMES = "names: [plate, mug]\n"
BOX = "1 0.5 0.5 0.25 0.5\n"


@pytest.mark.parametrize(
    "yaml, picture",
    [
        (NAMES + "train: images/train\nval: images/train\n", "images/train/a.png"),
        ("names: {1: mug, 0: plate}\ntrain: [images/train]\n", "images/train/a.png"),
        (NAMES + "path: .\ntrain: images/train\n", "images/train/a.png"),
        (NAMES + "path: /nowhere/at/all\ntrain: images/train\n", "images/train/a.png"),
        (NAMES + "train: ../train/images\nnc: 2\n", "train/images/a.png"),
        (NAMES + "train: train.txt\n", "images/train/a.png"),
        (None, "images/a.png"),
    ],
    ids=["plain", "dict and list", "path", "another machine's path", "roboflow", "txt", "classes"],
)
def test_images_are_found_by_every_kind_of_entry(tmp_path, yaml, picture):
    source = foreign(tmp_path / "x", BOX, yaml, picture)
    (source / "train.txt").write_text("./images/train/a.png\n\n")
    (source / "classes.txt").write_text("plate\nmug\n\n")
    data = imported(source, tmp_path)
    [sample] = data
    assert (data.classes, sample.split) == (("plate", "mug"), "train")
    assert sample.item.objects == (Object("mug", (24, 12, 40, 36)),)


@pytest.mark.parametrize(
    "line, obj",
    [
        ("1 0.5 0.5 0.25 0.5 0.875", Object("mug", (24, 12, 40, 36), 0.875)),
        ("1.0 0.5 0.5 0.25 0.5 12", Object("mug", (24, 12, 40, 36), None, 12)),
        ("0 0.5 0.5 1.004 0.5", Object("plate", (0, 12, 64, 36))),
    ],
    ids=["score", "track", "overhang"],
)
def test_an_extra_number_is_a_score_or_a_track(tmp_path, line, obj):
    source = foreign(tmp_path / "x", line, NAMES + "train: images/train\n")
    [sample] = imported(source, tmp_path)
    assert sample.item.objects == (obj,)


def test_an_outline_is_filled_with_its_own_points(tmp_path):
    line = "0 0.15625 0.20833 0.296875 0.20833 0.296875 0.39583 0.15625 0.39583\n"
    source = foreign(tmp_path / "x", line, NAMES + "train: images/train\n")
    [sample] = imported(source, tmp_path)
    [obj] = sample.item.objects
    assert obj.box == (10, 10, 20, 20) and masks.area(obj.mask) == 100


def test_labels_are_of_the_upright_picture(tmp_path):
    source = foreign(tmp_path / "x", "0 0.25 0.5 0.5 0.25\n", NAMES + "train: images/train\n")
    save_turned(source / "images" / "train" / "a.png", orientation=6)  # stored 64x48
    [sample] = imported(source, tmp_path)
    assert (sample.item.width, sample.item.height) == (48, 64)
    assert sample.item.objects == (Object("plate", (0, 24, 24, 40)),)


@pytest.mark.parametrize(
    "line, message",
    [
        ("2 0.5 0.5 0.1 0.1", "class id 2, but there are only 0 to 1"),
        ("-1 0.5 0.5 0.1 0.1", "class id -1, but"),
        ("0.5 0.5 0.5 0.1 0.1", "class id 0.5, but"),
        ("mug 0.5 0.5 0.1 0.1", "not numbers: 'mug"),
        ("1 0.5 0.5 0.1", "expected a class and a box or an outline"),
        ("1 0.5 nan 0.1 0.1", "expected a class and a box or an outline"),
        ("1 0.5 0.5 -0.1 0.1", "a box of negative"),
        ("1 24 12 16 24", "box .* is outside the image of 64x48"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    source = foreign(tmp_path / "x", BOX + "\n" + line, NAMES + "train: images/train\n")
    with pytest.raises(DatasetError, match=rf"labels/train/a.txt:3: {message}"):
        imported(source, tmp_path)
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize(
    "yaml, message",
    [
        (None, "neither data.yaml nor obj.data nor"),
        ("names: [a", "data.yaml: cannot be read"),
        ("- a", "expected names, train and val"),
        ("train: images/train", "names must be a list"),
        ("names: {0: a, 2: b}\ntrain: images/train", "ids 0 to 1"),
        ("names: {a: b}\ntrain: images/train", "keys of names must be class ids"),
        ("names: [a, a]\ntrain: images/train", "two classes have the same name"),
        ("names: [a, b]\ntrain: pictures", "names pictures, which is not there"),
        ("names: [a, b]\ntrain: bad.txt", "bad.txt:1: no image b.png"),
    ],
)
def test_a_bad_data_yaml_is_refused(tmp_path, yaml, message):
    source = foreign(tmp_path / "x", BOX, yaml)
    (source / "bad.txt").write_text("b.png\n")
    with pytest.raises(DatasetError, match=message):
        imported(source, tmp_path)


def test_images_of_the_same_name_in_two_splits_are_two(tmp_path):
    yaml = NAMES + "train: images/train\nval: images/val\n"
    source = foreign(tmp_path / "x", BOX, yaml)
    foreign(tmp_path / "x", "", None, "images/val/a.png")
    images = [(s.image, s.split, len(s.item.objects)) for s in imported(source, tmp_path)]
    assert images == [("a-000000.png", "train", 1), ("a-000001.png", "val", 0)]


@pytest.mark.skipif(find_spec("ultralytics") is None, reason="ultralytics is not installed")
@pytest.mark.parametrize(
    "dataset_format", [YoloFormat(), YoloSegFormat()], ids=["boxes", "outlines"]
)
def test_ultralytics_accepts_the_export(data, tmp_path, dataset_format):
    from ultralytics.data.utils import check_det_dataset

    export_dataset(data, dataset_format, tmp_path / "out")  # checks every file with ultralytics
    detections = check_det_dataset(str(tmp_path / "out" / "data.yaml"), autodownload=False)
    assert detections["names"] == {0: "plate", 1: "mug"} and Path(detections["train"]).is_dir()


@pytest.mark.parametrize("name", ["🎯 цель", "標的", "yes", "1e3", 'a "b" \\ c: # d', "x" * 300])
def test_a_class_name_of_any_script_is_written_and_read(tmp_path, name):
    obj = Object(name, (1.0, 2.0, 30.0, 40.0))
    lines = [item("dock", 0, obj)]
    path = items(tmp_path / "i.jsonl", [clip(tmp_path / "dock", 1)], lines, labels=[name])
    export_dataset(build_dataset([path], tmp_path / "d"), YoloFormat(), tmp_path / "out")
    assert loaded(tmp_path / "out").classes == [name]
    written = (tmp_path / "out" / "data.yaml").read_text(encoding="utf-8")
    assert len(written.splitlines()) == 4

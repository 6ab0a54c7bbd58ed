import contextlib
import io
import json

import cv2
import numpy as np
import pytest
import supervision as sv
from coco_samples import scattered
from dataset_samples import PLATE, clip, item, items, mug, save_turned
from PIL import Image, ImageOps
from pycocotools import mask as pycocotools_mask
from pycocotools.coco import COCO

from annotate.dataset.build import build_dataset
from annotate.dataset.coco import CocoFormat
from annotate.dataset.export import export_dataset, import_dataset
from annotate.dataset.folder import SplitRange, with_split
from annotate.errors import DatasetError
from annotate.items import masks


@pytest.fixture
def data(tmp_path):
    dock, quay = clip(tmp_path / "dock", 3), clip(tmp_path / "quay", 1, first=9)
    lines = [
        item("dock", 0, PLATE, mug(), scattered()),
        item("dock", 2),
        item("quay", 0, mug(track=9)),
    ]
    return build_dataset([items(tmp_path / "i.jsonl", [dock, quay], lines)], tmp_path / "data")


def exported(data, tmp_path, **options):
    """Export as COCO: the folder, and its JSON file as pycocotools loads it."""
    export_dataset(data, CocoFormat(**options), tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        return tmp_path / "out", COCO(tmp_path / "out" / "annotations" / "instances_train.json")


def test_masks_are_rle_with_their_true_area(data, tmp_path):
    _, coco = exported(data, tmp_path)
    box, holed, parts, _ = coco.loadAnns(coco.getAnnIds())
    assert [a["iscrowd"] for a in (box, holed, parts)] == [0, 0, 0]
    assert isinstance(holed["segmentation"]["counts"], str)
    assert holed["area"] == 15 * 9 - 4 * 3 == masks.area(mug().mask)  # not width x height
    assert parts["area"] == 18 * 18 - 100 + 9 + 50
    assert parts["segmentation"] == scattered().mask
    assert (box["segmentation"], box["area"]) == ([], 29 * 38)  # no mask is invented
    assert box["bbox"] == [1, 2, 29, 38]


def test_ids_names_and_order_are_pinned(data, tmp_path):
    out, coco = exported(data, tmp_path)
    assert coco.dataset["categories"] == [{"id": 1, "name": "plate"}, {"id": 2, "name": "mug"}]
    assert [image["id"] for image in coco.dataset["images"]] == [1, 2, 3]
    assert [image["file_name"] for image in coco.dataset["images"]] == [
        "dock-000000.png",
        "dock-000002.png",  # annotated, and empty
        "quay-000000.png",
    ]
    assert [a["id"] for a in coco.dataset["annotations"]] == [1, 2, 3, 4]
    assert all((out / "images" / image["file_name"]).is_file() for image in coco.imgs.values())


def test_tracks_and_scores_are_kept_and_never_invented(data, tmp_path):
    _, coco = exported(data, tmp_path)
    box, holed, parts, _ = coco.loadAnns(coco.getAnnIds())
    assert (box["score"], "track_id" in box) == (0.5, False)
    assert ("score" in holed, holed["track_id"], holed["source"]) == (False, 1, "test")
    assert (parts["score"], parts["track_id"]) == (0.25, 7)


@pytest.mark.parametrize("polygons", [False, True])
def test_supervision_loads_the_export(data, tmp_path, polygons):
    out, _ = exported(data, tmp_path, polygons=polygons)
    loaded = sv.DetectionDataset.from_coco(
        str(out / "images"), str(out / "annotations" / "instances_train.json")
    )
    assert loaded.classes == ["plate", "mug"] and len(loaded) == 3
    detections = loaded.annotations[str((out / "images" / "dock-000000.png").resolve())]
    np.testing.assert_array_equal(detections.xyxy[0], PLATE.box)
    assert detections.class_id.tolist() == [0, 1, 0]
    if not polygons:  # supervision also paints the outline, one pixel too much right and below
        for mask, obj in zip(detections.mask[1:], (mug(), scattered()), strict=True):
            np.testing.assert_array_equal(mask, masks.decode(obj.mask))
    assert len(loaded.annotations[str((out / "images" / "dock-000002.png").resolve())]) == 0


def test_polygons_fill_to_the_same_pixels(data, tmp_path):
    _, coco = exported(data, tmp_path, polygons=True)
    parts = coco.loadAnns([3])[0]
    assert [len(ring) for ring in parts["segmentation"]] == [20, 8, 8, 8]
    rle = coco.annToRLE(parts)
    assert rle["counts"].decode() == scattered().mask["counts"]


def test_an_export_is_imported_unchanged(data, tmp_path):
    out, _ = exported(data, tmp_path)
    back = import_dataset(out, CocoFormat(), tmp_path / "back")
    assert list(back) == list(data)
    assert (back.classes, back.clips) == (data.classes, data.clips)


def test_each_split_has_a_file_and_ids_are_unique_over_all_files(data, tmp_path):
    split_ranges = [SplitRange("dock", 0, 3, "train"), SplitRange("quay", 0, 1, "val")]
    export_dataset(with_split(data, split_ranges), CocoFormat(), tmp_path / "out")
    tables = [
        json.loads((tmp_path / "out" / "annotations" / f"instances_{split}.json").read_text())
        for split in ("train", "val")
    ]
    assert [[image["id"] for image in table["images"]] for table in tables] == [[1, 2], [3]]
    assert [[a["id"] for a in table["annotations"]] for table in tables] == [[1, 2, 3], [4]]


def foreign(tmp_path, annotation, *, folder="images", name="a.png", categories=None, **image):
    """Write a COCO file of another program, with one image of 64x48 and one annotation."""
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(tmp_path / folder / "a.png"), np.zeros((48, 64, 3), np.uint8))
    table = {
        "images": [{"id": 5, "file_name": name, "width": 64, "height": 48, **image}],
        "categories": categories or [{"id": 90, "name": "mug"}, {"id": 3, "name": "plate"}],
        "annotations": [{"id": 17, "image_id": 5, "category_id": 90, **annotation}],
    }
    path = tmp_path / "annotations" / "instances_val2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(table))
    return tmp_path


def imported(source, tmp_path):
    return import_dataset(source, CocoFormat(), tmp_path / "in")


SQUARE = [10, 10, 20, 10, 20, 20, 10, 20]


@pytest.mark.parametrize(
    "segmentation, area",
    [
        ([SQUARE], 100),
        ([SQUARE, [30, 30, 40, 30, 40, 40]], 145),
        (SQUARE, 100),
        ({"size": [48, 64], "counts": [10, 20, 3042]}, 20),
        (mug().mask, 123),
        ([], None),
    ],
    ids=["polygon", "polygons", "flat polygon", "uncompressed", "compressed", "none"],
)
def test_foreign_masks_are_read(tmp_path, segmentation, area):
    source = foreign(tmp_path / "x", {"bbox": [1.5, 2, 3, 4.25], "segmentation": segmentation})
    data = imported(source, tmp_path)
    [sample] = data
    [obj] = sample.item.objects
    assert (obj.label, obj.box) == ("mug", (1.5, 2, 4.5, 6.25))
    assert data.classes == ("plate", "mug")  # by category id, with gaps
    assert (None if obj.mask is None else masks.area(obj.mask)) == area
    assert sample.split == "val"


@pytest.mark.parametrize(
    "quirk",
    [
        {"name": "val/a.png", "folder": "images/val"},
        {"name": "C:\\data\\a.png"},
        {"name": "train2017/a.png", "folder": "train2017"},
        {"name": None, "coco_url": "http://images.cocodataset.org/val2017/a.png"},
        {"folder": "annotations"},
    ],
    ids=["folder in the name", "windows", "beside", "lvis", "roboflow"],
)
def test_images_are_found_by_the_names_of_other_programs(tmp_path, quirk):
    source = foreign(tmp_path / "x", {"bbox": [0, 0, 9, 9]}, **quirk)
    [sample] = imported(source, tmp_path)
    assert sample.image == "a.png"


@pytest.mark.filterwarnings("ignore:Skipping COCO polygon")
def test_iscrowd_annotations_are_objects_as_supervision_writes_them(data, tmp_path):
    out, _ = exported(data, tmp_path)
    loaded = sv.DetectionDataset.from_coco(
        str(out / "images"), str(out / "annotations" / "instances_train.json")
    )
    for detections in loaded.annotations.values():
        detections.data.pop("iscrowd", None)
    loaded.as_coco(None, str(tmp_path / "sv" / "annotations.json"))
    (out / "images").rename(tmp_path / "sv" / "images")
    table = json.loads((tmp_path / "sv" / "annotations.json").read_text())
    assert [a["iscrowd"] for a in table["annotations"]].count(1) == 3  # what supervision does
    back = imported(tmp_path / "sv", tmp_path)
    first = next(iter(back)).item
    assert [t.mask for t in first.objects[1:]] == [mug().mask, scattered().mask]


def test_the_track_in_the_attributes_of_cvat_is_read(tmp_path):
    annotation = {"bbox": [0, 0, 9, 9], "attributes": {"track_id": 4, "occluded": False}}
    [sample] = imported(foreign(tmp_path / "x", annotation), tmp_path)
    assert sample.item.objects[0].track == 4


@pytest.mark.parametrize(
    "damage, message",
    [
        ({"category_id": 4}, "annotation 17: there is no category with its category_id"),
        ({"image_id": 6}, "annotation 17: there is no image with its image_id"),
        ({"bbox": [0, 0, 9]}, "annotation 17: bbox must be x, y, width, height"),
        ({"bbox": [0, 0, -9, 9]}, "annotation 17: a box of negative"),
        ({"bbox": [60, 0, 9, 9]}, "annotation 17: box .* outside the image of 64x48"),
        (
            {"bbox": [0, 0, float("nan"), 9]},
            "annotation 17: a box of negative size, or not of numbers",
        ),
        ({"bbox": None}, "annotation 17: neither a bbox nor a segmentation"),
        (
            {"segmentation": {"size": [48, 64], "counts": [16]}},
            "annotation 17: its run lengths do not fill",
        ),
        ({"segmentation": {"size": [4, 4], "counts": "`0"}}, "annotation 17: the mask is 4x4, but"),
        ({"segmentation": [[1, 2, 3]]}, "annotation 17: a segmentation that"),
        ({"segmentation": {"counts": 5}}, "annotation 17: a mask must be"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_damaged_annotation_is_named(tmp_path, damage, message):
    source = foreign(tmp_path / "x", {"bbox": [0, 0, 9, 9]} | damage)
    with pytest.raises(DatasetError, match=f"instances_val2017.json: {message}"):
        imported(source, tmp_path)
    assert not (tmp_path / "in").exists()


def test_an_image_of_another_size_is_named(tmp_path):
    source = foreign(tmp_path / "x", {"bbox": [0, 0, 9, 9]}, width=128)
    with pytest.raises(DatasetError, match=r"val2017.json: a.png is 64x48, not 128x48"):
        imported(source, tmp_path)


@pytest.mark.parametrize(
    "orientation", [5, 6, 7, 8], ids=["transpose", "clockwise", "transverse", "counter-clockwise"]
)
def test_annotations_of_the_size_before_the_exif_turn_are_turned(tmp_path, orientation):
    mask = masks.decode(mug().mask)  # 64x48, as the picture is stored
    source = foreign(tmp_path / "x", {"segmentation": mug().mask})
    save_turned(source / "images" / "a.png", orientation)
    [sample] = imported(source, tmp_path)
    [obj] = sample.item.objects
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn = Image.fromarray(mask)
    drawn.info["exif"] = exif.tobytes()
    upright = np.asarray(ImageOps.exif_transpose(drawn))
    assert (sample.item.width, sample.item.height) == upright.shape[::-1] == (48, 64)
    np.testing.assert_array_equal(masks.decode(obj.mask), upright)
    assert obj.box == masks.box(upright)


def test_annotations_of_the_size_after_the_exif_turn_stay(tmp_path):
    source = foreign(tmp_path / "x", {"bbox": [10, 50, 20, 10]}, width=48, height=64)
    save_turned(source / "images" / "a.png", orientation=6)
    [sample] = imported(source, tmp_path)
    assert (sample.item.width, sample.item.height) == (48, 64)
    assert sample.item.objects[0].box == (10, 50, 30, 60)


def test_swapped_sides_without_an_exif_turn_are_refused(tmp_path):
    source = foreign(tmp_path / "x", {"bbox": [0, 0, 9, 9]}, width=48, height=64)
    with pytest.raises(DatasetError, match=r"a.png is 64x48, not 48x64"):
        imported(source, tmp_path)


@pytest.mark.parametrize("size", [{"width": None}, {"width": 0, "height": 0}, {"width": "64"}])
def test_a_size_that_is_missing_is_that_of_the_image(tmp_path, size):
    data = imported(foreign(tmp_path / "x", {"bbox": [1, 2, 9, 9]}, **size), tmp_path)
    [sample] = data
    assert (sample.item.width, sample.item.height) == (64, 48)
    assert sample.item.objects[0].box == (1, 2, 10, 11)


@pytest.mark.parametrize("width", [-64, "wide", 64.5, [64], 1e8, float("nan")])
def test_a_size_that_is_no_number_of_pixels_is_named(tmp_path, width):
    source = foreign(tmp_path / "x", {"bbox": [0, 0, 9, 9]}, width=width)
    with pytest.raises(DatasetError, match="image 5: width and height must be whole numbers"):
        imported(source, tmp_path)


def test_a_missing_image_is_named(tmp_path):
    source = foreign(tmp_path / "x", {"bbox": [0, 0, 9, 9]}, name="b.png")
    with pytest.raises(DatasetError, match="image b.png not found"):
        imported(source, tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [("{", "not JSON"), ('{"images": []}', "not a COCO file"), ("[]", "not a COCO file")],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        imported(tmp_path / "x.json", tmp_path)
    with pytest.raises(DatasetError, match="no COCO file"):
        imported(tmp_path, tmp_path)
    with pytest.raises(DatasetError, match="no such file or folder"):
        imported(tmp_path / "y.json", tmp_path)


def test_pycocotools_evaluates_the_boxes(data, tmp_path):
    out, coco = exported(data, tmp_path)
    detections = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1}
        for a in coco.anns.values()
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        assert len(coco.loadRes(detections).anns) == 4
    assert pycocotools_mask.area([a["segmentation"] for a in coco.loadAnns([2])])[0] == 123
    assert out.is_dir()

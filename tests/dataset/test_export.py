from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from dataset_samples import PLATE, clip, item, items, mug
from PIL import Image

from annotate.dataset.build import build_dataset
from annotate.dataset.coco import CocoFormat
from annotate.dataset.export import FORMATS, export_dataset, import_dataset
from annotate.dataset.folder import SplitRange, external_id, link_or_copy, with_split
from annotate.errors import DatasetError, ExportDiffers, OutputError, UnknownName
from annotate.items import masks
from annotate.items.records import Object


@pytest.fixture
def data(tmp_path):
    """Two frames: one with a plate and a mug with a hole, one without objects."""
    dock = clip(tmp_path / "dock", 2)
    lines = [item("dock", 0, PLATE, mug()), item("dock", 1)]
    return build_dataset([items(tmp_path / "i.jsonl", [dock], lines)], tmp_path / "data")


def shifted(mask, pixels):
    return masks.encode(np.roll(masks.decode(mask), -pixels, axis=1))


def nudged(obj, pixels):
    x1, y1, x2, y2 = obj.box
    return replace(obj, box=(x1 + pixels, y1, x2 + pixels, y2))


@dataclass(frozen=True)
class DamagingFormat:
    """COCO whose reader changes the objects of each image."""

    damage: object
    marker: str = "annotations"
    min_iou: float = 1.0
    honest: CocoFormat = field(default_factory=CocoFormat)

    def write(self, dataset, out):
        self.honest.write(dataset, out)

    def representable(self, obj):
        return self.honest.representable(obj)

    def reread(self, samples, path):
        for objects in self.honest.reread(samples, path):
            yield self.damage(list(objects))

    def read(self, path):
        return self.honest.read(path)


CHANGES = {
    "one missing": (lambda objects: objects[:1], "2 objects, 1 read back"),
    "one too many": (lambda objects: objects * 2, "2 objects, 4 read back"),
    "order": (lambda objects: objects[::-1], "object 1: 'plate' was read back as 'mug'"),
    "mask lost": (
        lambda objects: [replace(obj, mask=None) for obj in objects],
        "object 2: 'mug' lost its mask",
    ),
    "box": (
        lambda objects: [nudged(obj, 0.6) for obj in objects],
        r"dock-000000.png, object 1: box \(1.0, .* of 'plate' read back as \(1.6",
    ),
    "hole filled": (
        lambda objects: [filled(obj) for obj in objects],
        r"'mug' read back with a mean IoU of 0.911, less than 1.0; the worst is dock-000000.png",
    ),
    "mask shifted": (
        lambda objects: [
            o if o.mask is None else replace(o, mask=shifted(o.mask, 1)) for o in objects
        ],
        r"object 2: 19 of 123 pixels of 'mug' are lost",
    ),
}


def filled(obj):
    if obj.mask is None:
        return obj
    [part] = masks.to_polygons(obj.mask)
    return replace(obj, mask=masks.polygons_to_rle([masks.Polygon(part.outer)], (64, 48)))


@pytest.mark.parametrize("change, message", CHANGES.values(), ids=CHANGES)
def test_a_changed_object_is_found_and_the_export_removed(tmp_path, data, change, message):
    damaged = DamagingFormat(lambda objects: change(objects) if objects else objects)
    with pytest.raises(ExportDiffers, match=message):
        export_dataset(data, damaged, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "dock", "i.jsonl"]


@pytest.mark.parametrize("name", FORMATS.names())
def test_every_format_verifies_its_export(tmp_path, data, name):
    dataset_format = FORMATS.load(name)
    report = export_dataset(data, dataset_format, tmp_path / "out")
    assert (report.images, report.objects) == (2, 2)
    table = report.table()
    assert list(table.index) == ["plate", "mug"] and list(table["objects"]) == [1, 1]
    has_mask = dataset_format.representable(mug()).mask is not None
    assert table.loc["mug", "masks"] == has_mask
    assert not has_mask or table.loc["mug", "iou_least"] == 1
    assert (tmp_path / "out" / dataset_format.marker).exists()


@pytest.mark.parametrize("name", FORMATS.names())
def test_every_format_imports_its_export(tmp_path, data, name):
    dataset_format = FORMATS.load(name)
    export_dataset(data, dataset_format, tmp_path / "out")
    back = import_dataset(tmp_path / "out", dataset_format, tmp_path / "back")
    assert back.classes == data.classes
    for before, after in zip(data, back, strict=True):
        assert (after.image, after.split) == (before.image, before.split)
        assert (before.item.frame, before.item.width) == (after.item.frame, after.item.width)
        expected = [dataset_format.representable(obj) for obj in before.item.objects]
        assert [t.label for t in expected] == [t.label for t in after.item.objects]
        if name != "yolo-seg":  # where a box becomes an outline
            assert [t.box for t in expected] == [t.box for t in after.item.objects]
        else:
            assert after.item.objects[1:] == tuple(expected[1:])
        assert (back.images / after.image).read_bytes() == (data.images / before.image).read_bytes()


@pytest.mark.parametrize("name", FORMATS.names())
def test_exporting_twice_gives_the_same_bytes(tmp_path, data, name):
    for out in ("a", "b"):
        export_dataset(data, FORMATS.load(name), tmp_path / out)
    a, b = (
        {p.relative_to(tmp_path / out): p.read_bytes() for p in (tmp_path / out).rglob("*.*")}
        for out in ("a", "b")
    )
    assert a == b


def test_an_export_is_not_overwritten(tmp_path, data):
    export_dataset(data, CocoFormat(), tmp_path / "out")
    with pytest.raises(OutputError, match="already there"):
        export_dataset(data, CocoFormat(), tmp_path / "out")
    export_dataset(data, CocoFormat(), tmp_path / "out", force=True)
    with pytest.raises(OutputError, match="something else is there"):
        export_dataset(data, FORMATS.load("yolo"), tmp_path / "out", force=True)


def test_formats_are_loaded_by_name_with_options():
    assert {"coco", "yolo", "yolo-seg"} <= set(FORMATS.names())
    with pytest.raises(UnknownName, match="did you mean 'coco'"):
        FORMATS.load("cocoa")
    with pytest.raises(UnknownName, match="did you mean 'polygons'"):
        FORMATS.load("coco", polygon=True)


def test_the_split_is_imported(tmp_path, data):
    split_ranges = [SplitRange("dock", 0, 1, "train"), SplitRange("dock", 1, 2, "val")]
    halves = with_split(data, split_ranges)
    for name in FORMATS.names():
        dataset_format = FORMATS.load(name)
        export_dataset(halves, dataset_format, tmp_path / name)
        back = import_dataset(tmp_path / name, dataset_format, tmp_path / f"{name}-back")
        assert [sample.split for sample in back] == ["train", "val"]


def test_an_empty_dataset_is_not_imported(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    with pytest.raises(DatasetError, match="there are no images in it"):
        import_dataset(tmp_path, FORMATS.load("yolo"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_objects_and_masks_are_counted_by_class(tmp_path):
    dock = clip(tmp_path / "dock", 1)
    lines = [item("dock", 0, mug(5, 1), mug(30, 2), Object("plate", (0.0, 0.0, 64.0, 48.0)))]
    built = build_dataset([items(tmp_path / "i.jsonl", [dock], lines)], tmp_path / "data")
    table = export_dataset(built, CocoFormat(), tmp_path / "out").table()
    assert table["objects"].to_dict() == {"plate": 1, "mug": 2}
    assert table["masks"].to_dict() == {"plate": 0, "mug": 2}


def test_an_export_holds_the_bytes_of_the_images_of_the_dataset(tmp_path):
    picture = tmp_path / "shots" / "images" / "a.jpg"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (64, 48), (90, 90, 90)).save(picture)
    picture.write_bytes(picture.read_bytes() + b"a film of two seconds")  # a motion photo
    (tmp_path / "shots" / "labels").mkdir()
    (tmp_path / "shots" / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "shots" / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    content = picture.read_bytes()
    data = import_dataset(tmp_path / "shots", FORMATS.load("yolo"), tmp_path / "data")
    for name in ("yolo", "yolo-seg", "coco"):
        export_dataset(data, FORMATS.load(name), tmp_path / name)
        [exported] = (tmp_path / name).rglob("a.jpg")
        assert exported.read_bytes() == content
    assert picture.read_bytes() == content


def test_an_image_never_replaces_another(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    link_or_copy(tmp_path / "a", tmp_path / "c")
    with pytest.raises(DatasetError, match="another image is called c already"):
        link_or_copy(tmp_path / "b", tmp_path / "c")
    assert (tmp_path / "a").read_text() == "a"


def yolo_folder(path, levels):
    """Write a YOLO dataset of images of one grey level each."""
    (path / "images").mkdir(parents=True)
    (path / "labels").mkdir()
    for number, level in enumerate(levels):
        Image.new("RGB", (64, 48), (level, level, level)).save(path / "images" / f"{number}.png")
        (path / "labels" / f"{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (path / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    return path


def test_imports_of_one_folder_name_are_told_apart_by_their_images(tmp_path):
    sources = [
        yolo_folder(tmp_path / name / "shots", [9, each])
        for name, each in zip("abc", (1, 2, 1), strict=True)
    ]
    ones = [
        import_dataset(s, FORMATS.load("yolo"), tmp_path / f"in{n}") for n, s in enumerate(sources)
    ]
    prints = [each.clips["shots"]["fingerprint"] for each in ones]
    assert prints[0] == prints[2] != prints[1] and len(prints[0]) == 64
    assert {**ones[0].clips["shots"], "fingerprint": ""} == {
        "fingerprint": "",
        "frame_count": 2,
        "width": 64,
        "height": 48,
        "images": True,
    }
    assert external_id(ones[0], "shots", 0) == external_id(ones[1], "shots", 0)  # one image
    assert external_id(ones[0], "shots", 1) != external_id(ones[1], "shots", 1)

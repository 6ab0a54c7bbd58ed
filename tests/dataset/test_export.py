from dataclasses import dataclass, field, replace

import pytest
from dataset_samples import PLATE, clip, item, items, mug

from annotate.dataset import folder
from annotate.dataset.build import build_dataset
from annotate.dataset.coco import CocoFormat
from annotate.dataset.export import FORMATS, export_dataset, import_dataset
from annotate.dataset.folder import SplitRange
from annotate.errors import DatasetError, ExportDiffers, OutputError, UnknownName
from annotate.items import masks
from annotate.items.records import Object


@pytest.fixture
def data(tmp_path):
    """Two frames: a plate and a mug with a hole; nothing."""
    dock = clip(tmp_path / "dock", 2)
    lines = [item("dock", 0, PLATE, mug()), item("dock", 1)]
    return build_dataset([items(tmp_path / "i.jsonl", [dock], lines)], tmp_path / "data")


def shifted(mask, by):
    return masks.encode(masks.decode(mask)[:, list(range(by, 64)) + list(range(by))])


def nudged(thing, by):
    x1, y1, x2, y2 = thing.box
    return replace(thing, box=(x1 + by, y1, x2 + by, y2))


@dataclass(frozen=True)
class Lying:
    """COCO, by a writer that spoils the objects of a picture on the way."""

    spoil: object
    mark: str = "annotations"
    least_iou: float = 1.0
    honest: CocoFormat = field(default_factory=CocoFormat)

    def write(self, dataset, out):
        self.honest.write(dataset, out)

    def meant(self, thing):
        return self.honest.representable(thing)

    def reread(self, samples, path):
        for seen in self.honest.reread(samples, path):
            yield self.spoil(list(seen))

    def read(self, path):
        return self.honest.read(path)


LIES = {
    "one missing": (lambda seen: seen[:1], "2 objects, 1 read back"),
    "one too many": (lambda seen: seen * 2, "2 objects, 4 read back"),
    "order": (lambda seen: seen[::-1], "object 1: 'plate' was read back as 'mug'"),
    "mask lost": (
        lambda seen: [replace(thing, mask=None) for thing in seen],
        "object 2: 'mug' lost its mask",
    ),
    "box": (
        lambda seen: [nudged(thing, 0.6) for thing in seen],
        r"dock-000000.png, object 1: box \(1.0, .* of 'plate' read back as \(1.6",
    ),
    "hole filled": (
        lambda seen: [filled(thing) for thing in seen],
        r"'mug' read back with a mean IoU of 0.911, less than 1.0; worst is dock-000000.png, obj",
    ),
    "mask shifted": (
        lambda seen: [t if t.mask is None else replace(t, mask=shifted(t.mask, 1)) for t in seen],
        r"object 2: 19 of 123 pixels of 'mug' are lost",
    ),
}


def filled(thing):
    if thing.mask is None:
        return thing
    [part] = masks.to_polygons(thing.mask)
    return replace(thing, mask=masks.polygons_to_rle([masks.Polygon(part.outer)], (64, 48)))


@pytest.mark.parametrize("lie, says", LIES.values(), ids=LIES)
def test_a_lie_is_found_and_leaves_nothing(tmp_path, data, lie, says):
    with pytest.raises(ExportDiffers, match=says):
        export_dataset(data, Lying(lambda seen: lie(seen) if seen else seen), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "dock", "i.jsonl"]


@pytest.mark.parametrize("name", FORMATS.names())
def test_every_format_keeps_what_it_can_hold(tmp_path, data, name):
    way = FORMATS.load(name)
    told = export_dataset(data, way, tmp_path / "out")
    assert (told.images, told.objects) == (2, 2)
    table = told.table()
    assert list(table.index) == ["plate", "mug"] and list(table["objects"]) == [1, 1]
    held = way.representable(mug()).mask is not None
    assert table.loc["mug", "masks"] == held
    assert not held or table.loc["mug", "iou_least"] == 1
    assert (tmp_path / "out" / way.marker).exists()


@pytest.mark.parametrize("name", FORMATS.names())
def test_every_format_reads_what_it_wrote(tmp_path, data, name):
    way = FORMATS.load(name)
    export_dataset(data, way, tmp_path / "out")
    back = import_dataset(tmp_path / "out", way, tmp_path / "back")
    assert back.classes == data.classes
    for before, after in zip(data, back, strict=True):
        assert (after.image, after.split) == (before.image, before.part)
        assert (before.item.frame, before.item.width) == (after.item.frame, after.item.width)
        meant = [way.representable(thing) for thing in before.item.objects]
        assert [t.label for t in meant] == [t.label for t in after.item.objects]
        if name != "yolo-seg":  # where a box becomes an outline
            assert [t.box for t in meant] == [t.box for t in after.item.objects]
        else:
            assert after.item.objects[1:] == tuple(meant[1:])
        assert (back.images / after.image).read_bytes() == (data.images / before.image).read_bytes()


@pytest.mark.parametrize("name", FORMATS.names())
def test_the_same_bytes_again(tmp_path, data, name):
    for out in ("a", "b"):
        export_dataset(data, FORMATS.load(name), tmp_path / out)
    a, b = (
        {p.relative_to(tmp_path / out): p.read_bytes() for p in (tmp_path / out).rglob("*.*")}
        for out in ("a", "b")
    )
    assert a == b


def test_an_export_is_not_written_over(tmp_path, data):
    export_dataset(data, CocoFormat(), tmp_path / "out")
    with pytest.raises(OutputError, match="already there"):
        export_dataset(data, CocoFormat(), tmp_path / "out")
    export_dataset(data, CocoFormat(), tmp_path / "out", force=True)
    with pytest.raises(OutputError, match="something else is there"):
        export_dataset(data, FORMATS.load("yolo"), tmp_path / "out", force=True)


def test_formats_and_their_options_by_name():
    assert {"coco", "yolo", "yolo-seg"} <= set(FORMATS.names())
    with pytest.raises(UnknownName, match="did you mean 'coco'"):
        FORMATS.load("cocoa")
    with pytest.raises(UnknownName, match="did you mean 'polygons'"):
        FORMATS.load("coco", polygon=True)


def test_parts_come_back_as_the_split(tmp_path, data):
    stretches = [
        SplitRange("dock", 0, 1, "train"),
        SplitRange("dock", 1, 2, "val"),
    ]
    halves = folder.with_stretches(data, stretches)
    for name in FORMATS.names():
        way = FORMATS.load(name)
        export_dataset(halves, way, tmp_path / name)
        back = import_dataset(tmp_path / name, way, tmp_path / f"{name}-back")
        assert [sample.split for sample in back] == ["train", "val"]


def test_an_empty_dataset_is_not_brought_in(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    with pytest.raises(DatasetError, match="no pictures in it"):
        import_dataset(tmp_path, FORMATS.load("yolo"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_object_of_every_kind_is_counted(tmp_path):
    dock = clip(tmp_path / "dock", 1)
    lines = [item("dock", 0, mug(5, 1), mug(30, 2), Object("plate", (0.0, 0.0, 64.0, 48.0)))]
    built = build_dataset([items(tmp_path / "i.jsonl", [dock], lines)], tmp_path / "data")
    table = export_dataset(built, CocoFormat(), tmp_path / "out").table()
    assert table["objects"].to_dict() == {"plate": 1, "mug": 2}
    assert table["masks"].to_dict() == {"plate": 0, "mug": 2}

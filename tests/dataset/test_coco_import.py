"""COCO files as other programs write them, and damaged ones: one case for each kind of fault."""

import json
import resource
import subprocess
import sys

import cv2
import numpy as np
import pytest

from annotate.dataset.coco import CocoFormat
from annotate.dataset.export import export_dataset, import_dataset
from annotate.errors import DatasetError
from annotate.items import masks

TRIANGLE = [20, 10, 60, 10, 60, 30]


def image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((48, 64, 3), value, np.uint8))


def entry(number=1, name="a.png", **keys):
    return {"id": number, "file_name": name, "width": 64, "height": 48} | keys


def annotation(number=1, image_id=1, **keys):
    box = [20, 10, 40, 20]
    return {"id": number, "image_id": image_id, "category_id": 1, "bbox": box} | keys


def coco(path, annotations=None, images=None, categories=None, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {
        "images": [entry()] if images is None else images,
        "annotations": [annotation()] if annotations is None else annotations,
        "categories": categories or [{"id": 1, "name": "cat"}],
    }
    path.write_text(json.dumps(table), encoding=encoding)
    return path


@pytest.fixture
def folder(tmp_path):
    image(tmp_path / "x" / "a.png")
    return tmp_path / "x"


def read(source, number=0):
    return import_dataset(source, CocoFormat(), source.parent / f"imported{number}")


def labels_of(data):
    return [[obj.label for obj in sample.item.objects] for sample in data]


def warnings(data):
    return "\n".join(data.import_report.warnings())


@pytest.mark.parametrize(
    "used, expected",
    [([1], ["fish"]), ([0], ["fish"]), ([0, 1], ["fish", "fish (id 1)"])],
)
def test_categories_of_one_name_are_told_apart_by_id(folder, used, expected):
    categories = [{"id": 0, "name": "fish"}, {"id": 1, "name": "fish"}]
    annotations = [annotation(n, category_id=n) for n in used]
    data = read(coco(folder / "a.json", annotations, categories=categories))
    assert labels_of(data) == [expected]
    assert data.classes == tuple(expected)
    assert "'fish' is the name of categories 0, 1" in warnings(data)


def test_one_class_of_two_files_has_one_name_whatever_its_ids(folder):
    image(folder / "b.png", 9)
    coco(folder / "train.json")
    dogs = [{"id": 1, "name": "dog"}, {"id": 7, "name": "cat"}]
    rows = [annotation(category_id=7)]
    coco(folder / "val.json", rows, [entry(name="b.png")], dogs)
    data = read(folder)
    assert labels_of(data) == [["cat"], ["cat"]]
    assert [sample.split for sample in data] == ["train", "val"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"images": [entry(id=None)]}, r"images\[0\]: id must be"),
        ({"images": ["a.png"]}, r"images\[0\]: expected a record"),
        ({"images": [entry(name=5)]}, "image 1 has no file_name, but 5"),
        ({"images": [entry(), entry(name="b.png")]}, "image 1 is both a.png and b.png"),
        ({"annotations": [annotation(image_id=[1])]}, "annotation 1: there is no image with its"),
        ({"annotations": [annotation(category_id={})]}, "annotation 1: category_id must be"),
        ({"annotations": [None]}, r"annotations\[0\]: expected a record"),
        ({"annotations": [annotation(bbox=[1, 2, 3, 4, 5])]}, "annotation 1: bbox must be"),
        ({"annotations": [annotation(bbox={"x": 1})]}, "annotation 1: bbox must be"),
        ({"annotations": [annotation(bbox=[1, None, 3, 4])]}, "annotation 1: a box of negative"),
        ({"categories": [{"id": 1}]}, "category 1: name must be text"),
        ({"categories": [{"name": "cat"}]}, r"categories\[0\]: id must be"),
        ({"categories": [{"id": 1, "name": "\ud800"}]}, "category 1: name must be text"),
    ],
)
def test_a_key_that_is_missing_or_of_another_type_is_named(folder, change, message):
    source = coco(folder / "a.json", **change)
    with pytest.raises(DatasetError, match=f"a.json: {message}"):
        read(source)


DAMAGED = [
    annotation(2, bbox=["x", 1, 2, 3]),
    annotation(2, bbox=[1, None, 3, 4]),
    annotation(2, bbox=[500, 500, 10, 10]),
    annotation(2, category_id=9),
    annotation(2, segmentation=[[1e9, 1, 2, 3, 4, 5]]),
    annotation(2, bbox=None),
]


@pytest.mark.parametrize("damaged", DAMAGED)
def test_a_damaged_annotation_leaves_out_its_image_and_the_rest_is_imported(folder, damaged):
    for number, name in enumerate(["b.png", "c.png"], 1):
        image(folder / name, number)
    images = [entry(), entry(2, "b.png"), entry(3, "c.png")]
    data = read(coco(folder / "a.json", [annotation(), damaged, annotation(3, 2)], images))
    assert [(s.image, len(s.item.objects)) for s in data] == [("b.png", 1), ("c.png", 0)]
    report = warnings(data)
    assert "1 image left out, because an annotation of theirs is damaged: " in report
    assert "a.json: annotation 2: " in report and "a.png" in report
    assert "2 objects left out, because their image is left out: " in report


def test_an_import_with_more_than_half_of_the_images_damaged_fails(folder):
    for number, name in enumerate(["b.png", "c.png"], 1):
        image(folder / name, number)
    images = [entry(), entry(2, "b.png"), entry(3, "c.png")]
    rows = [annotation(n, n, bbox=[1]) for n in (1, 2)]
    with pytest.raises(DatasetError, match=r"annotation 1: bbox must.*\(2 of 3 images are damaged"):
        read(coco(folder / "a.json", rows, images))
    assert not (folder / "imported0").exists()


@pytest.mark.parametrize("damaged", [annotation(2, image_id=7), annotation(2, image_id=None), None])
def test_an_annotation_of_no_known_image_makes_no_negative(folder, damaged):
    image(folder / "b.png", 9)
    images = [entry(), entry(2, "b.png")]
    data = read(coco(folder / "a.json", [annotation(), damaged], images))
    assert [sample.image for sample in data] == ["a.png"]
    assert "1 object left out, because they are of no known image: " in warnings(data)
    assert "1 image left out, because they have no annotation, and there are " in warnings(data)


def test_a_damaged_entry_of_an_image_leaves_out_its_annotations(folder):
    image(folder / "b.png", 9)
    images = [entry(), entry(2, "b.png", width="wide"), entry(3, "a.png")]
    data = read(coco(folder / "a.json", [annotation(), annotation(2, 2)], images))
    assert [(s.image, len(s.item.objects)) for s in data] == [("a.png", 1)]
    assert "1 image left out, because their entry is damaged: " in warnings(data)
    assert "1 object left out, because their image is left out: " in warnings(data)


def test_an_image_that_cannot_be_read_or_has_another_size_is_left_out(folder):
    (folder / "b.png").write_bytes(b"\x89PNG\r\n")
    image(folder / "c.png", 5)
    image(folder / "d.png", 6)
    images = [entry(), entry(2, "b.png"), entry(3, "c.png", width=63), entry(4, "d.png")]
    rows = [annotation(n, n) for n in range(1, 5)]
    data = read(coco(folder / "a.json", rows, images))
    assert [sample.image for sample in data] == ["a.png", "d.png"]
    assert "2 images left out, because they cannot be used: " in warnings(data)
    assert "2 objects left out, because their image is left out: " in warnings(data)


@pytest.mark.parametrize("as_file, expected", [(False, 3), (True, 1)])
def test_images_that_the_file_does_not_list_are_counted(folder, as_file, expected):
    source = coco(folder / "a.json")
    for number, name in enumerate(["b.png", "more/c.png", "more/d.jpg"], 1):
        image(folder / name, number)
    (folder / "link.png").symlink_to("a.png")
    data = read(source if as_file else folder)
    assert [sample.image for sample in data] == ["a.png"]
    assert data.import_report.unlisted_images.count == expected
    plural = "s" * (expected > 1)
    assert f"{expected} image{plural} in these folders not listed by the dataset" in warnings(data)
    assert "b.png" in warnings(data)


def test_ids_written_as_text_are_the_numbers(folder):
    rows = [annotation(image_id="1", category_id="1")]
    assert labels_of(read(coco(folder / "a.json", rows))) == [["cat"]]


@pytest.mark.parametrize(
    "content, message",
    [
        ([{"image_id": 1, "category_id": 1, "score": 0.5}], "this is a list of results"),
        ([1], "this is a list"),
        (5, "this is one value"),
        ({"images": [], "annotations": {}}, "no list of annotations and of categories"),
        (
            {"images": [], "categories": [], "annotations": [{"segments_info": []}]},
            "it is panoptic",
        ),
    ],
)
def test_what_is_no_dataset_is_said_in_our_words(folder, content, message):
    (folder / "a.json").write_text(json.dumps(content))
    for number, source in enumerate([folder / "a.json", folder]):
        with pytest.raises(DatasetError, match=message):
            read(source, number)


def test_a_coco_file_that_was_cut_is_not_passed_over(folder):
    image(folder / "b.png", 9)
    coco(folder / "train.json")
    whole = coco(folder / "val.json", images=[entry(name="b.png")]).read_text()
    (folder / "val.json").write_text(whole[:-20])
    with pytest.raises(DatasetError, match="val.json: not JSON"):
        read(folder)


def test_other_json_in_the_folder_is_named(folder):
    coco(folder / "a.json")
    (folder / "settings.json").write_text("{}")
    assert "settings.json" in warnings(read(folder))


def test_an_outline_of_no_pixels_is_no_mask(folder):
    outlines = [[[]], [[50, 40]], [[20, 10, 60, 30]], [[9, 9, 9, 9, 9, 9]], [[], TRIANGLE]]
    rows = [annotation(n, segmentation=each) for n, each in enumerate(outlines)]
    data = read(coco(folder / "a.json", rows))
    [sample] = data
    found = [obj.mask for obj in sample.item.objects]
    assert found[:4] == [None] * 4 and masks.area(found[4])
    assert "5 records: an outline encloses no pixel" in warnings(data)
    export_dataset(data, CocoFormat(), folder / "out")
    table = json.loads((folder / "out" / "annotations" / "instances_train.json").read_text())
    assert [each["area"] for each in table["annotations"][:4]] == [800] * 4


DAMAGED_MASKS = [
    [[10, 10, 1e8, 20, 10, 30, 12, 12]],
    [[10, 10, float("nan"), 20, 10, 30]],
    [[10, 10, None, 20, 10, 30]],
    [[10, 10, 1e308, 20, 10, -1e308]],
    [[0, 0, 64, 48] * 200_000],
    {"size": [48, 64], "counts": [0, 10**12]},
    {"size": [10**6, 10**6], "counts": [10**12]},
    {"size": [48, 64], "counts": [-5, 3077]},
    {"size": [48, 64], "counts": "oooooooooooo"},
    {"size": [48, 64], "counts": "ooooooooooooooooooooo0"},
    {"size": [48, 64], "counts": [None]},
    {"size": 5, "counts": "1"},
    "a mask",
    7,
]


def test_damaged_masks_are_refused_in_little_memory(folder):
    for number, segmentation in enumerate(DAMAGED_MASKS):
        coco(folder / f"{number}.json", [annotation(segmentation=segmentation)])
    code = """if True:
        import sys
        from pathlib import Path
        from annotate.dataset.coco import CocoFormat
        from annotate.dataset.export import import_dataset
        from annotate.errors import DatasetError
        for number in range(int(sys.argv[1])):
            try:
                import_dataset(Path(f"{number}.json"), CocoFormat(), Path(f"out{number}"))
            except DatasetError as error:
                print(error)
    """
    limit = 3 * 2**30
    done = subprocess.run(
        [sys.executable, "-c", code, str(len(DAMAGED_MASKS))],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert [line.split(":")[1] for line in lines] == [" annotation 1"] * len(DAMAGED_MASKS)


def test_entries_of_one_file_are_one_image(folder):
    rows = [annotation(n, n, bbox=[20 + n, 10, 20, 20]) for n in (1, 2, 3)]
    images = [entry(1), entry(2, "./a.png"), entry(3, "somewhere/else/a.png"), entry(3)]
    with pytest.raises(DatasetError, match="image 3 is both"):
        read(coco(folder / "a.json", rows, images))
    [sample] = read(coco(folder / "a.json", rows, [entry(1), entry(2, "./a.png"), entry(3)]))
    assert [obj.box[0] for obj in sample.item.objects] == [21, 22, 23]


def test_files_of_one_image_are_joined_and_equal_annotations_count_once(folder):
    dog = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    coco(folder / "annotations" / "cats.json")
    rows = [annotation(1, category_id=2), annotation(2)]
    coco(folder / "annotations" / "dogs.json", rows, categories=dog)
    data = read(folder)
    assert labels_of(data) == [["cat", "dog"]]
    assert "an annotation was there twice" in warnings(data)


@pytest.mark.parametrize(
    "file, picture, name",
    [
        ("annotations/instances_train2017.json", "train2017/a.png", "a.png"),
        ("annotations/instances_val2017.json", "images/val2017/a.png", "a.png"),
        ("valid/_annotations.coco.json", "valid/a.png", "a.png"),
        ("annotations/instances_default.json", "images/default/a.png", "a.png"),
        ("annotations/instances_train.json", "images/a.png", "a.png"),
        ("labels.json", "data/a.png", "a.png"),
        ("annotations/val.json", "val/images/a.png", "a.png"),
        ("result.json", "images/my a.png", "..\\..\\upload\\1\\my%20a.png"),
        ("annotations.json", "some/where/else/a.png", "/home/ann/data/else/a.png"),
    ],
)
def test_images_are_found_where_other_programs_put_them(tmp_path, file, picture, name):
    image(tmp_path / "x" / picture)
    coco(tmp_path / "x" / file, images=[entry(name=name)])
    assert labels_of(read(tmp_path / "x")) == [["cat"]]
    assert labels_of(read(tmp_path / "x" / file, 1)) == [["cat"]]


def test_the_split_decides_between_images_of_one_name(tmp_path):
    for value, split in enumerate(["train", "val"]):
        image(tmp_path / "x" / f"{split}2017" / "a.png", value)
        coco(tmp_path / "x" / "annotations" / f"instances_{split}2017.json")
    data = read(tmp_path / "x")
    values = [cv2.imread(str(data.images / sample.image))[0, 0, 0] for sample in data]
    assert values == [0, 1]


@pytest.mark.parametrize("places", [["p/a.png", "q/a.png"], ["images/a.png", "data/a.png"]])
def test_two_images_that_could_be_meant_are_an_error(tmp_path, places):
    for value, place in enumerate(places):
        image(tmp_path / "x" / place, value)
    coco(tmp_path / "x" / "a.json")
    with pytest.raises(DatasetError, match="a.json: image a.png could be"):
        read(tmp_path / "x")


def test_a_name_that_two_entries_share_is_no_way_to_find_an_image(folder):
    images = [entry(1, "cam1/a.png"), entry(2, "cam2/a.png")]
    source = coco(folder / "a.json", images=images)
    with pytest.raises(DatasetError, match="image cam1/a.png not found"):
        read(source)
    image(folder / "images" / "cam1" / "a.png", 5)
    with pytest.raises(DatasetError, match="image cam2/a.png not found"):
        read(source)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_files_with_a_byte_order_mark_are_read_in_a_folder_too(folder, encoding):
    coco(folder / "a.json", encoding=encoding)
    assert labels_of(read(folder)) == [["cat"]]
    assert labels_of(read(folder / "a.json", 1)) == [["cat"]]


@pytest.mark.parametrize(
    "keys, score, track, message",
    [
        ({"score": float("nan"), "track_id": "7"}, None, 7, "a score that is no finite number"),
        ({"score": "high", "track_id": 7.0}, None, 7, "a score that is no finite number"),
        ({"score": "0.5", "track_id": "a7"}, 0.5, None, "a track_id that is no whole number"),
        ({"score": float("inf"), "track_id": 10**30}, None, None, "a track_id that is no whole"),
        ({"score": True, "attributes": {"track_id": "4"}}, None, 4, "a score that is no finite"),
    ],
)
def test_optional_values_are_checked(folder, keys, score, track, message):
    source = coco(folder / "a.json", [annotation(flags=["a", 5], source=None, **keys)])
    data = read(source)
    [sample] = data
    [obj] = sample.item.objects
    assert (obj.score, obj.track, obj.flags, obj.source) == (score, track, ("a",), "")
    assert message in warnings(data) and "annotation 1" in warnings(data)
    for line in data.items.read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_what_the_dataset_cannot_hold_is_named(folder):
    rows = [annotation(keypoints=[1, 2, 2]), annotation(2, attributes={"rotation": 30.0})]
    text = warnings(read(coco(folder / "a.json", rows)))
    assert "keypoints were left out" in text and "annotation 2" in text


def test_an_object_without_area_is_left_out_and_never_makes_a_negative(folder):
    image(folder / "b.png", 9)
    flat = {"bbox": [20, 10, 0, 20]}
    rows = [annotation(), annotation(2, **flat), annotation(3, 2, **flat)]
    data = read(coco(folder / "a.json", rows, [entry(), entry(2, "b.png")]))
    assert [sample.image for sample in data] == ["a.png"]
    assert labels_of(data) == [["cat"]]
    assert "2 objects left out, because their box has no area" in warnings(data)
    assert "1 image left out" in warnings(data)


@pytest.mark.parametrize(
    "origin", [{"seconds": "1/0"}, {"seconds": "1e999999999"}, {"frame": -1}, {"video": None}]
)
def test_an_origin_that_is_damaged_is_not_used(folder, origin):
    keys = {"video": "dock.mp4", "frame": 3, "seconds": "1/2"} | origin
    [sample] = read(coco(folder / "a.json", images=[entry(**keys)]))
    assert (sample.item.video, sample.item.frame) == ("x", 0)


def test_images_of_one_name_get_names_that_no_other_image_has(tmp_path):
    names = ["p/a.png", "q/a.png", "a-000000.png"]
    for value, name in enumerate(names):
        image(tmp_path / "x" / "images" / name, value)
    rows = [annotation(n, n) for n in range(3)]
    source = coco(tmp_path / "x" / "a.json", rows, [entry(n, x) for n, x in enumerate(names)])
    data = read(source)
    values = [cv2.imread(str(data.images / sample.image))[0, 0, 0] for sample in data]
    assert values == [0, 1, 2]


def test_an_image_without_a_name_is_named(folder):
    with pytest.raises(DatasetError, match="a.json: image 1 has no file_name"):
        read(coco(folder / "a.json", images=[entry(name=None)]))


def test_a_message_is_one_line_whatever_the_file_holds(folder):
    for number, value in enumerate(["\n", "a\nb\0", "x" * 5000, ["\n"] * 99]):
        for keys in ({"name": value}, {"number": value}, {"width": value}):
            source = coco(folder / f"{number}.json", images=[entry(**keys)])
            with pytest.raises(DatasetError) as caught:
                read(source)
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_clips_of_an_export_that_are_damaged_are_not_used(folder):
    source = coco(folder / "a.json")
    table = json.loads(source.read_text())
    for clip in (5, {"fingerprint": "\ud800"}, {"frame_count": "many"}, {"width": -1}):
        source.write_text(json.dumps(table | {"info": {"clips": {"dock": clip}}}))
        data = import_dataset(source, CocoFormat(), folder / "out", force=True)
        [(name, facts)] = data.clips.items()
        assert name == folder.name and (facts["width"], len(facts["fingerprint"])) == (64, 64)


def test_attributes_that_are_not_imported_are_counted(folder):
    marked = annotation(attributes={"occluded": True, "rotation": 0.0, "track_id": 4})
    data = read(coco(folder / "a.json", [marked, annotation(2, attributes={"occluded": False})]))
    assert "1 record: the attribute occluded was left out" in warnings(data)
    assert "rotation" not in warnings(data)

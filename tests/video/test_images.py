"""Every command that reads pictures sees a turned photograph upright.

A camera that was held sideways stores the picture turned, with an EXIF tag. Each test runs a
command in two folders with the same file names: in one the pictures are JPEG files with EXIF
orientation 6, in the other the same pixels are stored upright, without a tag. What the command
writes must be the same.
"""

import json
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from vlm_server import serving

from annotate.detectors.yolo_open_vocabulary import Example
from annotate.errors import OutputError
from annotate.items.records import Item
from annotate.labelstudio.sync import FileStore, check_image
from annotate.search.judge import read_reference
from annotate.video import images, reader

SIZE_WH = (96, 160)  # upright
MARK_WH = (30, 20)
MARKS = [(10, 20), (50, 100), (15, 120)]  # the left top corner of the red mark on each picture
RED = (215, 40, 44)
EXIF_ORIENTATION, QUARTER_TURN = 0x0112, 6  # 6: turn the stored picture clockwise to show it
VOCABULARY = '[classes.mark]\ncolour = [340, 20]\nvlm = "red rectangle"\n'
TINTS = [(0.2, 0.6, 1.0), (0.3, 1.0, 0.4), (0.9, 1.0, 0.5)]


def scene(index):
    """An upright picture: patches of one tint, and the red mark."""
    small = np.random.default_rng(index).integers(60, 200, (10, 6, 1)) * TINTS[index]
    image = np.array(Image.fromarray(small.astype(np.uint8)).resize(SIZE_WH, 0))
    x, y = MARKS[index]
    image[y : y + MARK_WH[1], x : x + MARK_WH[0]] = RED
    return image


def mask_of(index):
    image = np.zeros((*SIZE_WH[::-1], 3), np.uint8)
    x, y = MARKS[index]
    image[y : y + MARK_WH[1], x : x + MARK_WH[0]] = 255
    return image


def save_pair(upright, name, folders):
    """Store a picture turned, with the tag, in the first folder, and upright in the second."""
    turned, plain = (folder / name for folder in folders)
    for path in (turned, plain):
        path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = QUARTER_TURN
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright)))
    stored.save(turned, "JPEG", exif=exif, quality=95, subsampling=0)
    with Image.open(turned) as image:
        decoded = np.rot90(np.asarray(image), -1)
    Image.fromarray(np.ascontiguousarray(decoded)).save(plain, "PNG")  # whatever its suffix


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders: `shots/` is a clip of three pictures, `coco/` and `yolo/` are datasets."""
    pair = [tmp_path_factory.mktemp("worlds") / name for name in ("turned", "plain")]
    for index in range(len(MARKS)):
        for clip in ("shots", "coco/images", "yolo/images"):
            save_pair(scene(index), f"{clip}/{index}.jpg", pair)
        for folder in pair:  # never turned
            (folder / "upright").mkdir(exist_ok=True)
            Image.fromarray(scene(index)).save(folder / "upright" / f"{index}.png")
    save_pair(mask_of(0), "mask.jpg", pair)
    x, y = MARKS[0]
    save_pair(scene(0)[y - 5 : y + 35, x - 5 : x + 45], "reference.jpg", pair)
    for folder in pair:
        (folder / "mark.v1.toml").write_text(VOCABULARY)
        (folder / "coco" / "instances.json").write_text(json.dumps(coco_file(shift=0)))
        (folder / "coco" / "corrected.json").write_text(json.dumps(coco_file(shift=12)))
        write_yolo(folder / "yolo")
    return pair


def coco_file(shift):
    width, height = SIZE_WH
    size = {"width": width, "height": height}
    pictures = [{"id": n, "file_name": f"{n}.jpg", **size} for n in range(len(MARKS))]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [x, y + shift, *MARK_WH], "iscrowd": 0}
        | {"area": MARK_WH[0] * MARK_WH[1], "segmentation": []}
        for n, (x, y) in enumerate(MARKS)
    ]
    categories = [{"id": 1, "name": "mark"}]
    return {"images": pictures, "annotations": boxes, "categories": categories}


def write_yolo(folder):
    (folder / "labels").mkdir()
    (folder / "data.yaml").write_text("path: .\ntrain: images\nval: images\nnames: [mark]\n")
    width, height = SIZE_WH
    for index, (x, y) in enumerate(MARKS):
        centre = ((x + MARK_WH[0] / 2) / width, (y + MARK_WH[1] / 2) / height)
        numbers = (0, *centre, MARK_WH[0] / width, MARK_WH[1] / height)
        (folder / "labels" / f"{index}.txt").write_text(" ".join(map(str, numbers)) + "\n")


@pytest.fixture
def run_in_both(folders, annotate, monkeypatch, tmp_path):
    """Run command lines in both folders; return the outputs and the stdout of each folder."""

    def run(*commands):
        results = []
        for folder in folders:
            work = tmp_path / "work" / folder.name
            work.mkdir(parents=True)
            for path in folder.iterdir():
                (work / path.name).symlink_to(path)
            monkeypatch.chdir(work)
            monkeypatch.setenv("XDG_CACHE_HOME", str(work / "cache"))
            printed = ""
            for command in commands:
                code, out, err = annotate(*command.split())
                assert code == 0, (command, err)
                printed += out
            results.append((read_outputs(work), printed))
        return results

    return run


def read_outputs(work):
    """Relative path -> pixels, lines of items without the header, or text."""
    paths = [path for path in [*work.glob("out*"), *work.glob("out/**/*")] if path.is_file()]
    return {str(path.relative_to(work)): read_output(path) for path in paths}


def read_output(path):
    if path.suffix in (".png", ".jpg", ".webp"):
        return images.read_image(path).tobytes()
    if path.suffix == ".mp4":
        return [frame.image.tobytes() for frame in reader.frames(path)]
    if path.suffix == ".db":
        return None  # it holds fingerprints of files
    lines = path.read_text("utf-8").splitlines()
    lines = lines[1:] if path.suffix == ".jsonl" else lines
    return [line for line in lines if "fingerprint" not in line]


DETECT = "detect shots -d colour -v mark.v1.toml"
IMPORT = "import coco/instances.json --from coco"
CORRECT = "import coco/corrected.json --from coco"
COMMANDS = {
    "detect": [f"{DETECT} -o out.jsonl"],
    "segment": ["segment shots -o out.jsonl --set n_segments=20"],
    "propagate --mask": ["propagate shots --mask 0:1:mask.jpg --stop 2 -o out.jsonl"],
    "frames": ["frames shots --every 1 --everything -o out"],
    "frames --ignore": ["frames shots --every 1 --ignore mask.jpg -o out"],
    "colours": ["colours shots --box 0,10,20,40,40 -o out.png"],
    "build": [f"{DETECT} -o boxes.jsonl", "build boxes.jsonl -o out"],
    "draw a video": [f"{DETECT} -o boxes.jsonl", "draw boxes.jsonl -o out.mp4"],
    "draw a sheet": [f"{DETECT} -o boxes.jsonl", "draw boxes.jsonl -o out.png"],
    "import coco": [f"{IMPORT} -o out"],
    "import yolo": ["import yolo --from yolo -o out"],
    "diff": [f"{IMPORT} -o data", f"{CORRECT} -o corrected", "diff data corrected -o out.png"],
    "split": [f"{IMPORT} -o data", "split data --val 0.34"],
    "export coco": [f"{IMPORT} -o data", "export data --to coco -o out"],
    "export yolo": [f"{IMPORT} -o data", "export data --to yolo -o out"],
    "similar": [f"{IMPORT} -o data", "similar upright data --every 1"],
    "map and poster": [
        f"{IMPORT} -o data",
        "map shots data --method pca -o out",
        "poster out -o out.png",
    ],
    "find": ["find shots --reference reference.jpg --name mark -o out --frames-per-shot 1"],
    "scenes": ["scenes add shots --db out.db", "scenes find upright --db out.db --json"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_gives_the_same_for_turned_pictures(name, run_in_both):
    turned, plain = run_in_both(*COMMANDS[name])
    assert turned[1] == plain[1] and turned[0].keys() == plain[0].keys()
    assert [path for path in plain[0] if turned[0][path] != plain[0][path]] == []
    assert any(turned), "the command wrote nothing"


def test_boxes_have_the_coordinates_of_the_upright_picture(run_in_both):
    for outputs, _ in run_in_both(f"{DETECT} -o out.jsonl"):
        items = [json.loads(line) for line in outputs["out.jsonl"]][: len(MARKS)]
        assert [(item["width"], item["height"]) for item in items] == [SIZE_WH] * len(MARKS)
        corners = [item["objects"][0]["box"][:2] for item in items]
        np.testing.assert_allclose(corners, MARKS, atol=1)


def test_compare_shows_the_same_for_turned_pictures(run_in_both):
    pytest.importorskip("faster_coco_eval")
    compare = "compare data -d colour -v mark.v1.toml --truth data -o out"
    (turned, _), (plain, _) = run_in_both(f"{IMPORT} -o data", compare)
    kept = [name for name in plain if name.endswith((".jsonl", ".png")) and "curve" not in name]
    assert any(name.endswith(".jsonl") for name in kept)
    assert [name for name in kept if turned[name] != plain[name]] == []


def test_a_reference_for_a_vision_language_model_is_sent_upright(folders, annotate, monkeypatch):
    sent = []
    for folder in folders:
        monkeypatch.chdir(folder)
        with serving() as model:
            options = {"model": "sees", "url": model.url, "box_format": "relative 1000 xyxy"}
            options["reference"] = "reference.jpg"
            words = [word for pair in options.items() for word in ("--set", "=".join(pair))]
            command = "detect shots -d vlm -v mark.v1.toml --stop 1 --force -o ../vlm.jsonl"
            code, _, err = annotate(*command.split(), *words)
            assert code == 0, err
            content = model.requests[0]["messages"][0]["content"]
            sent.append([part["image_url"] for part in content if part["type"] == "image_url"])
    assert sent[0] == sent[1] and len(sent[0]) == 2


def test_references_are_read_upright(folders):
    turned, plain = (read_reference(folder / "reference.jpg") for folder in folders)
    np.testing.assert_array_equal(turned, plain)
    turned, plain = (Example.parse(f"{folder}/reference.jpg:5,5,35,25") for folder in folders)
    assert turned.sha256 == plain.sha256


def test_a_turned_picture_fits_its_item_and_is_turned_for_label_studio(folders, tmp_path):
    item = Item("shots", 0, Fraction(0), *SIZE_WH, ())
    for folder, must_be_turned in zip(folders, (True, False), strict=True):
        path = folder / "coco" / "images" / "0.jpg"
        assert check_image(path, item) == must_be_turned
        server = SimpleNamespace(document_root=tmp_path / folder.name)
        FileStore(server, SimpleNamespace(id=1)).put(path, "a", must_be_turned)
        [placed] = [each for each in (tmp_path / folder.name).rglob("*") if each.is_file()]
        with Image.open(placed) as image:
            assert image.size == SIZE_WH and image.getexif().get(EXIF_ORIENTATION, 1) == 1


def test_an_image_is_saved_in_the_format_of_its_suffix(tmp_path):
    image = scene(0)
    images.save_image(image, tmp_path / "a.png", compress_level=1)
    np.testing.assert_array_equal(images.read_image(tmp_path / "a.png"), image)
    images.save_image(image, tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as saved:
        assert saved.format == "JPEG"
    with pytest.raises(OutputError, match="try a.png"):
        images.save_image(image, tmp_path / "a.xyz")
    assert not list(tmp_path.glob(".a*"))

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from annotate.dataset.folder import Dataset, create_dataset, load_dataset
from annotate.errors import BrokenVideo, ItemsError, OutputError, PromptError, UnknownName
from annotate.items import journal, masks, records
from annotate.items.records import Item, Object, Prompt
from annotate.palette import label_colour
from annotate.prompts import PromptTable
from annotate.video import reader
from annotate.video.images import read_header, read_image
from annotate.video.writer import VideoWriter
from annotate.viewing import draw
from annotate.viewing.prompt_grid import POSITIVE_COLOUR

SIZE_WH, COUNT, RATE = (160, 120), 20, Fraction(30000, 1001)
BOX = (60, 40, 100, 80)
RED, GREY = (230, 20, 40), (90, 90, 90)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Twenty grey frames with a red square; the path has a space and an umlaut."""
    path = tmp_path_factory.mktemp("clips of mine") / "dück.mp4"
    image = np.full((SIZE_WH[1], SIZE_WH[0], 3), GREY, np.uint8)
    image[10:30, 10:30] = RED
    with VideoWriter(path, RATE, SIZE_WH) as writer:
        for _ in range(COUNT):
            writer.write(image)
    return path


def item(frame, *objects, name="dück.mp4", lost=()):
    return Item(name, frame, frame / RATE, *SIZE_WH, objects, lost)


def mug(track=None):
    mask = np.zeros(SIZE_WH[::-1], bool)
    mask[40:80, 60:100] = True
    return Object("mug", BOX, 0.9, track, masks.encode(mask))


def items_file(tmp_path, *items, labels=("plate", "mug"), videos=None):
    path = tmp_path / "items.jsonl"
    vocabulary = {"labels": list(labels)}
    header = records.Header("test", vocabulary=vocabulary, videos=videos or {"dück.mp4": {}})
    journal.write(path, header, items)
    return path


def pictures(path):
    return [frame.image.astype(int) for frame in reader.frames(path)]


def tint(label="mug", labels=("plate", "mug")):
    return np.array(GREY) * 0.6 + np.array(label_colour(label, labels)) * 0.4


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_video_has_every_frame_at_the_rate_of_the_clip(tmp_path, clip):
    items = items_file(tmp_path, item(3, mug()), item(4, mug()), item(9), item(19, mug()))
    counts = []
    draw.overlay(items, clip, tmp_path / "overlay.mp4", progress=counts.append)
    seen = pictures(tmp_path / "overlay.mp4")
    assert counts == list(range(1, COUNT + 1))
    assert len(seen) == COUNT
    assert reader.probe(tmp_path / "overlay.mp4").rate == RATE
    for index, image in enumerate(seen):
        middle = image[55:65, 75:85].mean(axis=(0, 1))
        expected = tint() if index in (3, 4, 19) else GREY
        np.testing.assert_allclose(middle, expected, atol=12)
        np.testing.assert_allclose(image[15:25, 15:25].mean(axis=(0, 1)), RED, atol=16)
    assert names(tmp_path) == ["items.jsonl", "overlay.mp4"]


def test_a_folder_gets_an_image_for_each_item(tmp_path, clip):
    items = items_file(tmp_path, item(3, mug()), item(9))
    counts = []
    draw.overlay(items, clip, tmp_path / "frames", progress=counts.append)
    assert names(tmp_path / "frames") == ["dück-000003.png", "dück-000009.png"]
    assert counts == [1, 2]
    [clean] = reader.frames_at(clip, [9])
    with Image.open(tmp_path / "frames" / "dück-000009.png") as seen:
        np.testing.assert_array_equal(np.asarray(seen), clean.image)
    with Image.open(tmp_path / "frames" / "dück-000003.png") as seen:
        np.testing.assert_allclose(np.asarray(seen)[60, 80], tint(), atol=5)


def test_a_sheet_has_the_given_number_of_frames(tmp_path, clip):
    items = items_file(tmp_path, *(item(n, mug()) for n in range(COUNT)))
    sizes = []
    for count in (1, 4):
        draw.overlay(items, clip, tmp_path / f"{count}.png", count=count)
        with Image.open(tmp_path / f"{count}.png") as seen:
            sizes.append(seen.size)
            inside = np.abs(np.asarray(seen).astype(int) - tint()).max(axis=2) < 12
        cell_pixels = 480 * 360 * count
        assert inside.sum() == pytest.approx(cell_pixels * 40 * 40 / (160 * 120), rel=0.35)
    assert sizes == [(504, 406), (996, 800)]


def test_a_sheet_of_empty_items_is_drawn(tmp_path, clip):
    draw.overlay(items_file(tmp_path, item(0), item(5, lost=(1,))), clip, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").exists()


def test_without_items_the_video_is_the_clip_and_a_sheet_is_an_error(tmp_path, clip):
    items = items_file(tmp_path)
    draw.overlay(items, clip, tmp_path / "overlay.mp4")
    assert len(pictures(tmp_path / "overlay.mp4")) == COUNT
    with pytest.raises(ItemsError, match="no item to draw"):
        draw.overlay(items, clip, tmp_path / "sheet.png")
    assert not (tmp_path / "sheet.png").exists()


def test_classes_that_are_not_in_the_header_are_drawn(tmp_path, clip):
    fork = Object("Gabel größer", BOX)
    items = items_file(tmp_path, item(2, fork), item(3, mug()), labels=())
    draw.overlay(journal.read(items), clip, tmp_path / "frames")
    with Image.open(tmp_path / "frames" / "dück-000003.png") as seen:
        expected = tint("mug", ("Gabel größer", "mug"))
        np.testing.assert_allclose(np.asarray(seen)[60, 80], expected, atol=5)


def test_only_the_items_of_this_clip_are_drawn(tmp_path, clip):
    two = {"dück.mp4": {}, "pier.mp4": {}}
    items = items_file(tmp_path, item(3, mug()), item(3, mug(), name="pier.mp4"), videos=two)
    draw.overlay(items, clip, tmp_path / "frames")
    assert names(tmp_path / "frames") == ["dück-000003.png"]


def test_a_renamed_clip_is_recognized_by_its_fingerprint(tmp_path, clip):
    fingerprints = [reader.probe(clip).fingerprint, "5e1f"]
    same, other = ({"quay.mp4": {"fingerprint": each}} for each in fingerprints)
    draw.overlay(items_file(tmp_path, item(3, name="quay.mp4"), videos=same), clip, tmp_path / "a")
    assert names(tmp_path / "a") == ["dück-000003.png"]
    with pytest.raises(ItemsError, match=r"made from another quay.mp4 than .*dück.mp4"):
        draw.overlay(items_file(tmp_path, item(3), videos=other), clip, tmp_path / "b")


def test_items_of_other_clips_only_are_refused(tmp_path, clip):
    items = items_file(tmp_path, item(3), videos={"quay.mp4": {}, "pier.mp4": {}})
    with pytest.raises(ItemsError, match=r"no items of dück.mp4; it has quay.mp4, pier.mp4"):
        draw.overlay(items, clip, tmp_path / "frames")


def test_items_of_a_folder_of_images_are_drawn(tmp_path):
    (tmp_path / "stills").mkdir()
    for name in "abc":
        Image.new("RGB", SIZE_WH, GREY).save(tmp_path / "stills" / f"{name}.png")
    items = items_file(tmp_path, item(1, mug(), name="stills"), videos={"stills": {}})
    draw.overlay(items, tmp_path / "stills", tmp_path / "frames")
    assert names(tmp_path / "frames") == ["stills-000001.png"]
    draw.overlay(items, tmp_path / "stills", tmp_path / "overlay.mp4")
    assert len(pictures(tmp_path / "overlay.mp4")) == 3


@pytest.mark.parametrize(
    "frames, message", [((3, 25), "#25: .* has frames 0 to 19 only"), ((5, 3), "#3: comes after")]
)
@pytest.mark.parametrize("out", ["overlay.mp4", "frames"])
def test_items_that_do_not_fit_the_clip_are_refused(tmp_path, clip, frames, message, out):
    items = items_file(tmp_path, *(item(n) for n in frames))
    with pytest.raises(ItemsError, match=message):
        draw.overlay(items, clip, tmp_path / out)
    assert "overlay.mp4" not in names(tmp_path)


def test_items_of_another_size_are_refused(tmp_path, clip):
    items = items_file(tmp_path, replace(item(3), width=320))
    with pytest.raises(ItemsError, match="is it of another clip"):
        draw.overlay(items, clip, tmp_path / "overlay.mp4")
    assert names(tmp_path) == ["items.jsonl"]


@pytest.mark.parametrize("out", ["overlay.avi", "sheet.jpg"])
def test_an_unknown_kind_of_output_is_refused(tmp_path, clip, out):
    with pytest.raises(OutputError, match=r"give a video NAME.mp4, a sheet NAME.png"):
        draw.overlay(items_file(tmp_path, item(3)), clip, tmp_path / out)


@pytest.mark.parametrize("out", ["overlay.mp4", "sheet.png", "frames"])
def test_existing_output_is_kept_unless_forced(tmp_path, clip, out):
    items, output = items_file(tmp_path, item(3, mug())), tmp_path / out
    draw.overlay(items, clip, output)
    with pytest.raises(OutputError, match="already there"):
        draw.overlay(items, clip, output)
    draw.overlay(items, clip, output, force=True)


def test_an_output_that_cannot_be_written_is_an_error(tmp_path, clip):
    items = items_file(tmp_path, item(3))
    for out in ("nowhere/sheet.png", "nowhere/overlay.mp4", "items.jsonl/frames"):
        with pytest.raises(OutputError):
            draw.overlay(items, clip, tmp_path / out)


def test_a_truncated_clip_is_drawn_up_to_the_damage(tmp_path, clip):
    short = tmp_path / "dück.mp4"
    whole = clip.read_bytes()
    short.write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(BrokenVideo) as broken:
        draw.overlay(items_file(tmp_path, item(0, mug())), short, tmp_path / "overlay.mp4")
    assert len(pictures(tmp_path / "overlay.mp4")) == broken.value.frame > 0


def test_the_same_items_give_the_same_bytes(tmp_path, clip):
    items = items_file(tmp_path, *(item(n, mug(1)) for n in range(COUNT)))
    for out in ("overlay.mp4", "sheet.png"):
        draw.overlay(items, clip, tmp_path / out)
        before = (tmp_path / out).read_bytes()
        draw.overlay(items, clip, tmp_path / out, force=True)
        assert (tmp_path / out).read_bytes() == before


PROMPTS = PromptTable((Prompt(7, 3, np.array([[80.0, 60.0]]), np.array([1])),), {3: "mug"})


def test_a_grid_of_prompts_shows_the_resulting_masks(tmp_path, clip):
    items = items_file(tmp_path, item(6), item(7, mug(3)))
    seen = []
    for out, drawn_items in (("bare.png", None), ("given.png", items)):
        draw.draw_prompts(PROMPTS, clip, drawn_items, tmp_path / out)
        with Image.open(tmp_path / out) as image:
            seen.append(np.asarray(image).astype(int))
    filled = np.array(GREY) * 0.6 + np.array(label_colour("mug", ["plate", "mug"], 3)) * 0.4
    for image, has_mask in zip(seen, (False, True), strict=True):
        assert (image == POSITIVE_COLOUR).all(axis=2).sum() > 40
        assert ((np.abs(image - filled).max(axis=2) < 8).sum() > 5000) == has_mask


def test_a_grid_needs_prompts_and_a_png(tmp_path, clip):
    with pytest.raises(OutputError, match=r"NAME.png"):
        draw.draw_prompts(PROMPTS, clip, None, tmp_path / "grid.mp4")
    with pytest.raises(PromptError, match="no prompts"):
        draw.draw_prompts(PromptTable((), {}), clip, None, tmp_path / "grid.png")
    (tmp_path / "grid.png").touch()
    with pytest.raises(OutputError, match="already there"):
        draw.draw_prompts(PROMPTS, clip, None, tmp_path / "grid.png")
    draw.draw_prompts(PROMPTS, clip, None, tmp_path / "grid.png", force=True)


def dataset(tmp_path, *sizes_wh):
    """A dataset of images, each of its own size, as an import makes it: it names no clips."""
    data = Dataset(tmp_path / "data", ("plate", "mug"))
    with create_dataset(data, records.Header("import")) as writer:
        for frame, size_wh in enumerate(sizes_wh):
            Image.new("RGB", size_wh, GREY).save(writer.images / f"{frame}.png")
            box = Object("mug", (2.0, 2.0, 20.0, 20.0), 0.9)
            writer.add(f"{frame}.png", Item("shots", frame, Fraction(frame), *size_wh, (box,)))
    return load_dataset(data.path)


def test_a_dataset_is_drawn_over_its_images(tmp_path, annotate):
    data = dataset(tmp_path, (64, 48), (32, 40))
    for number, source in enumerate([data.path, data.items]):
        code, _, err = annotate("draw", source, "-o", f"drawn{number}")
        assert code == 0, err
        drawn = [read_image(tmp_path / f"drawn{number}" / f"{n}.png") for n in (0, 1)]
        assert [image.shape[:2] for image in drawn] == [(48, 64), (40, 32)]
        assert all((image != GREY).any() for image in drawn)
    draw.overlay_dataset(data, tmp_path / "sheet.png")
    assert read_header(tmp_path / "sheet.png").size_wh[0] > 64
    draw.overlay_dataset(data, tmp_path / "empty", min_score=0.95)
    assert (read_image(tmp_path / "empty" / "0.png") == GREY).all()
    with pytest.raises(OutputError, match="a dataset is drawn as a sheet"):
        draw.overlay_dataset(data, tmp_path / "video.mp4")
    with pytest.raises(UnknownName, match="quay"):
        draw.overlay_dataset(data, tmp_path / "clip", clip="quay")

"""The page of the footage map: thumbnails on sheets, and choosing frames in a browser."""

import io

import numpy as np
import pytest
from map_fixtures import BLUE, RED, write_clip
from PIL import Image

from annotate.dataset import frame_sources
from annotate.dataset.folder import load_dataset
from annotate.footage_map import atlas
from annotate.items import journal, records
from annotate.items.records import Item
from annotate.video.reader import FrameSelection
from annotate.web.map import SpriteSheets, thumbnail_size_wh


def test_thumbnails_keep_their_positions_over_sheets():
    sheets = SpriteSheets((160, 120))
    count = sheets.columns * sheets.rows + 3
    for number in range(count):
        sheets.add(np.full((24, 32, 3), number % 250, np.uint8))
    first, second = (np.asarray(Image.open(io.BytesIO(p))) for p in sheets.sheets())
    assert abs(int(first[60 + 120, 160 * 2 + 80, 0]) - (sheets.columns + 2) % 250) <= 2
    assert second.shape[0] == 120
    assert thumbnail_size_wh(50_000, (640, 360)) == (48, 27)
    assert thumbnail_size_wh(100, (640, 360)) == (160, 90)


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page.set_default_timeout(120_000)  # a busy machine is no failure
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text))
    page.on("request", lambda request: _refuse_remote(page, request.url))
    return page


def _refuse_remote(page, url):
    if not url.startswith(("file:", "blob:", "data:")):
        page.errors.append(url)


def open_map(page, folder):
    page.goto((folder / "index.html").as_uri())
    page.wait_for_selector("body[data-ready]")
    page.wait_for_timeout(100)


def drag(page, *points):
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=3)
    page.mouse.up()
    page.wait_for_timeout(100)


def test_selected_frames_are_saved_as_items_that_build_accepts(map_clips, page, annotate, tmp_path):
    code, _, err = annotate("map", *map_clips, "-o", "map", "--every", 2, "--method", "pca")
    assert code == 0, err
    layout = atlas.read(tmp_path / "map")
    assert len(layout.frame_index) == 36 and {"poster.jpg", "paths.png"} < {
        p.name for p in (tmp_path / "map").iterdir()
    }
    open_map(page, tmp_path / "map")
    page.keyboard.press("l")
    drag(page, (262, 10), (1270, 10), (1270, 790), (262, 790))
    assert page.inner_text("#chosen") == "36 frames of 3 clips chosen."
    page.fill("#label", "<mug>")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "chosen.jsonl")
    items = list(journal.read(tmp_path / "chosen.jsonl"))
    keys = {(item.video, item.frame, item.seconds) for item in items}
    names = [layout.clip_names[n] for n in layout.clip_index]
    assert keys == set(zip(names, layout.frame_index.tolist(), layout.seconds, strict=True))
    code, _, err = annotate("build", "chosen.jsonl", "-o", "dataset")
    assert code == 0, err
    built = load_dataset(tmp_path / "dataset")
    assert built.classes == ("<mug>",) and len(built) == 36
    assert page.errors == []


def test_a_selection_can_be_cleared_and_limited_to_one_clip(map_clips, page, annotate, tmp_path):
    annotate("map", *map_clips, "-o", "map", "--every", 2, "--method", "pca")
    layout = atlas.read(tmp_path / "map")
    open_map(page, tmp_path / "map")
    view = page.evaluate("({...atlas.view})")
    middle = view["left"] + view["scale"] / 2
    page.keyboard.press("l")
    drag(page, (middle, 5), (1275, 5), (1275, 795), (middle, 795))
    right = int((layout.xy[:, 0] > 0.5).sum())
    assert page.inner_text("#chosen").startswith(f"{right} frames")
    page.get_by_role("button", name="two.mp4").click()
    drag(page, (262, 5), (1275, 5), (1275, 795), (262, 795))
    assert page.inner_text("#chosen") == "12 frames of 1 clip chosen."
    page.keyboard.press("Escape")
    assert page.inner_text("#chosen") == "Nothing chosen." and page.is_disabled("#save")
    assert page.errors == []


def test_the_wheel_zooms_and_dragging_moves_the_map(map_clips, page, annotate, tmp_path):
    annotate("map", *map_clips, "-o", "map", "--method", "pca", "--every", 1)
    open_map(page, tmp_path / "map")
    first = page.evaluate("atlas.shown().length")
    before = page.evaluate("({...atlas.view})")
    drag(page, (700, 400), (760, 430))
    after = page.evaluate("({...atlas.view})")
    assert (after["left"] - before["left"], after["top"] - before["top"]) == (60, 30)
    x, y = atlas.read(tmp_path / "map").xy[30]
    position = after["left"] + x * after["scale"], after["top"] + y * after["scale"] * 48 / 64
    page.mouse.move(*position)
    for _ in range(8):
        page.mouse.wheel(0, -300)
    page.wait_for_timeout(300)
    assert first < 72 and 30 in page.evaluate("atlas.shown()")
    assert page.inner_text("#what").split(" · ")[0] == "two.mp4"
    assert page.errors == []


def test_markup_in_a_clip_name_is_escaped(page, annotate, tmp_path):
    clip = write_clip(tmp_path / "a<script>b&.mp4", [RED, BLUE])
    code, _, err = annotate("map", clip, "-o", "map", "--method", "pca", "--every", 2)
    assert code == 0, err
    open_map(page, tmp_path / "map")
    assert "a<script>b&.mp4" in page.inner_text("#clips")
    assert page.errors == []


def test_a_dataset_can_be_mapped(map_clips, annotate, tmp_path):
    source = frame_sources.open_source(map_clips[0], FrameSelection(4))
    header = records.Header("detect", vocabulary={"labels": ["mug"]}, videos=source.videos())
    journal.write(tmp_path / "items.jsonl", header, map(_empty_item, source.frames()))
    assert annotate("build", "items.jsonl", "-o", "dataset")[0] == 0
    code, _, err = annotate("map", "dataset", "-o", "map", "--method", "pca")
    assert code == 0, err
    assert atlas.read(tmp_path / "map").frame_index.tolist() == [0, 4, 8, 12, 16, 20]


def _empty_item(frame):
    return Item(frame.video, frame.index, frame.seconds, *frame.size_wh)


def test_an_existing_map_is_not_overwritten(map_clips, annotate):
    assert annotate("map", map_clips[0], "-o", "map", "--every", 6, "--method", "pca")[0] == 0
    code, _, err = annotate("map", map_clips[0], "-o", "map", "--every", 6, "--method", "pca")
    assert code == 1 and "already there" in err
    code, _, err = annotate("map", map_clips[0], "-o", "other", "--method", "tsne")
    assert code == 1 and "pacmap" in err

"""The page of the footage map: thumbnails on sheets, and choosing frames in a browser."""

import io
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from annotate.dataset.folder import load_dataset
from annotate.footage_map import atlas
from annotate.items import journal
from annotate.video.writer import VideoWriter
from annotate.web.map import SpriteSheets, thumbnail_size_wh


def clip(path, colours, each=12):
    """A clip of flat shots, `each` frames of each colour, with a bar that moves."""
    with VideoWriter(path, Fraction(10), (64, 48)) as writer:
        for colour in colours:
            for step in range(each):
                image = np.full((48, 64, 3), colour, np.uint8)
                image[:, 4 * step : 4 * step + 6] = 128
                writer.write(image)
    return path


RED, GREEN, BLUE, GREY = (200, 20, 20), (20, 180, 30), (30, 30, 200), (120, 110, 100)


@pytest.fixture
def clips(tmp_path):
    return [
        clip(tmp_path / "one.mp4", [RED, GREEN]),
        clip(tmp_path / "two.mp4", [BLUE, RED]),
        clip(tmp_path / "three.mp4", [GREY, GREY]),
    ]


def test_thumbnails_keep_their_places_over_sheets():
    pack = SpriteSheets((160, 120))
    count = pack.columns * pack.rows + 3
    for number in range(count):
        pack.add(np.full((24, 32, 3), number % 250, np.uint8))
    first, second = (np.asarray(Image.open(io.BytesIO(p))) for p in pack.sheets())
    assert abs(int(first[60 + 120, 160 * 2 + 80, 0]) - (pack.columns + 2) % 250) <= 2
    assert second.shape[0] == 120
    assert thumbnail_size_wh(50_000, (640, 360)) == (48, 27)
    assert thumbnail_size_wh(100, (640, 360)) == (160, 90)


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda said: page.errors.append(said.text))
    page.on(
        "request",
        lambda asked: (
            page.errors.append(asked.url)
            if not asked.url.startswith(("file:", "blob:", "data:"))
            else None
        ),
    )
    return page


def opened(page, folder):
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


def test_what_is_lassoed_becomes_items_that_build_accepts(clips, page, annotate, tmp_path):
    code, _, err = annotate("map", *clips, "-o", "map", "--every", 2, "--method", "pca")
    assert code == 0, err
    made = atlas.read(tmp_path / "map")
    assert len(made.frame_index) == 36 and {"poster.jpg", "paths.png"} < {
        p.name for p in (tmp_path / "map").iterdir()
    }
    opened(page, tmp_path / "map")
    page.keyboard.press("l")
    drag(page, (262, 10), (1270, 10), (1270, 790), (262, 790))
    assert page.inner_text("#chosen") == "36 frames of 3 clips chosen."
    page.fill("#label", "<mug>")
    with page.expect_download() as download:
        page.click("#save")
    download.value.save_as(tmp_path / "chosen.jsonl")
    book = list(journal.read(tmp_path / "chosen.jsonl"))
    keys = {(item.video, item.frame, item.seconds) for item in book}
    names = [made.clip_names[n] for n in made.clip_index]
    assert keys == set(zip(names, made.frame_index.tolist(), made.seconds, strict=True))
    code, _, err = annotate("build", "chosen.jsonl", "-o", "dataset")
    assert code == 0, err
    built = load_dataset(tmp_path / "dataset")
    assert built.classes == ("<mug>",) and len(built) == 36
    assert page.errors == []


def test_a_part_is_lassoed_and_cleared_and_a_clip_shown_alone(clips, page, annotate, tmp_path):
    annotate("map", *clips, "-o", "map", "--every", 2, "--method", "pca")
    made = atlas.read(tmp_path / "map")
    opened(page, tmp_path / "map")
    view = page.evaluate("({...atlas.view})")
    middle = view["left"] + view["scale"] / 2
    page.keyboard.press("l")
    drag(page, (middle, 5), (1275, 5), (1275, 795), (middle, 795))
    right = int((made.xy[:, 0] > 0.5).sum())
    assert page.inner_text("#chosen").startswith(f"{right} frames")
    page.get_by_role("button", name="two.mp4").click()
    drag(page, (262, 5), (1275, 5), (1275, 795), (262, 795))
    assert page.inner_text("#chosen") == "12 frames of 1 clip chosen."
    page.keyboard.press("Escape")
    assert page.inner_text("#chosen") == "Nothing chosen." and page.is_disabled("#save")
    assert page.errors == []


def test_zooming_shows_more_pictures_and_dragging_moves_them(clips, page, annotate, tmp_path):
    annotate("map", *clips, "-o", "map", "--method", "pca", "--every", 1)
    opened(page, tmp_path / "map")
    first = page.evaluate("atlas.shown().length")
    before = page.evaluate("({...atlas.view})")
    drag(page, (700, 400), (760, 430))
    after = page.evaluate("({...atlas.view})")
    assert (after["left"] - before["left"], after["top"] - before["top"]) == (60, 30)
    x, y = atlas.read(tmp_path / "map").xy[30]
    spot = after["left"] + x * after["scale"], after["top"] + y * after["scale"] * 48 / 64
    page.mouse.move(*spot)
    for _ in range(8):
        page.mouse.wheel(0, -300)
    page.wait_for_timeout(300)
    assert first < 72 and 30 in page.evaluate("atlas.shown()")
    assert page.inner_text("#what").split(" · ")[0] == "two.mp4"
    assert page.errors == []


def test_a_page_cannot_be_broken_by_a_name(page, annotate, tmp_path):
    evil = clip(tmp_path / "a<script>b&.mp4", [RED, BLUE])
    code, _, err = annotate("map", evil, "-o", "map", "--method", "pca", "--every", 2)
    assert code == 0, err
    opened(page, tmp_path / "map")
    assert "a<script>b&.mp4" in page.inner_text("#clips")
    assert page.errors == []

"""A person in the real editor moves a box, erases a part of a mask, relabels and submits."""

import dataclasses
import io

import numpy as np
import pytest
from labelstudio_fixtures import boxed, make_dataset, tasks_of
from PIL import Image, ImageDraw

from annotate.dataset.folder import load_dataset, object_ids
from annotate.items import masks
from annotate.items.records import Object
from annotate.labelstudio.pull import pull_dataset
from annotate.labelstudio.push import push_dataset

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio, pytest.mark.slow]
SIZE = 640, 480
GREY = 60, 60, 60
CANVAS = ".konvajs-content"


@pytest.fixture
def page(label_studio, browser):
    """Log in to Label Studio in a browser that can reach nothing but the server."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.route(lambda url: not url.startswith(label_studio.url), lambda route: route.abort())
    page.set_default_timeout(120_000)
    page.goto(f"{label_studio.url}/user/login/", wait_until="domcontentloaded")
    page.fill("input[name=email]", label_studio.email)
    page.fill("input[name=password]", label_studio.password)
    page.click("button[type=submit]")
    page.wait_for_url(lambda url: "login" not in url, wait_until="commit")
    return page


class Editor:
    """A task in the editor; positions are in pixels of its image."""

    def __init__(self, page, url, project, task):
        self.page = page
        address = f"{url}/projects/{project}/data?task={task}"
        timeout_error = pytest.importorskip("playwright.sync_api").TimeoutError
        try:
            self._open(address)
        except timeout_error:  # on a busy machine the editor may not load the regions: reload
            self._open(address)
        page.wait_for_timeout(2000)  # masks are painted after everything is there

    def _open(self, address):
        self.page.goto(address, wait_until="commit")
        self.page.wait_for_selector(".konvajs-content canvas")
        self.page.wait_for_selector(".lsf-outliner-item", state="visible")

    def to_page(self, x, y):
        box = self.page.locator(CANVAS).first.bounding_box()
        return box["x"] + x * box["width"] / SIZE[0], box["y"] + y * box["height"] / SIZE[1]

    def drag(self, start, end):
        self.page.mouse.move(*self.to_page(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.to_page(*end), steps=8)
        self.page.mouse.up()
        self.page.wait_for_timeout(400)

    def choose(self, number):
        """Select a region in the list at the side."""
        self.page.keyboard.press("Escape")
        self.page.locator(".lsf-outliner-item").nth(number).click()
        self.page.wait_for_timeout(300)

    def press(self, key):
        self.page.keyboard.press(key)
        self.page.wait_for_timeout(300)

    def submit(self):
        with self.page.expect_response(
            lambda response: response.request.method == "POST" and "/annotations" in response.url
        ) as submitted:
            self.page.get_by_role("button", name="Submit").click()
        assert submitted.value.status == 201


def objects():
    mask = np.zeros(SIZE[::-1], bool)
    mask[280:440, 300:520] = True
    mask[340:380, 380:440] = False
    return [
        boxed("mech", (60.25, 60.5, 180.75, 200.0), score=0.9),
        boxed("mech", (400.0, 50.0, 560.0, 210.0), track=4),
        Object("target", (300.0, 280.0, 520.0, 440.0), mask=masks.encode(mask), source="light"),
        boxed("target", (20.125, 300.0, 120.0, 440.5)),
    ]


def test_only_the_changes_of_a_person_are_pulled(page, server, label_studio, tmp_path):
    dataset = make_dataset(tmp_path / "editor", [objects(), objects()], SIZE)
    project = push_dataset(dataset, server, project="editor").project.id
    first, second = (tasks[0]["id"] for tasks in tasks_of(server, project).values())
    editor = Editor(page, label_studio.url, project, first)
    editor.press("v")
    editor.choose(0)
    editor.drag((120, 130), (160, 150))  # 40 to the right, 20 down
    editor.choose(3)
    editor.drag((70, 370), (110, 350))
    editor.drag((110, 350), (70, 370))  # back: a number may differ in its last digit
    editor.choose(1)
    editor.press("2")  # the second class
    editor.choose(2)
    editor.press("e")
    editor.drag((310, 300), (360, 300))
    editor.submit()
    Editor(page, label_studio.url, project, second).submit()

    pull_dataset(dataset, server, tmp_path / "out", project="editor")
    changed, unchanged = (sample.item for sample in load_dataset(tmp_path / "out"))
    original, untouched = (sample.item for sample in dataset)
    assert unchanged == untouched
    moved, relabelled, erased, kept = changed.objects
    x1, y1, x2, y2 = moved.box
    assert (x1, y1) == pytest.approx((100.25, 80.5), abs=4)  # a drag starts after some pixels
    assert (x2 - x1, y2 - y1) == pytest.approx((120.5, 139.5), abs=0.002)
    assert relabelled == dataclasses.replace(
        original.objects[1], label="Gelände wagen", by=relabelled.by
    )
    before, after = masks.decode(original.objects[2].mask), masks.decode(erased.mask)
    assert not (after & ~before).any()
    erased_pixels = np.argwhere(before & ~after)
    assert len(erased_pixels) > 200
    assert erased_pixels.min(axis=0) == pytest.approx((290, 300), abs=15)
    assert erased_pixels.max(axis=0) == pytest.approx((310, 370), abs=15)
    assert kept == original.objects[3]
    for obj, name in zip((moved, relabelled, erased), object_ids(original.objects), strict=False):
        assert (obj.by["who"], obj.by["region"]) == (label_studio.email, name)
        assert obj.by["when"]


TOOL_KEYS = "ebvwhrpmkuo"  # eraser, brush, move, magic wand, pan, box, polygon, ...


def test_the_whole_picture_is_shown_and_no_key_of_a_tool_relabels(
    page, server, label_studio, tmp_path
):
    """The first address that is opened is that of a task, as in a message of a colleague."""
    classes = ["mech", "Gelände wagen", "target", "a long name " * 5, *(f"c {n}" for n in range(8))]
    dataset = make_dataset(tmp_path / "keys", [objects()], SIZE, classes)
    with Image.open(dataset.images / "dock-000000.png") as picture:
        ImageDraw.Draw(picture).rectangle((0, 0, SIZE[0] - 1, SIZE[1] - 1), GREY, "red", 8)
        picture.save(dataset.images / "dock-000000.png")
    project = push_dataset(dataset, server).project.id
    [[task]] = tasks_of(server, project).values()
    editor = Editor(page, label_studio.url, project, task["id"])
    assert page.locator(".lsf-outliner-item").count() == 4

    canvas, shown = (page.locator(name).first.bounding_box() for name in (CANVAS, "body"))
    assert canvas["y"] + canvas["height"] <= shown["height"]
    with Image.open(io.BytesIO(page.screenshot(clip=canvas))) as picture:
        width, height = picture.size
        for x, y in [(4, 0.95), (width - 5, 0.95), (0.3, 4), (0.3, height - 5)]:
            place = round(x if x > 1 else x * width), round(y if y > 1 else y * height)
            assert picture.convert("RGB").getpixel(place)[0] > 200  # red
    assert page.locator(".lsf-label").nth(0).bounding_box()["x"] < canvas["x"]
    for number in range(4):
        box = page.locator(".lsf-labels").nth(0).locator(".lsf-label").nth(number).bounding_box()
        assert box["y"] + box["height"] <= shown["height"]

    for key in TOOL_KEYS:
        editor.choose(2)
        editor.press(key)
    editor.choose(2)
    assert "target" in page.locator(".lsf-outliner-item").nth(2).inner_text()
    editor.press("q")
    assert "mech" in page.locator(".lsf-outliner-item").nth(2).inner_text()

"""Record the point page as an animated picture: clicks, masks, a run, a correction, saving.

    python benchmarks/record_point.py docs/images/point-recording.webp [--stop 60]

Needs Playwright and Chromium; CHROMIUM=PATH names another browser. The pictures are screenshots of
the page on the bundled clip, in order; their times are set here, not measured.
"""

import argparse
import io
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from corrections import largest_part
from PIL import Image
from review import read
from stretches import deepest_point

from annotate.files import packaged_file
from annotate.items import masks
from annotate.web.point.launch import PointFiles, PointOptions, open_page

SIZE: Any = {"width": 1120, "height": 760}
WIDTH = 800  # of the recording
HOLD, STEP = 1400, 110  # milliseconds
SCREEN_XY = """([x, y]) => {
    const matrix = new DOMMatrix(getComputedStyle(document.getElementById("view")).transform);
    const box = document.getElementById("stage").getBoundingClientRect();
    return [box.x + matrix.e + x * matrix.a, box.y + matrix.f + y * matrix.a];
}"""
SHOW = """([text, place]) => {
    const add = (id) => document.getElementById(id) ?? Object.assign(
        document.body.appendChild(document.createElement("div")), { id });
    const caption = add("caption"), pointer = add("pointer");
    caption.textContent = text;
    Object.assign(caption.style, { position: "fixed", left: "20px", top: "60px", zIndex: 9,
        padding: "6px 14px", borderRadius: "6px", background: "#fff", color: "#000",
        font: "600 20px system-ui, sans-serif", display: text ? "" : "none" });
    Object.assign(pointer.style, { position: "fixed", pointerEvents: "none", zIndex: 9,
        width: "16px", height: "24px",
        background: "#fff",
        clipPath: "polygon(0 0, 100% 65%, 55% 68%, 80% 100%, 60% 100%, 38% 72%, 0 90%)",
        filter: "drop-shadow(0 0 2px #000)", display: place ? "" : "none" });
    if (place) Object.assign(pointer.style, { left: `${place[0]}px`, top: `${place[1]}px` });
}"""

FETCH = """(path) => import("/static/local.js").then((m) => m.call(path)).then((a) => a.json())"""


class Recorder:
    """The page, and the pictures of it so far."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.pictures: list[Image.Image] = []
        self.times: list[int] = []
        self.place: list[float] | None = None
        self.text = ""

    def shoot(self, milliseconds: int) -> None:
        """Take a picture that is shown for some time."""
        self.page.evaluate(SHOW, [self.text, self.place])
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        height = round(WIDTH * picture.height / picture.width)
        self.pictures.append(picture.resize((WIDTH, height), Image.Resampling.LANCZOS))
        self.times.append(milliseconds)

    def move(self, x: float, y: float) -> None:
        """Move the pointer to a pixel of the clip."""
        end = self.page.evaluate(SCREEN_XY, [x, y])
        start = self.place or [SIZE["width"] / 2, SIZE["height"] - 60]
        for share in (0.35, 0.7, 1.0):
            self.place = [a + (b - a) * share for a, b in zip(start, end, strict=True)]
            self.shoot(STEP)

    def click(self, x: float, y: float, text: str, *, outside: bool = False) -> None:
        """Click on a pixel of the clip, and show the mask."""
        self.text = text
        self.move(x, y)
        with self.page.expect_response("**/act") as answer:
            self.page.mouse.click(*self.place, button="right" if outside else "left")
        self.page.wait_for_selector(f"body[data-masks$=':{answer.value.json()['rev']}']")
        self.shoot(HOLD)

    def name(self, label: str) -> None:
        """Give the object a class."""
        self.page.keyboard.press("c")
        self.page.keyboard.type(label)
        with self.page.expect_response("**/act"):
            self.page.keyboard.press("Enter")
        self.page.wait_for_selector(f"#objects li[aria-current=true] >> text={label}")

    def run(self, text: str, every: int = 4) -> None:
        """Propagate, with a picture of every few frames."""
        self.text, self.place = text, None
        shown = None
        self.page.keyboard.press("f")
        self.page.wait_for_selector("#stop:not([disabled])")
        while self.page.locator("#stop[disabled]").count() == 0:
            frame = int(self.page.evaluate("document.body.dataset.shown"))
            if shown is None or abs(frame - shown) >= every:
                shown = frame
                self.shoot(STEP)
        self.shoot(HOLD)

    def press(self, key: str, text: str) -> None:
        """Press a key, and show what it does."""
        self.text = text
        self.page.keyboard.press(key)
        self.shoot(HOLD)

    def write(self, path: Path) -> None:
        """Write the recording."""
        first, *others = self.pictures
        first.save(
            path,
            save_all=True,
            append_images=others,
            duration=self.times,
            loop=0,
            quality=62,
            method=6,
        )


def record(page: Any) -> Recorder:
    """Act as a person who labels two monsters of the bundled clip."""
    recorder = Recorder(page)
    recorder.shoot(HOLD)
    recorder.click(600, 280, "click inside an object: its mask")
    recorder.name("Demon")
    page.keyboard.press("o")
    recorder.click(355, 248, "O, and click: the next object")
    recorder.name("HellKnight")
    recorder.shoot(HOLD)
    recorder.run("F: propagate")
    recorder.press("j", "J: the frame most likely wrong")
    x, y, outside = next_click(page)
    recorder.click(x, y, "a click corrects it", outside=outside)
    recorder.run("F: propagate again")
    recorder.text = "Ctrl S: save"
    with page.expect_response("**/save"):
        page.keyboard.press("Control+s")
    page.wait_for_selector("#result:not(:empty)")
    recorder.shoot(2 * HOLD)
    return recorder


def next_click(page: Any) -> tuple[float, float, bool]:
    """Find the click that a person makes on the frame shown: into the largest wrong part."""
    frame = int(page.evaluate("document.body.dataset.shown"))
    number = int(page.locator("#objects li[aria-current=true] .number-sign").inner_text())
    label = page.locator("#objects li[aria-current=true] .name").inner_text().split(",")[0]
    truth, _ = read(packaged_file("clips", "demo.gt.json"))
    (true,) = (each for each in truth[frame] if each["label"] == label)
    wanted = masks.decode(true["segmentation"])
    shown = page.evaluate(FETCH, f"masks/{frame}")["objects"]
    mask = next(
        (masks.decode(each["mask"]) for each in shown if each["id"] == number), wanted & False
    )
    x, y = deepest_point(largest_part(wanted ^ mask))
    return x + 0.5, y + 0.5, not wanted[int(y), int(x)]


def main() -> None:
    """Record, and write the file."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--stop", type=int, default=60, help="Frames of the clip to propagate.")
    options = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with TemporaryDirectory() as scratch, sync_playwright() as engine:
        folder = Path(scratch)
        files = PointFiles(folder / "points.csv", folder / "masks.jsonl", folder / "dataset")
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(1_200_000)
        clip = packaged_file("clips", "demo.mp4")
        with open_page(clip, files, PointOptions(stop=options.stop)) as address:
            page.goto(address)
            page.wait_for_selector("body[data-ready]")
            recorder = record(page)
            page.close()
        browser.close()
    recorder.write(options.output)
    size = options.output.stat().st_size
    print(f"{options.output}: {len(recorder.pictures)} pictures, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

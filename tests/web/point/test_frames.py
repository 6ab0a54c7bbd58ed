"""The page shows the frame whose number it states, for every kind of clip: a counter is read back
from the pixels of the canvas."""

import random
from fractions import Fraction

import av
import numpy as np
import pytest
from point_page import square_editor

from annotate.web.point.app import serving

BITS, COUNT, HIGH = 8, 160, 96
TICKS = Fraction(1, 600)
VARIED = [3 * n * n + 7 * n for n in range(COUNT)]  # ticks: from 60 frames a second to 0.6


def picture(index):
    """A column for each bit of the index, black or white."""
    bits = [255 * (index >> bit & 1) for bit in range(BITS)]
    return np.repeat(np.tile(np.repeat(bits, 16), (HIGH, 1))[..., None], 3, axis=2).astype("u1")


def encode(path, codec="libx264", options=(), *, pts=None, form="yuv420p", turned=False, aspect=1):
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = 16 * BITS, HIGH, form
        if turned:
            stream.width, stream.height = stream.height, stream.width
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)
        if pts:
            stream.codec_context.time_base = TICKS
        for index in range(COUNT):
            image = np.rot90(picture(index)) if turned else picture(index)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            if pts:
                frame.pts, frame.time_base = pts[index], TICKS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn(path):
    """Give a file the display matrix of a phone that was held upright."""
    data = bytearray(path.read_bytes())
    offset = data.index(b"tkhd") + 44
    matrix = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1 << 14]]) * (1 << 16)
    data[offset : offset + 36] = matrix.astype(">i4").tobytes()
    path.write_bytes(data)
    return path


B_FRAMES = {"bf": "3", "g": "20"}
CLIPS = {
    "b-frames.mp4": lambda path: encode(path, options=B_FRAMES),
    "open-gop.mp4": lambda path: encode(
        path, options={"x264-params": "open-gop=1:keyint=20:bframes=3:b-adapt=0:scenecut=0"}
    ),
    "varied.mp4": lambda path: encode(path, options=B_FRAMES, pts=VARIED),
    "turned.mp4": lambda path: turn(encode(path, options=B_FRAMES, turned=True)),
    "wide-pixels.mp4": lambda path: encode(path, options=B_FRAMES, aspect=Fraction(4, 3)),
    "hevc-10-bit.mp4": lambda path: encode(
        path, "libx265", {"x265-params": "log-level=none:keyint=20"}, form="yuv420p10le"
    ),
    "av1.mp4": lambda path: encode(
        path, "libaom-av1", {"cpu-used": "8", "usage": "realtime", "g": "20"}
    ),
}
JUMP = """async (jumps) => {
    const picture = document.getElementById("picture"), field = document.getElementById("frame");
    const context = picture.getContext("2d"), found = [];
    const read = () => [0, 1, 2, 3, 4, 5, 6, 7].reduce((number, bit) => {
        const x = Math.floor((bit + 0.5) * picture.width / 8);
        const [, green] = context.getImageData(x, picture.height / 2, 1, 1).data;
        return number | (green > 127) << bit;
    }, 0);
    let arrived = () => {};
    new MutationObserver(() => {
        const frame = Number(document.body.dataset.shown);
        found.push([frame, read()]);
        arrived(frame);
    }).observe(document.body, { attributes: true, attributeFilter: ["data-shown"] });
    for (const [frame, waits] of jumps) {
        const there = new Promise((resolve) => {
            arrived = (shown) => { if (shown === frame) resolve(); };
        });
        field.value = frame;
        field.dispatchEvent(new Event("change"));
        if (waits) await there;
    }
    return found;
}"""


@pytest.mark.parametrize("name", CLIPS)
def test_random_jumps_show_the_frame_of_their_number(browser, tmp_path, name):
    clip = CLIPS[name](tmp_path / name)
    chance = random.Random(name)
    # some jumps do not wait for the picture of the one before
    jumps = [
        (chance.randrange(COUNT), chance.random() < 0.7)
        for _ in range(200 if name == "b-frames.mp4" else 60)
    ]
    jumps.append((COUNT - 1, True))
    with square_editor(clip, tmp_path / "points.csv") as editor, serving(editor) as address:
        page = browser.new_page(viewport={"width": 900, "height": 700})
        page.set_default_timeout(120_000)
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        found = page.evaluate(JUMP, jumps)
        assert len(found) >= sum(waits for _, waits in jumps)
        assert [each for each in found if each[0] != each[1]] == []
        assert found[-1] == [COUNT - 1] * 2
        seconds = float(editor.pictures.frame(COUNT - 1).seconds)
        shown = f"{int(seconds // 60)}:{seconds % 60:06.3f}"
        assert page.locator("#time").inner_text() == f"of {COUNT - 1}, {shown}"
        assert editor.pictures.times()[-1] == round(seconds, 4)
        page.close()

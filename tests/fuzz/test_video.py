"""Video files and animations whose bytes are changed at random, and whose packets are emptied.

A clip is refused, or it gives the frames 0, 1, 2 ... of one size, in time. It ends with as many as
are then counted, or with an error that says how many came. No decoder takes this process with it.
"""

import av
import numpy as np
import pytest
from decode_child import Child
from hypothesis import given
from hypothesis import strategies as st
from mutations import damaged, fuzz
from PIL import Image

CODECS = {
    "clip.mp4": "libx264",
    "clip.mkv": "libx264",
    "clip.avi": "mpeg4",
    "clip.flv": "flv1",
    "clip.ts": "mpeg2video",
    "clip.mpg": "mpeg2video",
    "clip.wmv": "wmv2",
    "clip.webm": "libvpx-vp9",
    "clip.mov": "mjpeg",
    "clip.gif": "",
    "clip.png": "",
    "clip.webp": "",
    "clip.tiff": "",
}
COUNT = 12


def _pictures():
    ramp = np.indices((48, 64)).sum(0)
    return [
        np.stack([ramp * 2, ramp + 5 * n, ramp * 0 + n], 2).astype(np.uint8) for n in range(COUNT)
    ]


def _write(path):
    first, *others = map(Image.fromarray, _pictures())
    if not (codec := CODECS[path.name]):
        first.save(path, save_all=True, append_images=others, duration=40)
        return
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.options = 64, 48, {"g": "5"}
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for pixels in _pictures():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))


def _packets(path):
    """List where the bytes of each packet are in the file."""
    data = path.read_bytes()
    with av.open(str(path)) as file:
        found = [(data.find(bytes(packet)), packet.size) for packet in file.demux(video=0)]
    return [(start, size) for start, size in found if start >= 0 and size]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """The bytes of each whole clip, and where its packets are."""
    folder = tmp_path_factory.mktemp("clips")
    found = {}
    for name in CODECS:
        _write(folder / name)
        found[name] = (folder / name).read_bytes(), _packets(folder / name)
    return found


@pytest.fixture(scope="module")
def child():
    child = Child()
    yield child
    child.close()


@fuzz
@given(st.data(), st.sampled_from(sorted(CODECS)))
def test_frames_are_counted_whatever_is_damaged(clips, child, tmp_path_factory, data, name):
    whole, packets = clips[name]
    content = bytearray(whole)
    for start, size in data.draw(st.lists(st.sampled_from(packets), max_size=3)) if packets else ():
        content[start : start + size] = bytes(size)
    if content == whole or data.draw(st.booleans()):
        content = data.draw(damaged(bytes(content)))
    path = tmp_path_factory.getbasetemp() / name
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    answer = child.decode(path)
    assert not answer.keys() & {"crash", "traceback"}, answer
    if "refused" in answer:
        assert len(answer["refused"].splitlines()) == 1
        assert answer.get("broken", 0) == answer["frames"]
    else:
        assert answer["frames"] == answer["count"]

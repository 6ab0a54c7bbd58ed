"""A file that was cut is known in each container, and a whole one is not taken for cut."""

import av
import numpy as np
import pytest

from annotate.errors import BrokenVideo
from annotate.video import reader
from annotate.video.truncation import is_truncated

CONTAINERS = {
    "clip.mkv": ("mpeg4", {}),
    "live.mkv": ("mpeg4", {"live": "1"}),
    "clip.mp4": ("mpeg4", {}),
    "fragments.mp4": ("mpeg4", {"movflags": "frag_keyframe+empty_moov"}),
    "clip.avi": ("mpeg4", {}),
    "clip.flv": ("flv1", {}),
    "clip.ts": ("mpeg2video", {}),
    "clip.mpg": ("mpeg2video", {}),
    "clip.wmv": ("wmv2", {}),
    "clip.gif": ("gif", {}),
}


def encode(path):
    codec, options = CONTAINERS[path.name]
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.options = 64, 48, {"g": "5"}
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for _ in range(20):
            pixels = noise.integers(0, 256, (48, 64, 3), np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        file.mux(stream.encode(None))


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_cut_file_is_known(tmp_path, name):
    path = tmp_path / name
    encode(path)
    assert not is_truncated(path)
    whole = [frame.image for frame in reader.frames(path)]
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10 + 1])
    assert is_truncated(path)
    if name == "clip.mp4":  # its table is at the end
        return
    read = []
    with pytest.raises(BrokenVideo, match="cut short"):
        for frame in reader.frames(path):
            read.append(frame.image)
    assert 3 < len(read) < 20
    assert all((one == other).all() for one, other in zip(read, whole, strict=False))


@pytest.mark.parametrize("name", ["clip.mkv", "clip.avi"])
def test_a_recorder_that_was_killed_leaves_no_length(tmp_path, name):
    path = tmp_path / name
    encode(path)
    data = bytearray(path.read_bytes())
    if name == "clip.mkv":
        size = data.index(b"\x18\x53\x80\x67") + 4
        data[size : size + 8] = b"\x01" + b"\xff" * 7
    else:
        for size in (4, data.index(b"movi") - 4):
            data[size : size + 4] = bytes(4)
    path.write_bytes(data)
    assert not is_truncated(path)
    path.write_bytes(data[: len(data) // 2])
    assert is_truncated(path)

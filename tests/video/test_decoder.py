"""Which packets, which stream and which size are read of video files that others wrote."""

import av
import numpy as np
import pytest

from annotate.errors import VideoError
from annotate.video import reader
from annotate.video.reader import FrameSelection


def grey(level, size_wh):
    return np.full((size_wh[1], size_wh[0], 3), level, np.uint8)


def encode(path, levels, size_wh=(64, 48), codec="mjpeg", **options):
    """Write a clip of grey pictures."""
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=10)
        stream.width, stream.height = size_wh
        stream.options = {"g": "100", "sc_threshold": "1000000000"}
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for level in levels:
            picture = av.VideoFrame.from_ndarray(grey(level, size_wh), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def join(sources, path, keep=lambda packet: True, **options):
    """Write the streams of several files into one."""
    with av.open(str(path), "w", options=options) as file:
        inputs = [av.open(str(source)) for source in sources]
        packets = []
        for each in inputs:
            stream = file.add_stream_from_template(each.streams.video[0])
            packets += [
                (packet, stream) for packet in each.demux(video=0) if packet.dts is not None
            ]
        for packet, stream in sorted(packets, key=lambda pair: pair[0].dts * pair[0].time_base):
            packet.stream = stream
            if keep(packet):
                file.mux(packet)
        for each in inputs:
            each.close()


def levels(frames):
    return [(frame.index, round(frame.image.mean() / 10)) for frame in frames]


def test_an_empty_packet_is_not_the_end(tmp_path):
    encode(tmp_path / "whole.avi", range(0, 100, 10))
    data = (tmp_path / "whole.avi").read_bytes()
    chunks, position = [], data.index(b"movi") + 4
    while data[position : position + 4] == b"00dc":
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        chunks.append((position, size))
        position += 8 + size + size % 2
    start, size = chunks[4]  # becomes an empty packet, and a chunk that no reader looks at
    filler = b"JUNK" + (size + size % 2 - 8).to_bytes(4, "little")
    emptied = data[:start] + b"00dc" + bytes(4) + filler + data[start + 16 :]
    path = tmp_path / "emptied.avi"
    path.write_bytes(
        emptied[: emptied.rindex(b"idx1")] + b"JUNK" + emptied[emptied.rindex(b"idx1") + 4 :]
    )
    shown = [level for _, level in levels(reader.frames(path))]
    assert shown == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    assert reader.probe(path).frame_count == 9


@pytest.mark.parametrize("start", [0, 7])
def test_frames_of_another_size_are_scaled_to_the_first(tmp_path, start, caplog):
    for n, size_wh in enumerate([(64, 48), (96, 72)]):
        encode(tmp_path / f"{n}.ts", range(0, 50, 10), size_wh, "mpeg2video")
    path = tmp_path / "joined.ts"
    path.write_bytes(b"".join((tmp_path / f"{n}.ts").read_bytes() for n in range(2)))
    video = reader.probe(path)
    assert (video.width, video.height) == (64, 48)
    frames = list(reader.frames(path, start=start))
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert frames[-1].index == video.frame_count - 1
    assert "the size changes; all frames become 64x48" in caplog.text


def test_the_main_stream_is_read_and_named(tmp_path, caplog):
    encode(tmp_path / "still.mkv", [200], (128, 96))
    encode(tmp_path / "small.mkv", [0, 10, 20])
    encode(tmp_path / "large.mkv", [30, 40, 50], (96, 72))
    path = tmp_path / "three.mkv"
    join([tmp_path / f"{name}.mkv" for name in ("still", "small", "large")], path)
    assert levels(reader.frames(path)) == [(0, 3), (1, 4), (2, 5)]
    assert levels(reader.frames_at(path, [1])) == [(1, 4)]
    assert "3 video streams; stream 2 (96x72) is read" in caplog.text


@pytest.mark.parametrize(
    "selection",
    [
        FrameSelection(start=10),
        FrameSelection(start=4, stop=4),
        FrameSelection(rate=1, start=1, stop=9),
        FrameSelection(keyframes=True, start=1),
        FrameSelection(keyframes=True, start=1, maximum=3),
    ],
)
def test_a_selection_without_frames_is_refused(tmp_path, selection):
    path = tmp_path / "clip.mkv"
    encode(path, range(0, 100, 10), codec="mpeg4")
    for refused in (lambda: selection.check(path), lambda: list(selection.frames(path))):
        with pytest.raises(VideoError, match="keyframe" if selection.keyframes else "selected"):
            refused()
    FrameSelection(rate=1, stop=1).check(path)

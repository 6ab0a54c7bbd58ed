"""Frame n is the n-th picture of a full decode, however it is reached: pixels show the index."""

import gc
import os
import random
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sample_data import SHARED

from annotate.errors import BrokenVideo, OutputError, VideoError
from annotate.items.records import Frame
from annotate.video import reader
from annotate.video.reader import FrameSelection, prefetch
from annotate.video.writer import VideoWriter

COUNT, WIDTH, HEIGHT = 60, 128, 96
TICKS = Fraction(1, 600)
OPEN_GOP = {"x264-params": "open-gop=1:keyint=20:min-keyint=20:bframes=3:b-adapt=0:scenecut=0"}
B_FRAMES = {"bf": "3", "g": "20"}


def picture(index):
    """Eight columns of 16 pixels, black or white: the bits of the index."""
    bits = [255 * (index >> bit & 1) for bit in range(8)]
    return np.repeat(np.tile(np.repeat(bits, 16), (HEIGHT, 1))[..., None], 3, axis=2).astype("u1")


def index_of(image):
    return sum(int(image[40, 16 * bit + 8].mean() > 127) << bit for bit in range(8))


def encode(path, codec="libx264", options=B_FRAMES, pts=None, count=COUNT, pix_fmt="yuv420p"):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=dict(options))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if pts:
            stream.codec_context.time_base = TICKS
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            if pts:
                frame.pts, frame.time_base = pts[index], TICKS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def remux(source, target, keep=lambda packet: True, later=0, **options):
    """Copy the packets that `keep` selects, delayed by `later` frames, which may be negative."""
    with av.open(str(source)) as old, av.open(str(target), "w", **options) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream, opaque=True)
        for packet in old.demux(stream):
            if packet.size and keep(packet):
                shift = int(later / stream.average_rate / stream.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = copy
                new.mux(packet)
    return target


def faststart(path, options=B_FRAMES):
    plain = encode(path.with_name(f"plain-{path.name}"), options=options)
    return remux(plain, path, container_options={"movflags": "faststart"})


VARIED = [0, 20, 41, 80, 81, *range(100, 100 + 17 * 54, 17), 5000]
MAKERS = {
    "b-frames.mp4": encode,
    "b-frames.mkv": encode,
    "b-frames.ts": encode,
    "open-gop.mp4": lambda path: encode(path, options=OPEN_GOP),
    "open-gop.ts": lambda path: encode(path, options=OPEN_GOP),
    "one-gop.mp4": lambda path: encode(path, options={"g": "250"}),
    "all-keys.mp4": lambda path: encode(path, options={"g": "1"}),
    "hevc.mp4": lambda path: encode(path, "libx265", {"x265-params": "log-level=none:keyint=20"}),
    "vp9.webm": lambda path: encode(path, "libvpx-vp9", {"g": "20", "deadline": "realtime"}),
    "hidden.webm": lambda path: encode(
        path, "libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "50k"}
    ),
    "mpeg4.avi": lambda path: encode(path, "mpeg4", {"bf": "2", "g": "12", "q": "2"}),
    "h264.avi": encode,  # AVI has decoding times, not display times
    "mpeg2.mpg": lambda path: encode(path, "mpeg2video", {"bf": "2", "g": "12", "q": "2"}),
    "no-times.h264": encode,
    "lossless.mkv": lambda path: encode(path, "ffv1", {}),
    "varied.mp4": lambda path: encode(path, pts=VARIED),
    "varied.mkv": lambda path: encode(path, pts=VARIED),
    "late.mkv": lambda path: encode(path, pts=[1234 + 20 * n for n in range(COUNT)]),
    "late.mp4": lambda path: encode(path, pts=[1234 + 20 * n for n in range(COUNT)]),
    "times-missing.mkv": lambda path: remux(  # Matroska has no times before zero
        encode(path.with_suffix(".mp4")),
        path,
        later=-7,
        container_options={"avoid_negative_ts": "disabled"},
    ),
    "early.nut": lambda path: encode(path, pts=[20 * n - 1234 for n in range(COUNT)]),
    "edit-list.mp4": lambda path: remux(
        encode(path.with_suffix(".mov")),
        path,
        later=-7,
        container_options={"avoid_negative_ts": "disabled"},
    ),
    "no-first-gop.mkv": lambda path: remux(  # its first B-frames have lost their reference frames
        encode(path.with_suffix(".mp4"), options=OPEN_GOP), path, lambda packet: packet.dts > 7000
    ),
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Make a clip by its name, once."""
    made = {}

    def clip(name):
        if name not in made:
            made[name] = MAKERS[name](tmp_path_factory.mktemp("clips") / name)
        return made[name]

    return clip


@pytest.fixture(params=MAKERS)
def clip(request, clips):
    return clips(request.param)


def full_decode(path):
    """Decode all frames by PyAV on one thread, skipping packets that cannot be decoded."""
    indices = []
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        for packet in container.demux(video=0):
            with suppress(av.error.InvalidDataError):
                indices += [index_of(f.to_ndarray(format="rgb24")) for f in packet.decode()]
    return indices


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def indices_and_pixels(frames):
    return [(frame.index, index_of(frame.image)) for frame in frames]


# All functions that read frames


def test_all_functions_read_the_same_frame(clip):
    truth = full_decode(clip)
    frames = list(reader.frames(clip))
    assert indices_and_pixels(frames) == list(enumerate(truth))
    assert reader.probe(clip).frame_count == len(truth)
    seconds = [frame.seconds for frame in frames]
    assert seconds[0] == 0 and seconds == sorted(set(seconds))

    indices = [len(truth) - 1, 0, *random.Random(5).sample(range(len(truth)), 8)]
    results = {
        "seek": [reader.seek(clip, index) for index in indices],
        "frames_at": list(reader.frames_at(clip, indices)),
        "start": list(reader.frames(clip, start=23)),
        "keyframes": list(reader.keyframes(clip)),
        "backward": list(reader.backward(clip, len(truth) - 1, 3)),
    }
    for function, read in results.items():
        for frame in read:
            assert index_of(frame.image) == truth[frame.index], function
            assert frame.seconds == seconds[frame.index], function
    assert [f.index for f in results["seek"]] == indices
    assert [f.index for f in results["frames_at"]] == sorted(set(indices))
    assert [f.index for f in results["start"]] == list(range(23, len(truth)))
    assert [f.index for f in results["backward"]] == list(range(len(truth) - 1, 2, -1))


@pytest.mark.parametrize("name", sorted(set(MAKERS) - {"no-first-gop.mkv", "edit-list.mp4"}))
def test_the_clips_show_the_index_of_each_picture(name, clips):
    assert full_decode(clips(name)) == list(range(COUNT))


@pytest.mark.parametrize("name", ["no-first-gop.mkv", "edit-list.mp4"])
def test_pictures_that_are_not_shown_are_not_counted(name, clips):
    assert 0 < reader.probe(clips(name)).frame_count < COUNT
    assert full_decode(clips(name))[0] > 0


def test_keyframes_have_the_indices_that_were_encoded(clips):
    assert [f.index for f in reader.keyframes(clips("open-gop.mp4"))] == [0, 20, 40]
    assert [f.index for f in reader.keyframes(clips("all-keys.mp4"))] == list(range(COUNT))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, COUNT), st.integers(0, COUNT + 9) | st.none(), st.integers(1, COUNT))
def test_start_stop_and_every_select_like_range(clips, start, stop, every):
    frames = reader.frames(clips("open-gop.mp4"), start=start, stop=stop, every=every)
    expected = list(range(COUNT))[start:stop:every]
    assert indices_and_pixels(frames) == [(index, index) for index in expected]


def test_a_changed_file_is_another_clip(tmp_path, clips):
    path = tmp_path / "clip.mkv"
    shutil.copy(clips("varied.mkv"), path)
    before = reader.probe(path)
    encode(path, count=12)
    after = reader.probe(path)
    assert (before.frame_count, after.frame_count) == (COUNT, 12)
    assert before.fingerprint != after.fingerprint


# Time


@pytest.mark.parametrize("name", ["varied.mp4", "varied.mkv"])
def test_variable_rate_keeps_the_pts(name, clips):
    tick = Fraction(1, 1000) if name.endswith("mkv") else TICKS
    probed = reader.probe(clips(name))
    seconds = [frame.seconds for frame in reader.frames(clips(name))]
    assert probed.variable_rate
    assert all(abs(a - b * TICKS) <= tick / 2 for a, b in zip(seconds, VARIED, strict=True))
    assert probed.rate == pytest.approx(float((COUNT - 1) / (5000 * TICKS)), rel=1e-3)


def test_the_first_picture_is_at_zero_wherever_the_stream_starts(clips):
    for name in ("late.mkv", "late.mp4", "early.nut", "b-frames.ts"):
        probed = reader.probe(clips(name))
        assert (probed.variable_rate, probed.rate) == (False, 30), name
        assert abs(probed.duration_seconds - 2) < Fraction(1, 20), name
        assert abs(reader.seek(clips(name), 45).seconds - Fraction(45, 30)) <= Fraction(1, 1000)


@pytest.mark.parametrize("rate", [7, Fraction(30000, 1001), 0.5, 100])
def test_a_rate_takes_the_first_frame_of_every_tick(rate, clips):
    times = [frame.seconds for frame in reader.frames(clips("varied.mp4"))]
    ticks = range(int(times[-1] * Fraction(rate)) + 1)
    first = {next((n for n, t in enumerate(times) if t >= k / Fraction(rate)), None) for k in ticks}
    expected = sorted(first - {None})
    assert [f.index for f in reader.frames(clips("varied.mp4"), rate=rate)] == expected
    for start in (1, 3, 20, 59):
        later = [f.index for f in reader.frames(clips("varied.mp4"), rate=rate, start=start)]
        assert later == [index for index in expected if index >= start]


@pytest.mark.parametrize(
    "selection, expected",
    [
        (FrameSelection(), list(range(140))),
        (FrameSelection(every=50), [0, 50, 100]),
        (FrameSelection(every=50, start=3, stop=104), [3, 53, 103]),
        (FrameSelection(rate=1), [0, 35, 70, 105]),
        (FrameSelection(keyframes=True), [0, 35, 70, 105]),
        (FrameSelection(keyframes=True, start=1, stop=105), [35, 70]),
        (FrameSelection(maximum=3), [0, 70, 139]),
        (FrameSelection(keyframes=True, maximum=2), [0, 105]),
        (FrameSelection(every=70, maximum=9), [0, 70]),
    ],
    ids=str,
)
def test_a_selection_gives_these_frames(selection, expected, demo):
    assert [frame.index for frame in selection.frames(demo)] == expected
    count = selection.count(reader.probe(demo))
    assert count == len(expected) or selection.keyframes or selection.maximum == 9


def test_the_counts_of_several_clips_are_added(demo):
    assert FrameSelection(every=50).count_all([demo, demo]) == 6
    assert FrameSelection(keyframes=True).count_all([demo, demo]) is None
    assert FrameSelection().count_all([]) == 0


# Orientation and colour


def with_display_matrix(path, target, a, b, c, d):
    """Copy a file with another display matrix in its track header."""
    data = bytearray(path.read_bytes())
    offset = data.index(b"tkhd") + 44
    matrix = np.array([[a, b, 0], [c, d, 0], [0, 0, 1 << 14]]) * (1 << 16)
    data[offset : offset + 36] = matrix.astype(">i4").tobytes()
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    "matrix, expected",
    [
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
    ],
    ids=["90", "180", "270", "mirrored", "transposed"],
)
def test_pictures_come_out_upright(tmp_path, clips, matrix, expected):
    path = with_display_matrix(clips("b-frames.mp4"), tmp_path / "turned.mp4", *matrix)
    probed, frame = reader.probe(path), reader.seek(path, 37)
    upright = expected(reader.seek(clips("b-frames.mp4"), 37).image)
    np.testing.assert_array_equal(frame.image, upright)
    assert (probed.width, probed.height) == frame.size_wh
    assert frame.image.flags.c_contiguous and frame.image.flags.writeable


COLOURS = {
    "untagged": {},
    "601": {"colorspace": 5, "color_range": 1},
    "709": {"colorspace": 1, "color_range": 1},
    "709 full": {"colorspace": 1, "color_range": 2},
}


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs the ffmpeg command")
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv420p10le"])
@pytest.mark.parametrize("tags", COLOURS)
def test_colours_are_those_that_ffmpeg_gives(tmp_path, tags, pix_fmt):
    path = tmp_path / "tagged.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        for name, value in COLOURS[tags].items():
            setattr(stream.codec_context, name, value)
        down, across = np.mgrid[0:48, 0:64] * 4
        smooth = np.stack([down, across, 255 - down], axis=2).astype("u1")
        frame = av.VideoFrame.from_ndarray(smooth, format="rgb24")
        container.mux(stream.encode(frame.reformat(format=pix_fmt)))
        container.mux(stream.encode(None))
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    theirs = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "u1")
    ours = reader.seek(path, 0).image
    tolerance = 8 if pix_fmt.endswith("10le") else 2  # versions of swscale place chroma differently
    np.testing.assert_allclose(ours.astype(int), theirs.reshape(ours.shape), atol=tolerance)


@pytest.mark.parametrize(
    "codec, pix_fmt",
    [("ffv1", "gray16le"), ("ffv1", "yuva420p"), ("png", "rgba"), ("ffv1", "bgr0")],
)
def test_other_pixel_formats_become_eight_bit_rgb(tmp_path, codec, pix_fmt):
    path = encode(
        tmp_path / "other.mov" if codec == "png" else tmp_path / "other.mkv",
        codec,
        {},
        count=9,
        pix_fmt=pix_fmt,
    )
    assert indices_and_pixels(reader.frames(path)) == [(n, n) for n in range(9)]
    assert reader.seek(path, 1).image[0, :16].min() > 250


# Images


def test_a_folder_of_images_is_a_clip_in_natural_order(tmp_path):
    folder = tmp_path / "shots ä"
    folder.mkdir()
    for name, index in {"a10.png": 1, "a2.png": 0, "b.bmp": 2}.items():
        Image.fromarray(picture(index)).save(folder / name)
    (folder / "notes.txt").write_text("not an image")
    (folder / "._a10.png").write_bytes(b"left by another system")
    probed = reader.probe(folder)
    assert (probed.name, probed.frame_count, probed.rate) == ("shots ä", 3, 1)
    assert (probed.width, probed.height, probed.duration_seconds) == (WIDTH, HEIGHT, 3)
    for frames in (
        reader.frames(folder),
        reader.keyframes(folder),
        reader.frames_at(folder, [2, 1, 0]),
    ):
        assert indices_and_pixels(frames) == [(0, 0), (1, 1), (2, 2)]
    assert indices_and_pixels(reader.backward(folder, 2)) == [(2, 2), (1, 1), (0, 0)]
    assert reader.seek(folder, 2).seconds == 2


RED = (255, 0, 0)


@pytest.mark.parametrize(
    "name, image, expected",
    [
        ("alpha.png", Image.new("RGBA", (3, 2), (255, 0, 0, 0)), RED),
        ("grey.png", Image.new("L", (3, 2), 77), (77, 77, 77)),
        ("grey alpha.png", Image.new("LA", (3, 2), (77, 9)), (77, 77, 77)),
        ("sixteen.png", Image.fromarray(np.full((2, 3), 32896, np.uint16)), (128, 128, 128)),
        ("palette.png", Image.new("RGB", (3, 2), RED).quantize(2), RED),
        ("bit.png", Image.new("1", (3, 2), 1), (255, 255, 255)),
        ("one.png", Image.new("RGB", (1, 1), RED), RED),
        ("cmyk.tif", Image.new("CMYK", (3, 2), (0, 0, 0, 255)), (0, 0, 0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_still_image_is_a_clip_of_one_frame(tmp_path, name, image, expected):
    image.save(tmp_path / name)
    [frame] = reader.frames(tmp_path / name)
    assert frame.size_wh == image.size and frame.seconds == 0
    assert frame.image.reshape(-1, 3).tolist() == [list(expected)] * (image.width * image.height)
    assert reader.probe(tmp_path / name).frame_count == 1


def test_a_photograph_is_turned_as_its_exif_says(tmp_path):
    sideways = Image.fromarray(
        np.kron(np.array([[0, 80, 160], [240, 200, 40]], "u1"), np.ones((8, 8)))
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways.convert("L").save(tmp_path / "photo.jpg", exif=exif, quality=100)
    frame = reader.seek(tmp_path / "photo.jpg", 0)
    np.testing.assert_allclose(frame.image[4::8, 4::8, 0], [[240, 0], [200, 80], [40, 160]], atol=3)
    probed = reader.probe(tmp_path / "photo.jpg")
    assert (probed.width, probed.height) == (16, 24)


def test_an_animated_gif_is_a_video(tmp_path):
    first, *others = [Image.fromarray(picture(index)) for index in range(5)]
    first.save(tmp_path / "moving.gif", save_all=True, append_images=others, duration=40)
    assert indices_and_pixels(reader.frames(tmp_path / "moving.gif")) == [(n, n) for n in range(5)]
    assert indices_and_pixels([reader.seek(tmp_path / "moving.gif", 3)]) == [(3, 3)]


# Damaged files


def read_until_broken(path):
    """Return the frames before a BrokenVideo, and that error."""
    frames = []
    try:
        for frame in reader.frames(path):
            frames.append(frame)
    except BrokenVideo as error:
        return frames, error
    pytest.fail(f"{path}: the frames ended without an error")


@pytest.mark.parametrize("name", ["b-frames.mp4", "b-frames.mkv", "vp9.webm", "lossless.mkv"])
@pytest.mark.parametrize("share", [0.99, 0.9, 0.75, 0.6])
def test_a_truncated_file_gives_its_certain_frames_and_says_where_it_ends(
    tmp_path, clips, name, share
):
    whole = clips(name) if name != "b-frames.mp4" else faststart(tmp_path / "whole.mp4")
    path = tmp_path / f"cut {name}"
    path.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * share)])
    frames, error = read_until_broken(path)
    assert 0 < len(frames) <= COUNT * min(1, share + 0.05)
    assert indices_and_pixels(frames) == [(n, n) for n in range(len(frames))]
    assert error.frame == len(frames)
    assert f"cut short at frame {len(frames)}" in str(error) and str(path) in str(error)
    assert reader.probe(path).frame_count == len(frames)
    assert indices_and_pixels([reader.seek(path, len(frames) - 1)]) == indices_and_pixels(
        frames[-1:]
    )


def test_a_file_truncated_at_any_byte_gives_the_promised_frames(tmp_path):
    data = faststart(tmp_path / "whole.mp4").read_bytes()
    path = tmp_path / "cut.mp4"
    for length in range(data.index(b"mdat"), len(data), 101):
        path.write_bytes(data[:length])
        frames, error = read_until_broken(path)
        assert indices_and_pixels(frames) == [(n, n) for n in range(error.frame)], length


def test_an_unfinished_recording_is_broken_at_its_first_frame(tmp_path, clips):
    path = tmp_path / "unfinished.mp4"
    path.write_bytes(clips("b-frames.mp4").read_bytes()[:-1000])
    frames, error = read_until_broken(path)
    assert not frames and error.frame == 0


@pytest.mark.parametrize("reached", ["by reading on", "by a seek"])
def test_a_damaged_part_is_skipped_as_in_a_full_decode(tmp_path, reached):
    data = bytearray(faststart(tmp_path / "whole.mp4").read_bytes())
    middle = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2
    data[middle : middle + 60] = bytes(60)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    truth = full_decode(path)
    assert truth[-1] == COUNT - 1 and len(truth) < COUNT
    if reached == "by reading on":
        assert indices_and_pixels(reader.frames(path)) == list(enumerate(truth))
    else:
        late = next(n for n, index in enumerate(truth) if index > n + 1)  # two have been lost
        later = list(reader.frames(path, start=late - 1))
        assert indices_and_pixels(later) == list(enumerate(truth))[late - 1 :]
        assert later == list(reader.frames(path))[late - 1 :]  # and at the same times
    assert reader.probe(path).frame_count == len(truth)
    for index in (0, len(truth) // 2, len(truth) - 5, len(truth) - 1):
        assert indices_and_pixels([reader.seek(path, index)]) == [(index, truth[index])]


def test_unreadable_images_are_passed_over_named_and_counted(tmp_path, caplog):
    for index in range(6):
        Image.fromarray(picture(index)).save(tmp_path / f"{index}.png")
    (tmp_path / "0.png").write_bytes(b"no image")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:-60])
    (tmp_path / "7.png").symlink_to("7.png")
    expected = [(1, 1), (3, 3), (4, 4), (5, 5)]
    assert indices_and_pixels(reader.frames(tmp_path)) == expected
    assert f"{tmp_path}: 3 of 7 images cannot be read" in caplog.text
    assert "0.png" in caplog.text
    assert indices_and_pixels(reader.keyframes(tmp_path)) == expected
    assert indices_and_pixels(reader.backward(tmp_path, 6)) == expected[::-1]
    for refused in (
        lambda: reader.seek(tmp_path, 2),
        lambda: list(reader.frames_at(tmp_path, [2])),
    ):
        with pytest.raises(VideoError, match="2.png"):
            refused()


def test_a_folder_of_unreadable_images_is_an_error(tmp_path):
    for index in range(2):
        Image.fromarray(picture(index)).save(tmp_path / f"{index}.png")
        (tmp_path / f"{index}.png").write_bytes((tmp_path / f"{index}.png").read_bytes()[:-60])
    with pytest.raises(VideoError, match="0.png"):
        list(reader.frames(tmp_path))


def test_image_names_that_are_not_utf8_are_read_but_no_such_clip_name(tmp_path):
    folder = tmp_path / "shots"
    folder.mkdir()
    Image.fromarray(picture(3)).save(folder / "a.png")
    (folder / "a.png").rename(os.fsdecode(os.fsencode(folder) + b"/a\xff.png"))
    assert reader.probe(folder).fingerprint
    assert indices_and_pixels(reader.frames(folder)) == [(0, 3)]
    named = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    folder.rename(named)
    with pytest.raises(VideoError, match="not UTF-8"):
        reader.probe(named)


def audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), "f4"), format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def no_pictures(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        container.start_encoding()


def make_two_sizes(path):
    path.mkdir()
    Image.new("RGB", (4, 4)).save(path / "a.png")
    Image.new("RGB", (5, 4)).save(path / "b.png")


BAD = {
    "missing.mp4": (lambda path: None, "no such file"),
    "empty.mp4": (lambda path: path.write_bytes(b""), "the file is empty"),
    "text.mp4": (lambda path: path.write_text("notes\n" * 99), "not a video"),
    "text.txt": (lambda path: path.write_text("notes\n" * 99), "no"),
    "noise.mp4": (lambda path: path.write_bytes(random.Random(1).randbytes(9999)), "no"),
    "audio.mp4": (audio_only, "no video in it, only audio"),
    "no pictures.mkv": (no_pictures, "no"),
    "no images": (lambda path: path.mkdir(), "a folder without images"),
    "two sizes": (make_two_sizes, "a.png is 4x4 and b.png is 5x4"),
    "text.png": (lambda path: path.write_text("notes"), "not an image"),
    "pipe.mp4": (os.mkfifo, "not a file"),
    "a file/clip.mp4": (lambda path: path.parent.write_text("x"), "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_path_that_is_not_a_video_is_one_clear_error(tmp_path, name):
    make, expected = BAD[name]
    path = tmp_path / name
    make(path)
    functions = (
        reader.probe,
        lambda path: list(reader.frames(path)),
        lambda path: list(reader.keyframes(path)),
        lambda path: reader.seek(path, 0),
        lambda path: list(reader.frames_at(path, [0])),
        lambda path: list(reader.backward(path, 0)),
    )
    for function in functions:
        with pytest.raises(VideoError) as error:
            function(path)
        message = str(error.value)
        assert expected in message and str(path) in message and "\n" not in message


def test_a_missing_file_names_the_nearest(tmp_path, clips):
    with pytest.raises(VideoError, match=r"did you mean 'varied.mp4'\?"):
        reader.probe(clips("varied.mp4").with_name("varid.mp4"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_one_clear_error(tmp_path, clips):
    path = Path(shutil.copy(clips("varied.mp4"), tmp_path))
    path.chmod(0)
    with pytest.raises(VideoError, match="Permission denied"):
        reader.probe(path)


@pytest.mark.parametrize("index", [-1, COUNT, 10**9])
def test_an_index_beyond_the_frames_says_how_many_there_are(index, clips):
    path = clips("varied.mp4")
    for function in (reader.seek, reader.backward, lambda path, n: reader.frames_at(path, [3, n])):
        with pytest.raises(VideoError, match=f"no frame {index}; it has 60 frames, 0 to 59"):
            function(path, index)


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"start": -1}, {"rate": 0}, {"rate": float("nan")}, {"start": 61}]
)
def test_invalid_arguments_are_refused_at_the_call(wrong, clips):
    with pytest.raises(VideoError):
        reader.frames(clips("varied.mp4"), **wrong)


@pytest.mark.parametrize("name", ["été – 夏.mp4", "take:1 of 2 %03d.mp4", " .mp4"])
def test_unusual_file_names_are_read_and_written(tmp_path, name, clips):
    path = Path(shutil.copy(clips("varied.mp4"), tmp_path / name))
    assert reader.probe(path).name == name
    assert indices_and_pixels([reader.seek(str(path), 7)]) == [(7, 7)]
    with VideoWriter(tmp_path / f"new {name}", 30, (64, 48)) as writer:
        writer.write(np.zeros((48, 64, 3), np.uint8))
    assert reader.probe(tmp_path / f"new {name}").frame_count == 1


# Prefetching


def decoders():
    return [t for t in threading.enumerate() if t.name == "annotate-prefetch"]


def test_the_prefetch_thread_ends_with_the_frames(clips):
    frames = reader.frames(clips("b-frames.mp4"))
    next(frames)
    assert len(decoders()) == 1
    frames.close()
    assert not decoders()
    assert len(list(reader.frames(clips("b-frames.mp4")))) == COUNT
    assert not decoders()
    with pytest.raises(ZeroDivisionError):
        for frame in reader.frames(clips("b-frames.mp4")):
            frame.index / 0
    del frame
    assert not decoders()


def test_prefetch_is_bounded_and_passes_errors_on():
    too_far = threading.Event()

    def source():
        for index in range(100):
            if index == 40:
                too_far.set()
            yield Frame("dock", index, Fraction(index), picture(index))
        raise BrokenVideo("broken", 100)

    frames = prefetch(source())
    first = list(islice(frames, 10))
    assert [f.index for f in first] == list(range(10))
    assert not too_far.wait(0.3)
    with pytest.raises(BrokenVideo, match="broken"):
        list(frames)
    assert too_far.is_set()


# Writing


def test_a_written_video_is_read_back(tmp_path):
    path = tmp_path / "out.mp4"
    colour = (200, 30, 60)
    with VideoWriter(path, Fraction(30000, 1001), (WIDTH, HEIGHT)) as writer:
        for index in range(12):
            image = picture(index)
            image[60:] = colour
            writer.write(image)
    frames = list(reader.frames(path))
    assert indices_and_pixels(frames) == [(n, n) for n in range(12)]
    assert frames[7].seconds == 7 * Fraction(1001, 30000)
    np.testing.assert_allclose(frames[3].image[70:90].mean((0, 1)), colour, atol=3)
    with av.open(str(path)) as container:
        stream = container.streams.video[0].codec_context
        assert (stream.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert (stream.colorspace, stream.color_range) == (1, 1)
    assert names(tmp_path) == ["out.mp4"]


def test_an_odd_size_is_made_even_by_repeating_the_edge(tmp_path):
    image = np.zeros((15, 17, 3), np.uint8)
    image[:, 16:], image[14:] = 255, 255
    with VideoWriter(tmp_path / "odd.mp4", 10, (17, 15)) as writer:
        writer.write(image)
    frame = reader.seek(tmp_path / "odd.mp4", 0)
    assert frame.size_wh == (18, 16)
    assert frame.image[15].mean() > 200 and frame.image[:, 17].mean() > 200


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        with VideoWriter(tmp_path / name, 30, (WIDTH, HEIGHT)) as writer:
            for index in range(9):
                writer.write(picture(index))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_an_error_keeps_the_existing_file(tmp_path):
    path = tmp_path / "out.mp4"
    path.write_bytes(b"before")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 30, (WIDTH, HEIGHT)) as writer:
        writer.write(picture(0))
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before"
    with pytest.raises(OutputError, match="no picture"), VideoWriter(path, 30, (64, 48)):
        pass
    with pytest.raises(OutputError, match="64x48"), VideoWriter(path, 30, (64, 48)) as writer:
        writer.write(picture(0))
    assert names(tmp_path) == ["out.mp4"] and path.read_bytes() == b"before"


@pytest.mark.parametrize("name", ["nowhere/out.mp4", "out.unknown", "full.mp4"])
def test_a_video_that_cannot_be_written_is_one_clear_error(tmp_path, name, monkeypatch):
    if name == "full.mp4":
        resource = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with (
            pytest.raises(OutputError, match="cannot be written"),
            VideoWriter(tmp_path / name, 30, (WIDTH, HEIGHT)) as writer,
        ):
            for _ in range(40):
                writer.write(np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), "u1"))
    finally:
        if name == "full.mp4":
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


# Imports, real clips, memory


def test_importing_the_reader_imports_nothing_heavy():
    probe = "import sys, annotate.video.reader; print(set(sys.modules) & {'PIL', 'cv2', 'pandas'})"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.shared
def test_the_gameplay_clips_have_the_frame_counts_of_their_ground_truth():
    folder = SHARED / "gameplay" / "dev"
    for name, count in {"easy": 245, "medium": 280, "hard": 270, "multishot": 384}.items():
        assert reader.probe(folder / f"{name}.mp4").frame_count == count
    path = folder / "multishot.mp4"
    whole = {frame.index: frame for frame in reader.frames(path)}
    for frame in reader.keyframes(path):
        np.testing.assert_array_equal(frame.image, whole[frame.index].image)
    for index in (0, 17, 200, 383):
        np.testing.assert_array_equal(reader.seek(path, index).image, whole[index].image)


def test_decoded_frames_are_freed_without_the_garbage_collector(tmp_path):
    """Otherwise about a hundred of them would stay in memory."""
    path = encode(tmp_path / "a.mp4")
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        assert len(list(reader.frames(path))) == COUNT
        gc.collect()
        assert not [obj for obj in gc.garbage if isinstance(obj, av.VideoFrame)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()

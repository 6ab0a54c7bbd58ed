"""Image files of several pictures are clips."""

from fractions import Fraction

import numpy as np
import pytest
from mutations import limits
from PIL import Image

from annotate.errors import BrokenVideo, VideoError
from annotate.video import reader

LEVELS = [0, 60, 120, 180, 240]
MILLISECONDS = [100, 50, 100, 200, 100]
LOSSLESS = {"duration": 100, "lossless": True}


def pictures():
    return [Image.fromarray(np.full((20, 30, 3), level, np.uint8)) for level in LEVELS]


def save(path, **options):
    first, *others = pictures()
    first.save(path, save_all=True, append_images=others, **options)


def levels(frames):
    return [(frame.index, frame.seconds, int(frame.image.mean())) for frame in frames]


@pytest.mark.parametrize("name", ["clip.webp", "clip.png", "clip.tiff"])
def test_several_pictures_are_a_clip(tmp_path, name):
    path = tmp_path / name
    save(path, **{} if name == "clip.tiff" else {"duration": MILLISECONDS, "lossless": True})
    steps = [1000] * 5 if name == "clip.tiff" else MILLISECONDS
    starts = [Fraction(sum(steps[:n]), 1000) for n in range(5)]
    expected = list(zip(range(5), starts, LEVELS, strict=True))
    video = reader.probe(path)
    assert (video.frame_count, video.width, video.height) == (5, 30, 20)
    assert (video.duration_seconds, video.variable_rate) == (
        Fraction(sum(steps), 1000),
        len({*steps}) > 1,
    )
    assert levels(reader.frames(path)) == expected
    assert levels(reader.frames(path, start=2, stop=4)) == expected[2:4]
    assert levels(reader.frames_at(path, [3, 1])) == [expected[1], expected[3]]
    assert levels(reader.backward(path, 4)) == expected[::-1]
    assert levels(reader.keyframes(path)) == expected
    assert levels([reader.seek(path, 3)]) == expected[3:4]


def test_the_still_image_of_an_animated_png_is_not_a_frame(tmp_path):
    Image.new("RGB", (30, 20)).save(
        tmp_path / "a.png", save_all=True, append_images=pictures(), default_image=True
    )
    assert [level for _, _, level in levels(reader.frames(tmp_path / "a.png"))] == LEVELS


def test_a_reduced_copy_in_a_tiff_is_not_a_frame(tmp_path):
    first, second, *_ = pictures()
    small = second.resize((15, 10))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "a.tiff", save_all=True, append_images=[small])
    assert reader.probe(tmp_path / "a.tiff").frame_count == 1


@pytest.mark.parametrize("share", [0.4, 0.6, 0.97])
@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.tiff"])
def test_a_cut_animation_gives_its_pictures_and_says_so(tmp_path, name, share):
    noise = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8)
    first, *others = map(Image.fromarray, noise)
    path = tmp_path / name
    first.save(path, save_all=True, append_images=others, **{} if "tiff" in name else LOSSLESS)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert reader.probe(path).frame_count < 6
    read = []
    with pytest.raises(BrokenVideo, match=r"cut short .* the \d pictures before it can be used"):
        for frame in reader.frames(path):
            read.append(frame.image)
    assert int(5 * share) - 1 <= len(read) < 5 and read
    assert (np.array(read) == noise[: len(read)]).all()


def test_a_webp_cut_in_its_first_picture_is_refused(tmp_path):
    path = tmp_path / "a.webp"
    save(path, **LOSSLESS)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(VideoError, match="not an image that can be read"):
        reader.probe(path)


def test_frames_of_a_cut_animation_are_kept_by_the_command(tmp_path, annotate):
    path = tmp_path / "a.webp"
    save(path, **LOSSLESS)
    path.write_bytes(path.read_bytes()[:-5])
    _, _, err = annotate("frames", path, "-o", "out", "--every", 1, "--everything")
    assert len([*(tmp_path / "out").rglob("a-*.*")]) == 4 and "cut short" in err


def test_an_animation_in_a_folder_is_named(tmp_path, caplog):
    save(tmp_path / "a.png")
    assert reader.probe(tmp_path).frame_count == 1
    assert "a.png: it holds several pictures" in caplog.text


def test_a_chunk_of_an_impossible_length_is_refused(tmp_path):
    path = tmp_path / "a.png"
    save(path, duration=MILLISECONDS)
    data = bytearray(path.read_bytes())
    start = data.index(b"IDAT")
    data[start - 4 : start] = (2**31 - 16).to_bytes(4, "big")
    path.write_bytes(data)
    with limits(), pytest.raises(VideoError, match="not an image that can be read"):
        reader.probe(path)

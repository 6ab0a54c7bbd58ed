import numpy as np
import pytest
from map_fixtures import GREY, ColourEmbedder, gather_clips, write_clip
from PIL import Image

from annotate import embeddings
from annotate.dataset import frame_sources
from annotate.dataset.export import import_dataset
from annotate.dataset.yolo import YoloFormat
from annotate.errors import ItemsError, VideoError
from annotate.footage_map import atlas, poster
from annotate.video.reader import FrameSelection


def test_frames_are_embedded_clip_by_clip_and_given_to_the_callback(map_clips):
    frames = []
    vectors = gather_clips(map_clips, 4, frames.append)
    assert len(vectors) == len(frames) == 18
    assert [(f.video, f.index) for f in frames[:7]] == [
        *(("one.mp4", n) for n in range(0, 24, 4)),
        ("two.mp4", 0),
    ]
    rows = np.concatenate(list(vectors.vector_batches()))
    np.testing.assert_allclose(
        rows, embeddings.embed([f.image for f in frames], ColourEmbedder()), atol=1e-3
    )


def test_a_truncated_clip_is_used_up_to_the_damage(demo, map_clips, tmp_path):
    data = demo.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    vectors = gather_clips([tmp_path / "cut.mp4", map_clips[0]])
    [message] = vectors.decode_errors
    assert "cut short at frame" in message and "cut.mp4" in message
    used = vectors.frame_index.index(0, 1)  # where the second clip begins
    assert 0 < used < 140 and vectors.frame_index[:used] == list(range(used))


def test_an_unreadable_image_of_a_folder_is_passed_over(map_clips, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 48), (number * 40, 0, 0)).save(images / f"{number}.png")
    data = (images / "4.png").read_bytes()
    (images / "4.png").write_bytes(data[: len(data) - 30])
    vectors = gather_clips([images, map_clips[0]])
    assert vectors.frame_index[:6] == [0, 1, 2, 3, 5, 0]
    assert not vectors.decode_errors


def test_two_clips_of_the_same_name_are_refused(map_clips, tmp_path):
    (tmp_path / "other").mkdir()
    twin = write_clip(tmp_path / "other" / "one.mp4", [GREY])
    with pytest.raises(VideoError, match="two clips are called one.mp4"):
        gather_clips([map_clips[0], twin])


def test_a_saved_map_reads_back_unchanged(map_clips, tmp_path):
    sources = [frame_sources.open_source(c, FrameSelection(3)) for c in map_clips]
    vectors = atlas.gather(sources, ColourEmbedder())
    layout = atlas.lay_out(vectors, sources, "pca", {"every": 3}, 0)
    layout.save(tmp_path)
    again = atlas.read(tmp_path)
    np.testing.assert_allclose(again.xy, layout.xy, atol=1e-6)
    assert again.seconds == layout.seconds and again.clip_names == [
        "one.mp4",
        "two.mp4",
        "three.mp4",
    ]
    (tmp_path / "map.json").write_text("{}")
    with pytest.raises(ItemsError, match="damaged"):
        atlas.read(tmp_path)
    with pytest.raises(ItemsError, match="annotate map"):
        atlas.read(tmp_path / "nowhere")


def imported(folder, levels):
    """Import a folder `shots` of images, which the path does not tell from others."""
    (folder / "shots" / "images").mkdir(parents=True)
    for number, level in enumerate(levels):
        image = Image.new("RGB", (64, 48), (level, 99, 9))
        image.save(folder / "shots" / "images" / f"{number}.png")
        (folder / "shots" / "images" / f"{number}.txt").write_text("")
    (folder / "shots" / "data.yaml").write_text("names: [cat]\ntrain: images\n")
    return import_dataset(folder / "shots", YoloFormat(), folder / "data").path


def test_two_imports_of_one_folder_name_share_a_map(tmp_path):
    paths = [imported(tmp_path / "a", [10, 200]), imported(tmp_path / "b", [100, 30])]
    sources = atlas.open_sources(paths)
    frames = []
    vectors = atlas.gather(sources, ColourEmbedder(), frames.append)
    names = [*vectors.clips]
    assert len({*names}) == 2 and all(name.startswith("shots-") for name in names)
    assert [(frame.video, frame.index) for frame in frames] == [
        (n, i) for n in names for i in (0, 1)
    ]
    layout = atlas.lay_out(vectors, sources, "pca", {}, 0)
    levels = [int(frame.image[0, 0, 0]) for _, frame in poster.read_frames(layout, range(4))]
    assert levels == [10, 200, 100, 30]
    with pytest.raises(VideoError, match="two clips are called"):
        atlas.gather(atlas.open_sources([paths[0], paths[0]]), ColourEmbedder())

"""The map of footage: what is alike is near, and a person can choose from it in a browser."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from annotate import embeddings
from annotate.dataset import frame_sources
from annotate.errors import AnnotateError, ItemsError, OutputError, UnknownName, VideoError
from annotate.footage_map import atlas, poster, similarity
from annotate.items import journal, records
from annotate.items.records import Item
from annotate.video import reader
from annotate.video.reader import FrameSelection
from annotate.video.writer import VideoWriter


class Colours:
    """A network that sees the mean colour of each third of a picture."""

    name, width = "colours", 9

    def encode(self, pictures):
        thirds = [np.array_split(picture, 3, axis=1) for picture in pictures]
        return np.array([[t.mean((0, 1)) for t in each] for each in thirds]).reshape(-1, 9) + 1


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


def gathered(clips, every=1, look=lambda _: None):
    return atlas.gather(
        [frame_sources.open_source(c, FrameSelection(every)) for c in clips], Colours(), look
    )


# --- gathering


def test_frames_are_gathered_clip_by_clip_and_shown(clips):
    seen = []
    found = gathered(clips, 4, seen.append)
    assert len(found) == len(seen) == 18
    assert [(f.video, f.index) for f in seen[:7]] == [
        *(("one.mp4", n) for n in range(0, 24, 4)),
        ("two.mp4", 0),
    ]
    rows = np.concatenate(list(found.vector_batches()))
    np.testing.assert_allclose(
        rows, embeddings.embed([f.image for f in seen], Colours()), atol=1e-3
    )


def test_a_clip_that_breaks_off_is_used_up_to_there(clips, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        Image.new("RGB", (64, 48), (number * 40, 0, 0)).save(images / f"{number}.png")
    data = (images / "4.png").read_bytes()
    (images / "4.png").write_bytes(data[: len(data) - 30])
    found = gathered([images, clips[0]])
    assert found.frame_index[:5] == [0, 1, 2, 3, 0]
    assert "4.png" in found.decode_errors[0]


def test_two_clips_of_one_name_are_refused(clips, tmp_path):
    (tmp_path / "other").mkdir()
    twin = clip(tmp_path / "other" / "one.mp4", [GREY])
    with pytest.raises(VideoError, match="two clips are called one.mp4"):
        gathered([clips[0], twin])


def test_a_map_reads_back_as_it_was_written(clips, tmp_path):
    sources = [frame_sources.open_source(c, FrameSelection(3)) for c in clips]
    found = atlas.gather(sources, Colours())
    made = atlas.lay_out(found, sources, "pca", {"every": 3}, 0)
    made.save(tmp_path)
    again = atlas.read(tmp_path)
    np.testing.assert_allclose(again.xy, made.xy, atol=1e-6)
    assert again.seconds == made.seconds and again.clip_names == ["one.mp4", "two.mp4", "three.mp4"]
    (tmp_path / "map.json").write_text("{}")
    with pytest.raises(ItemsError, match="damaged"):
        atlas.read(tmp_path)
    with pytest.raises(ItemsError, match="annotate map"):
        atlas.read(tmp_path / "nowhere")


# --- posters and paths


def grid_atlas(clips):
    """The 24 frames of a clip on a 6 x 4 grid: row n at column n % 6."""
    sources = [frame_sources.open_source(clips[0], FrameSelection())]
    found = atlas.gather(sources, Colours())
    rows = np.arange(24)
    xy = np.column_stack([(rows % 6 + 0.5) / 6, (rows // 6 + 0.5) / 4])
    made = atlas.lay_out(found, sources, "pca", {}, 0)
    return dataclasses.replace(made, xy=xy)


def test_tiles_show_the_frames_that_lie_there_each_once(clips):
    made = grid_atlas(clips)
    shown = poster.choose_tiles(made, poster.MapRegion(0, 0, 1), 4)
    assert (shown >= 0).all() and len(set(shown.flat)) == 16
    apart = made.xy[shown.ravel()].reshape(4, 4, 2)
    centres = (np.arange(4) + 0.5) / 4
    assert np.abs(apart[..., 0] - centres[None, :]).max() < 0.17
    assert np.abs(apart[..., 1] - centres[:, None]).max() < 0.13


def test_tiles_far_from_every_frame_are_filled_too(clips):
    made = grid_atlas(clips)
    crowded = dataclasses.replace(made, xy=made.xy / 50)
    shown = poster.choose_tiles(crowded, poster.MapRegion(), 4)
    assert (shown >= 0).all() and len(set(shown.flat)) == 16


def test_a_window_shows_a_part_and_the_rest_stays_dark(clips):
    made = grid_atlas(clips)
    shown = poster.choose_tiles(made, poster.MapRegion(0.5, 0.5, 0.5), 3)
    assert sorted(shown[shown >= 0]) == [15, 16, 17, 21, 22, 23]
    with pytest.raises(AnnotateError, match="no frame lies"):
        poster.choose_tiles(made, poster.MapRegion(0.0, 0.0, 0.01))
    with pytest.raises(AnnotateError, match="a region of the map has"):
        poster.MapRegion(0.2, 0.2, 3)


def test_a_poster_is_drawn_from_the_frames_themselves(clips, tmp_path):
    made = grid_atlas(clips)
    shown = poster.choose_tiles(made, poster.MapRegion(), 4)
    poster.draw_poster(made, shown, 64, tmp_path / "poster.png")
    with Image.open(tmp_path / "poster.png") as image:
        drawn = np.asarray(image)
    assert drawn.shape == (4 * 48, 4 * 64, 3)
    for frame in reader.frames_at(clips[0], shown.ravel().tolist()):
        down, across = np.argwhere(shown == frame.index)[0] * (48, 64)
        np.testing.assert_array_equal(drawn[down:, across:][:48, :64], frame.image)
    with pytest.raises(OutputError, match="too many"):
        poster.draw_poster(made, shown, 32_000, tmp_path / "large.png")
    with pytest.raises(OutputError, match="a poster is"):
        poster.draw_poster(made, shown, 64, tmp_path / "poster.gif")


def test_a_path_runs_from_blue_to_red_through_its_frames(clips):
    made = grid_atlas(clips)
    picture = poster.draw_path(made, "one.mp4", 320)
    assert picture.shape == (240, 320, 3)
    first, last = (
        (8 + made.xy[n] * (np.array([320, 240]) - 17)).round().astype(int) for n in (0, 23)
    )
    assert picture[first[1], first[0]].tolist() == pytest.approx([90, 160, 255], abs=8)
    assert picture[last[1], last[0]].tolist() == pytest.approx([255, 120, 80], abs=8)


# --- likeness


def test_the_clip_that_has_the_same_shot_is_the_most_like(clips, tmp_path):
    query = clip(tmp_path / "query.mp4", [RED])
    found = gathered([query, *clips])
    for way in similarity.SIMILARITY_METHODS:
        best, *_, last = similarity.similar_clips(found, "query.mp4", 3, way)
        assert best.clip in ("one.mp4", "two.mp4")
        assert best.similarity > 0.9 > last.similarity
        assert last.clip == "three.mp4"
    found_in = {each.clip: each for each in similarity.similar_clips(found, "query.mp4", 3, "dtw")}
    assert (found_in["one.mp4"].start_seconds, found_in["one.mp4"].stop_seconds) < (0.5, 1.2)
    assert found_in["two.mp4"].start_seconds == pytest.approx(1.2, abs=0.2)
    with pytest.raises(UnknownName, match="dtw"):
        similarity.similar_clips(found, "query.mp4", 3, "warp")


def test_warping_is_that_of_the_textbook():
    rng = np.random.default_rng(2)
    query, other = (embeddings.normalize_rows(rng.normal(size=(n, 5))) for n in (6, 11))
    cost = 1 - query @ other.T
    total = np.full(cost.shape, np.inf)
    total[0] = cost[0]
    for i in range(1, 6):
        for j in range(11):
            ways = [total[i - 1, j], *([total[i - 1, j - 1], total[i, j - 1]] if j else [])]
            total[i, j] = cost[i, j] + min(ways)
    likeness, start, stop = similarity.dtw_alignment(query, other)
    assert stop - 1 == total[-1].argmin() and 0 <= start < stop
    assert likeness == pytest.approx(1 - total[-1].min() / max(6, stop - start))
    again = similarity.dtw_alignment(other[3:8], other)
    assert again == (pytest.approx(1), 3, 8)


def test_few_clips_stand_for_many(clips, tmp_path):
    twins = [clip(tmp_path / f"twin{n}.mp4", [RED, GREEN]) for n in range(3)]
    told = similarity.diverse_clips(gathered([*twins, *clips]), 3)
    names = [name for name, _ in told]
    assert sum(name.startswith(("twin", "one")) for name in names) == 1
    assert np.isnan(told[0][1]) and told[1][1] >= told[2][1] > 0


def test_a_dataset_can_be_mapped(clips, annotate, tmp_path):
    found = frame_sources.open_source(clips[0], FrameSelection(4))
    header = records.Header("detect", vocabulary={"labels": ["mug"]}, videos=found.videos())
    journal.write(tmp_path / "items.jsonl", header, map(_bare, found.frames()))
    assert annotate("build", "items.jsonl", "-o", "dataset")[0] == 0
    code, _, err = annotate("map", "dataset", "-o", "map", "--method", "pca")
    assert code == 0, err
    assert atlas.read(tmp_path / "map").frame_index.tolist() == [0, 4, 8, 12, 16, 20]


def _bare(frame):
    return Item(frame.video, frame.index, frame.seconds, *frame.size_wh)


def test_commands_answer_in_tables(clips, annotate):
    code, out, err = annotate("similar", clips[0], *clips, "--every", 2, "--max-clips", 1)
    assert code == 0, err
    assert out.splitlines()[1].startswith("two.mp4\t")
    code, out, _ = annotate("unlike", *clips, "--every", 2, "--max-clips", 2)
    assert code == 0 and len(out.splitlines()) == 3


def test_a_map_is_not_written_over(clips, annotate):
    assert annotate("map", clips[0], "-o", "map", "--every", 6, "--method", "pca")[0] == 0
    code, _, err = annotate("map", clips[0], "-o", "map", "--every", 6, "--method", "pca")
    assert code == 1 and "already there" in err
    code, _, err = annotate("map", clips[0], "-o", "other", "--method", "tsne")
    assert code == 1 and "pacmap" in err

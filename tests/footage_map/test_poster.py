import dataclasses

import numpy as np
import pytest
from map_fixtures import ColourEmbedder
from PIL import Image

from annotate.dataset import frame_sources
from annotate.errors import AnnotateError, OutputError
from annotate.footage_map import atlas, poster
from annotate.video import reader
from annotate.video.reader import FrameSelection


def grid_atlas(map_clips):
    """The 24 frames of a clip on a 6 x 4 grid: row n at column n % 6."""
    sources = [frame_sources.open_source(map_clips[0], FrameSelection())]
    vectors = atlas.gather(sources, ColourEmbedder())
    rows = np.arange(24)
    xy = np.column_stack([(rows % 6 + 0.5) / 6, (rows // 6 + 0.5) / 4])
    layout = atlas.lay_out(vectors, sources, "pca", {}, 0)
    return dataclasses.replace(layout, xy=xy)


def test_each_tile_shows_a_frame_near_its_position_and_no_frame_twice(map_clips):
    layout = grid_atlas(map_clips)
    tiles = poster.choose_tiles(layout, poster.MapRegion(0, 0, 1), 4)
    assert (tiles >= 0).all() and len(set(tiles.flat)) == 16
    positions = layout.xy[tiles.ravel()].reshape(4, 4, 2)
    centres = (np.arange(4) + 0.5) / 4
    assert np.abs(positions[..., 0] - centres[None, :]).max() < 0.17
    assert np.abs(positions[..., 1] - centres[:, None]).max() < 0.13


def test_tiles_far_from_every_frame_are_filled(map_clips):
    layout = grid_atlas(map_clips)
    crowded = dataclasses.replace(layout, xy=layout.xy / 50)
    tiles = poster.choose_tiles(crowded, poster.MapRegion(), 4)
    assert (tiles >= 0).all() and len(set(tiles.flat)) == 16


def test_a_region_shows_only_its_frames_and_leaves_the_rest_empty(map_clips):
    layout = grid_atlas(map_clips)
    tiles = poster.choose_tiles(layout, poster.MapRegion(0.5, 0.5, 0.5), 3)
    assert sorted(tiles[tiles >= 0]) == [15, 16, 17, 21, 22, 23]
    with pytest.raises(AnnotateError, match="no frame lies"):
        poster.choose_tiles(layout, poster.MapRegion(0.0, 0.0, 0.01))
    with pytest.raises(AnnotateError, match="a region of the map has"):
        poster.MapRegion(0.2, 0.2, 3)


def test_tiles_have_the_exact_pixels_of_their_frames(map_clips, tmp_path):
    layout = grid_atlas(map_clips)
    tiles = poster.choose_tiles(layout, poster.MapRegion(), 4)
    poster.draw_poster(layout, tiles, 64, tmp_path / "poster.png")
    with Image.open(tmp_path / "poster.png") as image:
        pixels = np.asarray(image)
    assert pixels.shape == (4 * 48, 4 * 64, 3)
    for frame in reader.frames_at(map_clips[0], tiles.ravel().tolist()):
        down, across = np.argwhere(tiles == frame.index)[0] * (48, 64)
        np.testing.assert_array_equal(pixels[down:, across:][:48, :64], frame.image)
    with pytest.raises(OutputError, match="too many"):
        poster.draw_poster(layout, tiles, 32_000, tmp_path / "large.png")
    with pytest.raises(OutputError, match="a poster is"):
        poster.draw_poster(layout, tiles, 64, tmp_path / "poster.gif")


def test_a_path_runs_from_blue_to_red_through_its_frames(map_clips):
    layout = grid_atlas(map_clips)
    picture = poster.draw_path(layout, "one.mp4", 320)
    assert picture.shape == (240, 320, 3)
    first, last = (
        (8 + layout.xy[n] * (np.array([320, 240]) - 17)).round().astype(int) for n in (0, 23)
    )
    assert picture[first[1], first[0]].tolist() == pytest.approx([90, 160, 255], abs=8)
    assert picture[last[1], last[0]].tolist() == pytest.approx([255, 120, 80], abs=8)

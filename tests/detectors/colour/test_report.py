import tomllib
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from annotate.detectors.colour import report as colour_report
from annotate.detectors.colour.ranges import in_ranges, read_colour_specs
from annotate.errors import OutputError, PromptError
from annotate.items.records import Frame, Vocabulary

BOX = (20, 10, 60, 50)


def frame(colour=(230, 20, 40), index=7):
    """A noisy brown frame; in BOX a disc of the colour, noisy too."""
    noise = np.random.default_rng(index).integers(-12, 13, (80, 100, 3))
    image = np.full((80, 100, 3), (110, 80, 50))
    y, x = np.mgrid[:80, :100]
    image[(x - 40) ** 2 + (y - 30) ** 2 < 15**2] = colour
    return Frame("dock.mp4", index, Fraction(0), np.clip(image + noise, 0, 255).astype(np.uint8))


def entry_of(report):
    return Vocabulary("new.v1", tomllib.loads(report.toml_entry)["classes"], "")


@pytest.mark.parametrize(
    "colour", [(230, 20, 40), (230, 40, 20), (30, 60, 220), (20, 200, 190), (235, 235, 235)]
)
def test_the_entry_matches_the_object_and_not_its_surroundings(colour):
    shown = frame(colour)
    report = colour_report.compare_frames([shown], [(7, BOX)], "mug")
    [spec] = read_colour_specs(entry_of(report)).values()
    kept = in_ranges(shown.image, spec.ranges)
    y, x = np.mgrid[:80, :100]
    disc = (x - 40) ** 2 + (y - 30) ** 2 < 15**2
    assert kept[disc].mean() > 0.8
    if max(colour) - min(colour) > 50:  # white differs in its brightness only
        assert kept[~disc].mean() < 0.02
    assert spec.side_px[0] <= 30 <= spec.side_px[1] and spec.aspect[0] < 1 < spec.aspect[1]


def test_percentiles_are_given_inside_and_outside():
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, 10:] = np.arange(100, dtype=np.uint8).reshape(10, 10, 1)
    flat = Frame("dock.mp4", 0, Fraction(0), image)
    report = colour_report.compare_frames([flat], [(0, (10, 0, 20, 10))], "ramp")
    table = {row[:2]: row[2:] for row in report.rows}
    assert table["green", "inside"] == ("4", "24", "49", "74", "94")
    assert table["green", "outside"] == ("0",) * 5
    assert table["value", "inside"][2] == "0.19"
    assert len(report.columns) == len(report.rows[0])


def test_percentiles_of_red_hues_do_not_wrap():
    report = colour_report.compare_frames(
        [frame((230, 20, 40)), frame((230, 40, 20), 8)], [(7, BOX), (8, BOX)], "mug"
    )
    low, high = report.rows[6][2], report.rows[6][4]
    assert report.rows[6][:2] == ("hue_degrees", "inside")
    assert float(low) > 330 and float(high) < 30


@pytest.mark.parametrize("label", ["mug", "red-mug_2", "rote Tasse", 'the "mug"', "ñandú"])
def test_the_entry_of_any_label_is_valid_toml(label):
    report = colour_report.compare_frames([frame()], [(7, BOX)], label)
    assert entry_of(report).labels == (label,)


def test_the_plot_is_a_png_and_is_repeatable(tmp_path):
    report = colour_report.compare_frames([frame()], [(7, BOX)], "mug")
    colour_report.plot(report, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as plot:
        assert plot.size[0] > 800 and len(plot.convert("RGB").getcolors(1 << 20)) > 20
    first = (tmp_path / "a.png").read_bytes()
    with pytest.raises(OutputError, match="already there"):
        colour_report.plot(report, tmp_path / "a.png")
    colour_report.plot(report, tmp_path / "a.png", force=True)
    assert (tmp_path / "a.png").read_bytes() == first
    assert [path.name for path in tmp_path.glob("a*")] == ["a.png"]


def test_a_plot_needs_a_png_and_an_existing_folder(tmp_path):
    report = colour_report.compare_frames([frame()], [(7, BOX)], "mug")
    with pytest.raises(OutputError, match=r"ends in \.png"):
        colour_report.plot(report, tmp_path / "a.jpg")
    with pytest.raises(OutputError, match="cannot write there"):
        colour_report.plot(report, tmp_path / "none" / "a.png")


def test_boxes_without_pixels_are_refused():
    with pytest.raises(PromptError, match="no boxes"):
        colour_report.compare_frames([frame()], [], "mug")
    with pytest.raises(PromptError, match="frame 7: no pixel is inside"):
        colour_report.compare_frames([frame()], [(7, (200, 10, 210, 20))], "mug")


def test_a_clip_is_compared_on_the_frames_of_its_boxes(demo):
    report = colour_report.compare_clip(demo, [(0, (100, 100, 200, 220)), (35, BOX)], "target")
    assert report.inside["red"].sum() == 100 * 120 + 40 * 40
    assert report.outside["red"].sum() == 2 * 800 * 600 - report.inside["red"].sum()

"""Draw the boxes, masks, labels, scores and tracks of an item on its image.

Labels are placed near their boxes, inside the image and on no other label, where there is room.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, product
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image, ImageFont

from annotate.errors import ItemsError
from annotate.items.detections import item_to_detections
from annotate.items.records import Box, Item, Object, Picture
from annotate.palette import Colour, label_colour

_OPACITY = 0.4
_SMALL_PICTURE = 400  # pixels; below it two pixels of line hide what they surround
_LOST_COLOUR = Colour(70, 74, 84)
_COLOUR_BY_INDEX = sv.ColorLookup.INDEX  # each object has a colour of its own
_MIN_TEXT_HEIGHT = 11  # pixels; below it letters cannot be read


def font_file() -> Path:
    """A font that comes with a package we need: no system's font, and not only ASCII."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font for all text on pictures, `size` pixels high."""
    return ImageFont.truetype(str(font_file()), size)


def text_height(size_wh: tuple[int, int]) -> int:
    """How high text should be on a picture of that size, in pixels."""
    return max(_MIN_TEXT_HEIGHT, round(22 * sv.calculate_optimal_text_scale(size_wh)))


def line_width(size_wh: tuple[int, int]) -> int:
    """How thick lines should be on a picture of that size, in pixels."""
    return 1 if min(size_wh) < _SMALL_PICTURE else sv.calculate_optimal_line_thickness(size_wh)


def draw_item(image: Picture, item: Item, labels: Sequence[str]) -> Picture:
    """A copy of the picture with the item's boxes, masks, labels, scores and tracks on it.

    `image` is RGB, (H, W, 3), and so is the copy. `labels` are all classes: they give the colours.

    Raises:
        ItemsError: the picture's size is not the item's.
        DatasetError: an object's label is not among `labels`.
    """
    _check_size(image, item)
    found, colours = _detections_and_colours(item, labels)
    scene = _paint_masks(np.array(image, np.uint8), found, colours, item)
    scene = _paint_boxes(scene, found, colours, item)
    return np.array(_paint_labels(Image.fromarray(scene), item, colours), np.uint8)


def draw_masks(image: Picture, item: Item, labels: Sequence[str]) -> Picture:
    """A copy of the picture with the item's masks on it, and nothing else; see `annotated`."""
    _check_size(image, item)
    return _paint_masks(np.array(image, np.uint8), *_detections_and_colours(item, labels), item)


def _check_size(image: Picture, item: Item) -> None:
    height, width = image.shape[:2]
    if (width, height) != (item.width, item.height):
        raise ItemsError(
            f"{item.video}#{item.frame}: an item for pictures of {item.width}x{item.height}, but "
            f"this one is {width}x{height}: is it of another clip?"
        )


def _detections_and_colours(
    item: Item, labels: Sequence[str]
) -> tuple[sv.Detections, list[Colour]]:
    found = item_to_detections(item, labels)
    return found, [label_colour(thing.label, labels, thing.track) for thing in item.objects]


def _paint_masks(
    scene: Picture, detections: sv.Detections, colours: Sequence[Colour], item: Item
) -> Picture:
    """Masks in place; an object that has none of its own is left as it is."""
    rows = [row for row, thing in enumerate(item.objects) if thing.mask is not None]
    if not rows:
        return scene
    some, look = _select_rows(detections, rows), _bgr_palette(colours, rows)
    scene = sv.MaskAnnotator(look, _OPACITY, _COLOUR_BY_INDEX).annotate(scene, some)
    thickness = line_width((item.width, item.height))
    return sv.PolygonAnnotator(look, thickness, _COLOUR_BY_INDEX).annotate(scene, some)


def _paint_boxes(
    scene: Picture, detections: sv.Detections, colours: Sequence[Colour], item: Item
) -> Picture:
    """Boxes in place; round a mask they are thin."""
    for masked, width in ((True, 1), (False, line_width((item.width, item.height)))):
        rows = [row for row, t in enumerate(item.objects) if (t.mask is not None) == masked]
        if rows:
            annotator = sv.BoxAnnotator(_bgr_palette(colours, rows), width, _COLOUR_BY_INDEX)
            scene = annotator.annotate(scene, _select_rows(detections, rows))
    return scene


def _bgr_palette(colours: Sequence[Colour], rows: Sequence[int]) -> sv.ColorPalette:
    """For annotators that write blue, green, red: on our RGB they are told red for blue."""
    return _to_palette([Colour(*reversed(colours[row])) for row in rows])


def _select_rows(detections: sv.Detections, rows: list[int]) -> sv.Detections:
    some = detections[np.array(rows)]
    assert isinstance(some, sv.Detections)
    return some


def _to_palette(colours: Sequence[Colour]) -> sv.ColorPalette:
    return sv.ColorPalette([sv.Color(*colour) for colour in colours])


def caption(obj: Object) -> str:
    """What is written beside an object: its class, track and score, as far as it has them."""
    track = "" if obj.track is None else f" #{obj.track}"
    return f"{obj.label}{track}" + ("" if obj.score is None else f" {obj.score:.2f}")


def _paint_labels(picture: Image.Image, item: Item, colours: Sequence[Colour]) -> Image.Image:
    """Write what each object is beside it, and in the corner which tracks are lost."""
    height, width = item.height, item.width
    size = text_height((width, height))
    texts = [caption(thing) for thing in item.objects]
    homes = [thing.box for thing in item.objects]
    if item.lost:
        texts.insert(0, "lost " + ", ".join(f"#{track}" for track in item.lost))
        x, y = size // 2, height - size // 2
        homes.insert(0, (x, y, x, y))
        colours = [_LOST_COLOUR, *colours]
    if not texts:
        return picture
    padding = max(2, size // 4)
    spots = place_labels(
        homes, [_label_size_wh(text, size, padding) for text in texts], (width, height)
    )
    writer = sv.RichLabelAnnotator(
        color=_to_palette(colours),
        text_color=_to_palette([colour.text_colour for colour in colours]),
        color_lookup=_COLOUR_BY_INDEX,
        font_path=str(font_file()),
        font_size=size,
        text_padding=padding,
        text_position=sv.Position.BOTTOM_LEFT,  # the text hangs from the bottom of a flat box
        border_radius=padding,
    )
    flat = np.array([(x, y, x, y) for x, y in spots], float)
    done: Image.Image = writer.annotate(picture, sv.Detections(xyxy=flat), labels=texts)
    return done


def _label_size_wh(text: str, size: int, padding: int) -> tuple[int, int]:
    """Width and height of a text with its padding, in pixels, its last row and column included."""
    left, top, right, bottom = font(size).getbbox(text)
    return int(right - left) + 2 * padding + 1, int(bottom - top) + 2 * padding + 1


def place_labels(
    anchor_boxes: Sequence[Box], label_sizes_wh: Sequence[tuple[int, int]], size_wh: tuple[int, int]
) -> list[tuple[int, int]]:
    """Where each text goes, as its top left corner: near its box, in the picture, on no other text.

    Where there is no room left, a text stays at home.
    """
    taken: list[Box] = []
    for home, extent in zip(anchor_boxes, label_sizes_wh, strict=True):
        spots = _label_positions(home, extent, size_wh)
        first = next(spots)
        free = (
            s for s in chain([first], spots) if not any(_boxes_overlap(s, other) for other in taken)
        )
        taken.append(next(free, first))
    return [(int(x), int(y)) for x, y, _, _ in taken]


def _label_positions(
    anchor_box: Box, label_size_wh: tuple[int, int], size_wh: tuple[int, int]
) -> Iterator[Box]:
    """Places for a text, best first: above its box, below, inside it, further away, anywhere."""
    (x1, y1, x2, y2), (width, height) = anchor_box, label_size_wh
    most_x, most_y = (
        max(0, whole - own) for whole, own in zip(size_wh, label_size_wh, strict=True)
    )
    above, below = y1 - height, y2 + 1
    further = (row for n in range(height, size_wh[1], height) for row in (above - n, below + n))
    for row in chain((above, below, y1), further):
        for column in (x1, x2 - width, x1 - width, x2 + 1):
            x, y = min(max(round(column), 0), most_x), min(max(round(row), 0), most_y)
            yield x, y, x + width, y + height
    grid = product(range(0, most_x + 1, width), range(0, most_y + 1, height))
    for x, y in sorted(grid, key=lambda spot: (spot[0] - x1) ** 2 + (spot[1] - y1) ** 2):
        yield x, y, x + width, y + height


def _boxes_overlap(first: Box, second: Box) -> bool:
    """Whether two boxes share a pixel."""
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )

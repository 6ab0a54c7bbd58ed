"""Draw the boxes, masks, labels, scores and tracks of an item on its image.

Labels are placed near their boxes, inside the image and on no other label, where there is room.
The placement is our own: `sv.RichLabelAnnotator(smart_position=True)` pushes labels apart, then
moves them back into the image, where it left labels on one another for 5 of 200 random frames.
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
_SMALL_IMAGE = 400  # pixels of the shorter side; below it lines are one pixel wide
_LOST_COLOUR = Colour(70, 74, 84)
_COLOUR_BY_INDEX = sv.ColorLookup.INDEX  # one colour for each object
_MIN_TEXT_HEIGHT = 11  # pixels; smaller letters cannot be read


def font_file() -> Path:
    """Locate DejaVu Sans in matplotlib: the same on every system, and not only ASCII."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font for all text on images, `size` pixels high."""
    return ImageFont.truetype(str(font_file()), size)


def text_height(size_wh: tuple[int, int]) -> int:
    """Choose the height of text in pixels for an image of that size."""
    return max(_MIN_TEXT_HEIGHT, round(22 * sv.calculate_optimal_text_scale(size_wh)))


def line_width(size_wh: tuple[int, int]) -> int:
    """Choose the thickness of lines in pixels for an image of that size."""
    return 1 if min(size_wh) < _SMALL_IMAGE else sv.calculate_optimal_line_thickness(size_wh)


def draw_item(image: Picture, item: Item, labels: Sequence[str]) -> Picture:
    """Draw an item's boxes, masks, labels, scores and tracks on a copy of the image.

    `image` is RGB, (H, W, 3), and so is the copy. `labels` are all classes, in the order that gives
    the colours.

    Raises:
        ItemsError: the image has another size than the item.
        DatasetError: an object's label is not among `labels`.
    """
    _check_size(image, item)
    detections, colours = _detections_and_colours(item, labels)
    scene = _paint_masks(np.array(image, np.uint8), detections, colours, item)
    scene = _paint_boxes(scene, detections, colours, item)
    return np.array(_paint_labels(Image.fromarray(scene), item, colours), np.uint8)


def draw_masks(image: Picture, item: Item, labels: Sequence[str]) -> Picture:
    """Draw only an item's masks on a copy of the image; see `draw_item`."""
    _check_size(image, item)
    return _paint_masks(np.array(image, np.uint8), *_detections_and_colours(item, labels), item)


def _check_size(image: Picture, item: Item) -> None:
    height, width = image.shape[:2]
    if (width, height) != (item.width, item.height):
        raise ItemsError(
            f"{item.video}#{item.frame}: an item for images of {item.width}x{item.height}, but "
            f"this one is {width}x{height}: is it of another clip?"
        )


def _detections_and_colours(
    item: Item, labels: Sequence[str]
) -> tuple[sv.Detections, list[Colour]]:
    detections = item_to_detections(item, labels)
    return detections, [label_colour(obj.label, labels, obj.track) for obj in item.objects]


def _paint_masks(
    scene: Picture, detections: sv.Detections, colours: Sequence[Colour], item: Item
) -> Picture:
    """Draw the masks into `scene`, with their outlines; objects without a mask are skipped."""
    rows = [row for row, obj in enumerate(item.objects) if obj.mask is not None]
    if not rows:
        return scene
    masked, palette = _select_rows(detections, rows), _bgr_palette(colours, rows)
    scene = sv.MaskAnnotator(palette, _OPACITY, _COLOUR_BY_INDEX).annotate(scene, masked)
    thickness = line_width((item.width, item.height))
    return sv.PolygonAnnotator(palette, thickness, _COLOUR_BY_INDEX).annotate(scene, masked)


def _paint_boxes(
    scene: Picture, detections: sv.Detections, colours: Sequence[Colour], item: Item
) -> Picture:
    """Draw the boxes into `scene`; the box of a mask has a thin line."""
    for has_mask, width in ((True, 1), (False, line_width((item.width, item.height)))):
        rows = [row for row, o in enumerate(item.objects) if (o.mask is not None) == has_mask]
        if rows:
            annotator = sv.BoxAnnotator(_bgr_palette(colours, rows), width, _COLOUR_BY_INDEX)
            scene = annotator.annotate(scene, _select_rows(detections, rows))
    return scene


def _bgr_palette(colours: Sequence[Colour], rows: Sequence[int]) -> sv.ColorPalette:
    """Make a palette with red and blue swapped, for annotators that write BGR into our RGB."""
    return _to_palette([Colour(*reversed(colours[row])) for row in rows])


def _select_rows(detections: sv.Detections, rows: list[int]) -> sv.Detections:
    selected = detections[np.array(rows)]
    assert isinstance(selected, sv.Detections)
    return selected


def _to_palette(colours: Sequence[Colour]) -> sv.ColorPalette:
    return sv.ColorPalette([sv.Color(*colour) for colour in colours])


def caption(obj: Object) -> str:
    """Write the label of an object: class, track and score, as far as the object has them.

    Examples:
        >>> caption(Object("mug", (0, 0, 9, 9), 0.914, 3))
        'mug #3 0.91'
    """
    track = "" if obj.track is None else f" #{obj.track}"
    return f"{obj.label}{track}" + ("" if obj.score is None else f" {obj.score:.2f}")


def _paint_labels(picture: Image.Image, item: Item, colours: Sequence[Colour]) -> Image.Image:
    """Write a label beside each object, and the lost tracks in the bottom left corner."""
    height, width = item.height, item.width
    size = text_height((width, height))
    texts = [caption(obj) for obj in item.objects]
    anchors = [obj.box for obj in item.objects]
    if item.lost:
        texts.insert(0, "lost " + ", ".join(f"#{track}" for track in item.lost))
        x, y = size // 2, height - size // 2
        anchors.insert(0, (x, y, x, y))
        colours = [_LOST_COLOUR, *colours]
    if not texts:
        return picture
    padding = max(2, size // 4)
    sizes = [_label_size_wh(text, size, padding) for text in texts]
    corners = place_labels(anchors, sizes, (width, height))
    writer = sv.RichLabelAnnotator(
        color=_to_palette(colours),
        text_color=_to_palette([colour.text_colour for colour in colours]),
        color_lookup=_COLOUR_BY_INDEX,
        font_path=str(font_file()),
        font_size=size,
        text_padding=padding,
        text_position=sv.Position.BOTTOM_LEFT,  # its top left corner is at the anchor
        border_radius=padding,
    )
    points = np.array([(x, y, x, y) for x, y in corners], float)
    labelled: Image.Image = writer.annotate(picture, sv.Detections(xyxy=points), labels=texts)
    return labelled


def _label_size_wh(text: str, size: int, padding: int) -> tuple[int, int]:
    """Measure a text with its padding, in pixels; the last row and column are included."""
    left, top, right, bottom = font(size).getbbox(text)
    return int(right - left) + 2 * padding + 1, int(bottom - top) + 2 * padding + 1


def place_labels(
    anchor_boxes: Sequence[Box], label_sizes_wh: Sequence[tuple[int, int]], size_wh: tuple[int, int]
) -> list[tuple[int, int]]:
    """Place labels near their boxes, inside the image, on no other label; top left corners.

    A label for which no free position is left gets its first position, above its box.
    """
    placed: list[Box] = []
    for anchor, label_size in zip(anchor_boxes, label_sizes_wh, strict=True):
        positions = _label_positions(anchor, label_size, size_wh)
        first = next(positions)
        free = (
            position
            for position in chain([first], positions)
            if not any(_boxes_overlap(position, other) for other in placed)
        )
        placed.append(next(free, first))
    return [(int(x), int(y)) for x, y, _, _ in placed]


def _label_positions(
    anchor_box: Box, label_size_wh: tuple[int, int], size_wh: tuple[int, int]
) -> Iterator[Box]:
    """List positions for a label, best first: above its box, below, inside, further, anywhere."""
    (x1, y1, x2, y2), (width, height) = anchor_box, label_size_wh
    max_x, max_y = max(0, size_wh[0] - width), max(0, size_wh[1] - height)
    above, below = y1 - height, y2 + 1
    further = (row for n in range(height, size_wh[1], height) for row in (above - n, below + n))
    for row in chain((above, below, y1), further):
        for column in (x1, x2 - width, x1 - width, x2 + 1):
            x, y = min(max(round(column), 0), max_x), min(max(round(row), 0), max_y)
            yield x, y, x + width, y + height
    grid = product(range(0, max_x + 1, width), range(0, max_y + 1, height))
    for x, y in sorted(grid, key=lambda corner: (corner[0] - x1) ** 2 + (corner[1] - y1) ** 2):
        yield x, y, x + width, y + height


def _boxes_overlap(first: Box, second: Box) -> bool:
    """Test whether two boxes share a pixel."""
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )

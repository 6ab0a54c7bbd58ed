"""Draw the boxes, masks, labels, scores and tracks of an item on its image.

Labels are placed near their boxes, inside the image and on no other label, where there is room.
The placement is our own: `sv.RichLabelAnnotator(smart_position=True)` pushes labels apart, then
moves them back into the image, where it left labels on one another for 5 of 200 random frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, product

import numpy as np
import supervision as sv
from PIL import Image

from annotate.errors import ItemsError
from annotate.items.detections import item_to_detections
from annotate.items.records import Box, Item, Object, Picture
from annotate.palette import Colour, label_colour, part_colour
from annotate.segmenters import SEGMENT_LABEL
from annotate.viewing import fonts

_OPACITY, _PART_OPACITY = 0.4, 0.6
_SMALL_IMAGE = 400  # pixels of the shorter side; below it lines are one pixel wide
_LOST_COLOUR = Colour(70, 74, 84)
_COLOUR_BY_INDEX = sv.ColorLookup.INDEX  # one colour for each object
_MIN_TEXT_HEIGHT = 11  # pixels; smaller letters cannot be read
_MAX_PHRASE_LENGTH = 32  # letters of a phrase in a label


def text_height(size_wh: tuple[int, int]) -> int:
    """Choose the height of text in pixels for an image of that size."""
    return max(_MIN_TEXT_HEIGHT, round(22 * sv.calculate_optimal_text_scale(size_wh)))


def line_width(size_wh: tuple[int, int]) -> int:
    """Choose the thickness of lines in pixels for an image of that size."""
    return 1 if min(size_wh) < _SMALL_IMAGE else sv.calculate_optimal_line_thickness(size_wh)


def draw_item(image: Picture, item: Item, labels: Sequence[str]) -> Picture:
    """Draw an item's boxes, masks, labels, scores and tracks on a copy of the image.

    `image` is RGB, (H, W, 3), and so is the copy. `labels` are all classes, in the order that gives
    the colours. The parts of a segmented image get a colour each, and neither boxes nor labels.

    Raises:
        ItemsError: the image has another size than the item.
        DatasetError: an object's label is not among `labels`.
    """
    _check_size(image, item)
    detections, colours = _detections_and_colours(item, labels)
    scene = _paint_masks(np.array(image, np.uint8), detections, colours, item)
    scene = _paint_boxes(scene, detections, colours, item)
    return np.array(_paint_labels(Image.fromarray(scene), item, colours, labels), np.uint8)


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
    colours = [
        part_colour(row) if is_part(obj) else label_colour(obj.label, labels, obj.track)
        for row, obj in enumerate(item.objects)
    ]
    return detections, colours


def is_part(obj: Object) -> bool:
    """Return True for a part of a segmented image: a mask of no class of a vocabulary."""
    return obj.label == SEGMENT_LABEL and obj.mask is not None and obj.track is None


def _paint_masks(
    scene: Picture, detections: sv.Detections, colours: Sequence[Colour], item: Item
) -> Picture:
    """Draw the masks into `scene`, with their outlines; objects without a mask are skipped."""
    thickness = line_width((item.width, item.height))
    for of_parts, opacity in ((True, _PART_OPACITY), (False, _OPACITY)):
        rows = [
            row
            for row, obj in enumerate(item.objects)
            if obj.mask is not None and is_part(obj) == of_parts
        ]
        if rows:
            masked, palette = _select_rows(detections, rows), _bgr_palette(colours, rows)
            scene = sv.MaskAnnotator(palette, opacity, _COLOUR_BY_INDEX).annotate(scene, masked)
            outliner = sv.PolygonAnnotator(palette, thickness, _COLOUR_BY_INDEX)
            scene = outliner.annotate(scene, masked)
    return scene


def _paint_boxes(
    scene: Picture, detections: sv.Detections, colours: Sequence[Colour], item: Item
) -> Picture:
    """Draw the boxes into `scene`; the box of a mask has a thin line."""
    for has_mask, width in ((True, 1), (False, line_width((item.width, item.height)))):
        rows = [
            row
            for row, obj in enumerate(item.objects)
            if (obj.mask is not None) == has_mask and not is_part(obj)
        ]
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


def caption(obj: Object, label: str | None = None) -> str:
    """Write the label of an object: class, track, phrase and score, as far as it has them.

    `label` stands for the class.

    Examples:
        >>> caption(Object("mug", (0, 0, 9, 9), 0.914, 3))
        'mug #3 0.91'
        >>> caption(Object("mug", (0, 0, 9, 9), 0.00123, phrase="red cup"))
        'mug “red cup” 0.0012'
    """
    parts = [obj.label if label is None else label]
    parts += [] if obj.track is None else [f"#{obj.track}"]
    if obj.phrase and obj.phrase != obj.label:
        is_long = len(obj.phrase) > _MAX_PHRASE_LENGTH
        phrase = obj.phrase[: _MAX_PHRASE_LENGTH - 1] + "…" if is_long else obj.phrase
        parts.append(f"“{phrase}”")
    return " ".join(parts + ([] if obj.score is None else [format_score(obj.score)]))


def format_score(score: float) -> str:
    """Write a score with two decimals; below 0.1 with two digits that are not leading zeros.

    Examples:
        >>> [format_score(each) for each in (1, 0.914, 0.05, 0.0012, 0.00000012)]
        ['1.00', '0.91', '0.050', '0.0012', '1.2e-07']
    """
    if score >= 0.0995 or score <= 0:
        return f"{score:.2f}"
    return f"{score:#.2g}"


def _drawable_caption(obj: Object, labels: Sequence[str]) -> str:
    """Write the label of an object; a class that no font can draw is written by its id."""
    if fonts.can_draw(obj.label):
        return fonts.drawable(caption(obj))
    name = f"class {labels.index(obj.label)}"
    fonts.report_replaced(obj.label, name)
    return fonts.drawable(caption(obj, name))


def _paint_labels(
    picture: Image.Image, item: Item, colours: Sequence[Colour], labels: Sequence[str]
) -> Image.Image:
    """Write a label beside each object, and the lost tracks in the bottom left corner."""
    height, width = item.height, item.width
    size = text_height((width, height))
    rows = [row for row, obj in enumerate(item.objects) if not is_part(obj)]
    texts = [_drawable_caption(item.objects[row], labels) for row in rows]
    anchors = [item.objects[row].box for row in rows]
    colours = [colours[row] for row in rows]
    if item.lost:
        texts.insert(0, "lost " + ", ".join(f"#{track}" for track in item.lost))
        x, y = size // 2, height - size // 2
        anchors.insert(0, (x, y, x, y))
        colours.insert(0, _LOST_COLOUR)
    padding = max(2, size // 4)
    sizes = [_label_size_wh(text, size, padding) for text in texts]
    corners = place_labels(anchors, sizes, (width, height))
    for path in dict.fromkeys(fonts.font_file(text) for text in texts):
        own = [row for row, text in enumerate(texts) if fonts.font_file(text) == path]
        writer = sv.RichLabelAnnotator(
            color=_to_palette([colours[row] for row in own]),
            text_color=_to_palette([colours[row].text_colour for row in own]),
            color_lookup=_COLOUR_BY_INDEX,
            font_path=str(path),
            font_size=size,
            text_padding=padding,
            text_position=sv.Position.BOTTOM_LEFT,  # its top left corner is at the anchor
            border_radius=padding,
        )
        points = np.array([(*corners[row], *corners[row]) for row in own], float)
        boxes = sv.Detections(xyxy=points)
        picture = writer.annotate(picture, boxes, labels=[texts[row] for row in own])
    return picture


def _label_size_wh(text: str, size: int, padding: int) -> tuple[int, int]:
    """Measure a text with its padding, in pixels; the last row and column are included."""
    left, top, right, bottom = fonts.font(size, text).getbbox(text)
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

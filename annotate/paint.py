"""Paint what an item says onto its picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain, product
from pathlib import Path

import numpy as np
import supervision as sv
from PIL import Image, ImageFont

from annotate.errors import ItemsError
from annotate.items import to_detections
from annotate.palette import Colour, colour_of
from annotate.records import Box, Item, Object, Picture

_OPACITY = 0.4
_SMALL_PICTURE = 400  # pixels; below it two pixels of line hide what they surround
_LOST = Colour(70, 74, 84)
_EACH = sv.ColorLookup.INDEX  # each object has a colour of its own
_SMALLEST_TEXT = 11  # pixels; below it letters cannot be read


def font_file() -> Path:
    """A font that comes with a package we need: no system's font, and not only ASCII."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """The font for all text on pictures, `size` pixels high."""
    return ImageFont.truetype(str(font_file()), size)


def text_size(size_wh: tuple[int, int]) -> int:
    """How high text should be on a picture of that size, in pixels."""
    return max(_SMALLEST_TEXT, round(22 * sv.calculate_optimal_text_scale(size_wh)))


def line_width(size_wh: tuple[int, int]) -> int:
    """How thick lines should be on a picture of that size, in pixels."""
    return 1 if min(size_wh) < _SMALL_PICTURE else sv.calculate_optimal_line_thickness(size_wh)


def annotated(image: Picture, item: Item, labels: Sequence[str]) -> Picture:
    """A copy of the picture with the item's boxes, masks, labels, scores and tracks on it.

    `image` is RGB, (H, W, 3), and so is the copy. `labels` are all classes: they give the colours.

    Raises:
        ItemsError: the picture's size is not the item's.
        DatasetError: an object's label is not among `labels`.
    """
    _check_size(image, item)
    found, colours = _seen(item, labels)
    scene = _with_masks(np.array(image, np.uint8), found, colours, item)
    scene = _with_boxes(scene, found, colours, item)
    return np.array(_with_tags(Image.fromarray(scene), item, colours), np.uint8)


def with_masks(image: Picture, item: Item, labels: Sequence[str]) -> Picture:
    """A copy of the picture with the item's masks on it, and nothing else; see `annotated`."""
    _check_size(image, item)
    return _with_masks(np.array(image, np.uint8), *_seen(item, labels), item)


def _check_size(image: Picture, item: Item) -> None:
    height, width = image.shape[:2]
    if (width, height) != (item.width, item.height):
        raise ItemsError(
            f"{item.video}#{item.frame}: an item for pictures of {item.width}x{item.height}, but "
            f"this one is {width}x{height}: is it of another clip?"
        )


def _seen(item: Item, labels: Sequence[str]) -> tuple[sv.Detections, list[Colour]]:
    found = to_detections(item, labels)
    return found, [colour_of(thing.label, labels, thing.track) for thing in item.objects]


def _with_masks(
    scene: Picture, found: sv.Detections, colours: Sequence[Colour], item: Item
) -> Picture:
    """Masks in place; an object that has none of its own is left as it is."""
    rows = [row for row, thing in enumerate(item.objects) if thing.mask is not None]
    if not rows:
        return scene
    some, look = _rows(found, rows), _swapped(colours, rows)
    scene = sv.MaskAnnotator(look, _OPACITY, _EACH).annotate(scene, some)
    thickness = line_width((item.width, item.height))
    return sv.PolygonAnnotator(look, thickness, _EACH).annotate(scene, some)


def _with_boxes(
    scene: Picture, found: sv.Detections, colours: Sequence[Colour], item: Item
) -> Picture:
    """Boxes in place; round a mask they are thin."""
    for masked, width in ((True, 1), (False, line_width((item.width, item.height)))):
        rows = [row for row, t in enumerate(item.objects) if (t.mask is not None) == masked]
        if rows:
            annotator = sv.BoxAnnotator(_swapped(colours, rows), width, _EACH)
            scene = annotator.annotate(scene, _rows(found, rows))
    return scene


def _swapped(colours: Sequence[Colour], rows: Sequence[int]) -> sv.ColorPalette:
    """For annotators that write blue, green, red: on our RGB they are told red for blue."""
    return _swatch([Colour(*reversed(colours[row])) for row in rows])


def _rows(found: sv.Detections, rows: list[int]) -> sv.Detections:
    some = found[np.array(rows)]
    assert isinstance(some, sv.Detections)
    return some


def _swatch(colours: Sequence[Colour]) -> sv.ColorPalette:
    return sv.ColorPalette([sv.Color(*colour) for colour in colours])


def caption(thing: Object) -> str:
    """What is written beside an object: its class, track and score, as far as it has them."""
    track = "" if thing.track is None else f" #{thing.track}"
    return f"{thing.label}{track}" + ("" if thing.score is None else f" {thing.score:.2f}")


def _with_tags(picture: Image.Image, item: Item, colours: Sequence[Colour]) -> Image.Image:
    """Write what each object is beside it, and in the corner which tracks are lost."""
    height, width = item.height, item.width
    size = text_size((width, height))
    texts = [caption(thing) for thing in item.objects]
    homes = [thing.box for thing in item.objects]
    if item.lost:
        texts.insert(0, "lost " + ", ".join(f"#{track}" for track in item.lost))
        x, y = size // 2, height - size // 2
        homes.insert(0, (x, y, x, y))
        colours = [_LOST, *colours]
    if not texts:
        return picture
    padding = max(2, size // 4)
    spots = places(homes, [_extent(text, size, padding) for text in texts], (width, height))
    writer = sv.RichLabelAnnotator(
        color=_swatch(colours),
        text_color=_swatch([colour.ink for colour in colours]),
        color_lookup=_EACH,
        font_path=str(font_file()),
        font_size=size,
        text_padding=padding,
        text_position=sv.Position.BOTTOM_LEFT,  # the text hangs from the bottom of a flat box
        border_radius=padding,
    )
    flat = np.array([(x, y, x, y) for x, y in spots], float)
    done: Image.Image = writer.annotate(picture, sv.Detections(xyxy=flat), labels=texts)
    return done


def _extent(text: str, size: int, padding: int) -> tuple[int, int]:
    """Width and height of a text with its padding, in pixels, its last row and column included."""
    left, top, right, bottom = font(size).getbbox(text)
    return int(right - left) + 2 * padding + 1, int(bottom - top) + 2 * padding + 1


def places(
    homes: Sequence[Box], extents: Sequence[tuple[int, int]], size_wh: tuple[int, int]
) -> list[tuple[int, int]]:
    """Where each text goes, as its top left corner: near its box, in the picture, on no other text.

    Where there is no room left, a text stays at home.
    """
    taken: list[Box] = []
    for home, extent in zip(homes, extents, strict=True):
        spots = _spots(home, extent, size_wh)
        first = next(spots)
        free = (s for s in chain([first], spots) if not any(_meet(s, other) for other in taken))
        taken.append(next(free, first))
    return [(int(x), int(y)) for x, y, _, _ in taken]


def _spots(home: Box, extent: tuple[int, int], size_wh: tuple[int, int]) -> Iterator[Box]:
    """Places for a text, best first: above its box, below, inside it, further away, anywhere."""
    (x1, y1, x2, y2), (width, height) = home, extent
    most_x, most_y = (max(0, whole - own) for whole, own in zip(size_wh, extent, strict=True))
    above, below = y1 - height, y2 + 1
    further = (row for n in range(height, size_wh[1], height) for row in (above - n, below + n))
    for row in chain((above, below, y1), further):
        for column in (x1, x2 - width, x1 - width, x2 + 1):
            x, y = min(max(round(column), 0), most_x), min(max(round(row), 0), most_y)
            yield x, y, x + width, y + height
    grid = product(range(0, most_x + 1, width), range(0, most_y + 1, height))
    for x, y in sorted(grid, key=lambda spot: (spot[0] - x1) ** 2 + (spot[1] - y1) ** 2):
        yield x, y, x + width, y + height


def _meet(one: Box, other: Box) -> bool:
    """Whether two boxes share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

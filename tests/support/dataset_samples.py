"""Clips, items and datasets made for tests."""

from fractions import Fraction

import cv2
import numpy as np
from PIL import Image

from annotate.items import journal, masks
from annotate.items.records import Header, Item, Object
from annotate.video import reader

SIZE_WH = (64, 48)
PLATE = Object("plate", (1.0, 2.0, 30.0, 40.0), 0.5)


def clip(folder, count=6, size_wh=SIZE_WH, first=0):
    """Write a clip, a folder of `count` pictures of different grey levels, named as frames are."""
    folder.mkdir(parents=True)
    for index in range(count):
        image = np.full((size_wh[1], size_wh[0], 3), 8 * (first + index), np.uint8)
        cv2.imwrite(str(folder / f"{folder.name}-{index:06d}.png"), image)
    return folder


def save_turned(path, orientation, size_wh=SIZE_WH):
    """Save a grey picture, stored in `size_wh`, with the EXIF orientation in its file."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size_wh, (90, 90, 90)).save(path, exif=exif)


def mug(x=10, track=1):
    mask = np.zeros(SIZE_WH[::-1], bool)
    mask[5:20, x : x + 9] = True
    mask[8:12, x + 2 : x + 5] = False
    return Object("mug", masks.box(mask), None, track, masks.encode(mask), "test")


def item(name, frame, *objects, size_wh=SIZE_WH):
    return Item(name, frame, Fraction(frame), *size_wh, objects)


def items(path, clips, lines, labels=("plate", "mug")):
    """Write a file of items of `clips`, which are folders of pictures."""
    videos = {}
    for each in clips:
        videos |= reader.header_entry(reader.probe(each))
    vocabulary = {"name": "mugs.v1", "sha256": "5e1f", "labels": list(labels)} if labels else {}
    journal.write(path, Header("test", vocabulary=vocabulary, videos=videos), lines)
    return path


def objects(data):
    return {sample.image: sample.item.objects for sample in data}

"""Which part of what was found is the object."""

import cv2
import numpy as np

from annotate.kin import Kin
from annotate.place import Guess, Place
from annotate.windows import Map


def one_thing(soft: Map, guess: Guess, place: Place, kin: Kin) -> tuple[Map, Map | None]:
    """`soft` with little left of what is apart from the object, and what that was.

    A gap of a fifth of the object's size may be an occlusion.
    """
    whole, size = soft > 0.5, len(soft)
    radius = int(0.1 * np.sqrt(place.area) * size / guess.window.side)
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    count, parts = cv2.connectedComponents(cv2.dilate(whole.astype(np.uint8), disk))
    if count <= 2:
        return soft, None
    weight = whole * _trust(guess, place.faith, size)
    totals = np.bincount(parts.ravel(), weights=weight.ravel(), minlength=count)
    for part in range(1, count):
        there = (whole & (parts == part))[2::4, 2::4]
        totals[part] *= max(kin.likeness(guess.expanded, there), 0.1) ** 2
    totals[0] = 0
    dropped = (whole & (parts != totals.argmax())).astype(np.float32)
    return soft * (1 - 0.75 * dropped), dropped


def _trust(guess: Guess, faith: float, size: int) -> Map:
    """Which part is the object: the one that was there, and looks as it was shown."""
    trust = cv2.resize(np.clip(0.5 + faith * guess.sure, 0.1, 1), (size, size))
    if guess.prior is not None:
        trust = trust * (0.1 + cv2.resize(guess.prior, (size, size)))
    return np.asarray(trust, np.float32)

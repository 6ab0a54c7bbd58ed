"""Whether what is seen, where an object is followed or looked for, is that object at all."""

import cv2
import numpy as np

from annotate.found_again import is_thing
from annotate.place import Guess, Place, mean
from annotate.records import Mask

# How much less akin than usual to what was shown a thing may be: found again, and followed.
KIN_FOUND, KIN_KEPT = 0.16, 0.4
TOGETHER = 0.45  # what a thing found again may lack of kinship and of heat together
NEARER, PATIENCE = 0.2, 10  # how much more just where it was lost; fades in so many frames


def present(usual: Place, guess: Guess, where: Mask, now: tuple[float, float, float]) -> bool:
    """Whether this is the object, of such area, fit and kinship: unlike what is round it.

    `where` it is, is told on the grid of the window.
    """
    area, fit, kinship = now
    grown = cv2.dilate(where.astype(np.uint8), np.ones((9, 9), np.uint8))
    round_it = mean(guess.score, (grown > 0) & ~where & guess.inside)
    if guess.prior is None:
        sized = 0.1 * usual.area < area < 10 * usual.area
        like = fit > 0.5 * usual.fit and kinship > usual.kinship - KIN_FOUND
        found = sized and like and alike(usual, kinship, guess) and round_it < -0.1
        return bool(found and (not usual.thing or is_thing(guess)))
    like = fit > 0.3 * usual.fit and kinship > usual.kinship - KIN_KEPT
    return bool(area >= max(16, 0.03 * usual.area) and like and round_it < 0.2)


def alike(usual: Place, kinship: float, guess: Guess) -> bool:
    """Whether what a search found is the object; sooner so where and when it was lost."""
    window = guess.window
    gap = np.hypot(window.x - usual.x, window.y - usual.y) / (2 * usual.window.side)
    trust = NEARER * np.exp(-(gap**2) - usual.lost / PATIENCE)
    return bool(usual.shown - kinship + 1 - guess.heat < TOGETHER + trust)

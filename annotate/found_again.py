"""Whether what a search found is a thing at all, by a network that knows no object."""

import cv2
import numpy as np

from annotate.place import Guess
from annotate.refine import FOLLOW, drawn, on_grid, refined
from annotate.windows import Map

WORTH = 0.2  # the IoU that a mask of it should have with the truth
CLIPPED = 2.0  # scores beyond say no more


def is_thing(guess: Guess) -> bool:
    """Whether a good mask can be had of what was found.

    Of mere wall, or of a part of the head-up display, it can't, however like the object the
    classifier finds that. Where a person showed just such a thing, it is no use to ask.
    """
    _, worth = refined(FOLLOW, guess.seen.crop, guess.seen.trunk, told(guess, 0))
    return worth > WORTH


def told(guess: Guess, size: float) -> Map:
    """What the network is told, (6, 64, 64), of a guess, and of an object of `size` cells."""
    score, sure = (on_grid(np.clip(s, -CLIPPED, CLIPPED)) for s in (guess.score, guess.sure))
    prior = None if guess.prior is None else on_grid(guess.prior, cv2.INTER_AREA)
    inside = on_grid(guess.inside.astype(np.float32)) > 0.5
    return drawn(score, sure, prior, inside, size)

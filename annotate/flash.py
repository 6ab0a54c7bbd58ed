"""A shape that outlasts a flash or a shadow: what it shows now is the object in another light."""

import cv2
import numpy as np

from annotate.place import Guess
from annotate.records import Mask
from annotate.ridge import Ridge
from annotate.windows import Map

KEPT, MOVED = 0.35, 0.5  # of where it was: so much at most is still like it; found elsewhere
APART = 0.85  # how surely the shape is told from what is round it


def outlasted(guess: Guess, ridge: Ridge) -> tuple[Mask, Map] | None:
    """Where the object was, if that hardly looks like it now but is still apart from the rest.

    That is where the flow took the mask before, (grid, grid), and how much each of its cells and
    of those near it says, (grid * grid,).
    """
    shape = guess.score.shape
    prior = cv2.resize(guess.prior, shape, interpolation=cv2.INTER_AREA)
    was = prior > 0.5
    kept = (guess.score[was] > 0).mean() if was.any() else 1.0
    moved = (guess.soft > 0.5).mean() > MOVED * was.mean()
    if kept > KEPT or moved:
        return None
    y, x = np.indices(shape) // 4
    blocks = ((x + y) % 2 == 0).ravel()
    near = (np.abs(2 * prior - 1) > 0.4).ravel() & guess.inside.ravel()
    inside = was.astype(np.float32).ravel()
    if ridge.persists(guess.expanded[near], inside[near], blocks[near]) < APART:
        return None
    return was, near.astype(np.float32)

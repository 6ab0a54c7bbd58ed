"""Compute the features of each picture once, for all detectors of a curve.

The network that computes the features is the same for all; most of the time of a small training is
its. The linear map that reduces the features is fitted once, on pictures without their labels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from annotate.detectors.trained import start_session
from annotate.training.light.features import (
    FeatureFile,
    fit_reduction,
    make_copy,
    write_maps,
)
from annotate.training.light.graph import feature_graph
from annotate.training.light.grid import assign, make_grid
from annotate.training.trainer import TrainingFrame


class FeatureStore:
    """The features of pictures and of changed copies of them, in two files in a folder.

    `frames` are the pictures on which the reduction is fitted. `image_size` is the longer side of
    a picture, in pixels.
    """

    def __init__(
        self,
        folder: Path,
        frames: Sequence[TrainingFrame],
        classes: Sequence[str],
        image_size: int,
        threads: int,
    ) -> None:
        self._classes, self._image_size = classes, image_size
        reduction = fit_reduction(frames, image_size, threads)
        self._session: Any = start_session(feature_graph(reduction), threads)
        self._paths = folder / "shared.fine", folder / "shared.coarse"
        self._starts: dict[tuple[str, int, int], tuple[int, int]] = {}
        self._end = (0, 0)
        for path in self._paths:
            path.unlink(missing_ok=True)

    def copies(self, frames: Sequence[TrainingFrame], copies: int, seed: int) -> FeatureFile:
        """Get the features of frames: of each as it is, then of `copies` - 1 changed ones.

        What a changed copy looks like depends on the name of its image, on its number and on the
        seed.
        """
        entries = []
        with ExitStack() as stack:
            fine, coarse = (stack.enter_context(path.open("ab")) for path in self._paths)
            for frame in frames:
                name = frame.image.name
                for number in range(copies):
                    drawn = (seed, zlib.crc32(name.encode()), number)
                    random = np.random.default_rng(drawn) if number else None
                    copy = make_copy(frame, self._classes, self._image_size, random)
                    grid = make_grid(copy.size_wh)
                    key = str(frame.image), number, seed if number else 0
                    if key not in self._starts:
                        write_maps(self._session, copy.picture, fine, coarse)
                        self._starts[key] = self._end
                        fine_end, coarse_end = self._end
                        self._end = fine_end + grid.fine_rows, coarse_end + grid.coarse_rows
                    targets = assign(grid, copy.boxes, copy.class_ids)
                    entries.append((grid, targets, self._starts[key]))
        return FeatureFile(self._paths, self._end, entries)

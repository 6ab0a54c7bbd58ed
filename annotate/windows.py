"""A square window on a picture: what is inside it at a size asked for, and back."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from annotate.records import Mask

Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Window:
    """A square of `side` pixels about (x, y); it may reach over the picture's edge.

    >>> Window(10.0, 20.0, 8.0).scaled(2.0)
    Window(x=10.0, y=20.0, side=16.0)
    """

    x: float
    y: float
    side: float

    def scaled(self, times: float) -> "Window":
        """The same centre, another side."""
        return Window(self.x, self.y, self.side * times)

    def cut(self, picture: npt.NDArray[Any], size: int, *, outside: bool = True) -> Any:
        """The window as (size, size); beyond the edge is the edge (`outside`) or nothing."""
        border = cv2.BORDER_REPLICATE if outside else cv2.BORDER_CONSTANT
        part, x, y, (fx, fy) = self._shrunk(picture, size / self.side)
        kx, ky = size / self.side / fx, size / self.side / fy
        middle = (size - 1) / 2
        matrix = np.array([[kx, 0, middle - kx * x], [0, ky, middle - ky * y]])
        return cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)

    def _shrunk(
        self, picture: npt.NDArray[Any], zoom: float
    ) -> tuple[npt.NDArray[Any], float, float, tuple[float, float]]:
        """The part about the window, averaged down where sampling would alias, and the centre."""
        half = self.side / 2 + 2
        left, top = max(int(self.x - half), 0), max(int(self.y - half), 0)
        part = picture[top : int(self.y + half) + 1, left : int(self.x + half) + 1]
        if zoom >= 0.6 or min(part.shape[:2], default=0) < 4:
            return picture, self.x, self.y, (1.0, 1.0)
        aim = max(zoom * 1.2, 0.02) if zoom < 0.3 else 0.5
        wide, high = (max(2, round(side * aim)) for side in part.shape[1::-1])
        fx, fy = wide / part.shape[1], high / part.shape[0]
        part = cv2.resize(part, (wide, high), interpolation=cv2.INTER_AREA)
        return part, (self.x - left + 0.5) * fx - 0.5, (self.y - top + 0.5) * fy - 0.5, (fx, fy)

    def inside(self, size_wh: tuple[int, int], size: int) -> Mask:
        """Which of (size, size) lie on the picture."""
        steps = (np.arange(size) - (size - 1) / 2) * (self.side / size)
        across, down = self.x + steps, self.y + steps
        on_x = (across > -0.5) & (across < size_wh[0] - 0.5)
        on_y = (down > -0.5) & (down < size_wh[1] - 0.5)
        return np.asarray(on_y[:, None] & on_x[None])

    def paste(self, values: Map, size_wh: tuple[int, int]) -> tuple[int, int, Map]:
        """The part of the picture under the window, filled from it: left, top, values there."""
        left, top = max(int(np.floor(self.x - self.side / 2)), 0), 0
        top = max(int(np.floor(self.y - self.side / 2)), 0)
        right = min(int(np.ceil(self.x + self.side / 2)), size_wh[0])
        bottom = min(int(np.ceil(self.y + self.side / 2)), size_wh[1])
        if right <= left or bottom <= top:
            return 0, 0, np.zeros((0, 0), np.float32)
        k, middle = len(values) / self.side, (len(values) - 1) / 2
        matrix = np.array(
            [[k, 0, middle - k * (self.x - left)], [0, k, middle - k * (self.y - top)]]
        )
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return left, top, cv2.warpAffine(values, matrix, (right - left, bottom - top), flags=flags)

    def mask(self, values: Map, size_wh: tuple[int, int], above: float) -> Mask:
        """Which pixels of the picture are under the window and more than `above` there."""
        left, top, part = self.paste(values, size_wh)
        mask = np.zeros(size_wh[::-1], bool)
        mask[top : top + part.shape[0], left : left + part.shape[1]] = part > above
        return mask

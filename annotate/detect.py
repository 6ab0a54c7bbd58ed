"""The Detector contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from annotate.records import Frame, Vocabulary

if TYPE_CHECKING:
    import supervision as sv


class Detector(Protocol):
    """A frozen dataclass whose first field is the vocabulary and whose other fields are options."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes it proposes."""

    def propose(self, frames: list[Frame]) -> list[sv.Detections]:
        """Boxes for each frame, in order.

        `class_id` and `confidence` are always set (NaN where the model gives no score); nothing is
        in `data` or `metadata`.
        """

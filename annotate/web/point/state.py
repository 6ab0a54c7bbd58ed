"""Build the state that the point page shows from the parts of an editor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from annotate.active_learning.frame_list import ListedFrame
from annotate.items.points import BOX_CORNERS, DEFAULT_LABEL, GONE, PromptScope, read_points
from annotate.items.records import Object
from annotate.palette import label_colour
from annotate.prompts import PromptTable, prompt_table
from annotate.propagators.absence import AbsenceSchedule
from annotate.video.reader import Video
from annotate.viewing.review import find_frames
from annotate.web.point.document import Document
from annotate.web.point.session import PointSession
from annotate.web.point.table import POSITIVE
from annotate.web.point.tracking.tracks import Tracks, spans, to_items

_QUEUE_LENGTH = 24  # frames worth a look
_NEAR_REVIEWED = 3  # frames: so near to a frame that looks right, no other is proposed


def prompt_table_of(document: Document, scope: PromptScope) -> PromptTable:
    """Make the prompts of a document, as the command line makes them of its file."""
    import pandas as pd

    rows = [
        (row.frame, row.object_id, row.x, row.y, row.label, row.label_class)
        for row in document.rows
    ]
    columns = ["frame_id", "object_id", "x", "y", "label", "class"]
    points = read_points(pd.DataFrame(rows, columns=columns, dtype=object), scope)
    return prompt_table(points, scope=scope)


@dataclass(frozen=True)
class Progress:
    """What the engine has done and is doing.

    `absence` says where each object is gone. `digests` name the present prompts of each object,
    `context` those of all objects where they depend on each other. `limits` are the frames to
    propagate. `run` describes a propagation that is under way.
    """

    tracks: Tracks
    absence: AbsenceSchedule
    digests: Mapping[int, str]
    context: str
    limits: tuple[int, int]
    run: Mapping[str, Any] | None


class StateBuilder:
    """Builds states; what does not change from one to the next is kept."""

    def __init__(
        self,
        video: Video,
        session: PointSession,
        engine_name: str,
        proposals: Mapping[int, Sequence[Object]],
        bounds: tuple[int, int],
        listed: Sequence[ListedFrame] = (),
    ) -> None:
        self._video, self._session, self._proposals = video, session, proposals
        self._listed = listed
        self._clip = {
            "name": video.name,
            "width": video.width,
            "height": video.height,
            "frames": video.frame_count,
            "rate": float(video.rate),
            "variable_rate": video.variable_rate,
            "bounds": list(bounds),
            "engine": engine_name,
        }
        self._serial = 0
        self._queue_key: object = None
        self._queue: tuple[list[dict[str, Any]], dict[int, list[int]]] = [], {}

    def build(self, progress: Progress) -> dict[str, Any]:
        """Return the state."""
        session, document = self._session, self._session.document
        self._serial += 1
        queue, flagged = self._worth_a_look(document, progress)
        classes = self._classes(document)
        objects = [
            self._object(document, object_id, classes, flagged.get(object_id, []), progress)
            for object_id in document.object_ids()
        ]
        provisional = [span for each in objects for span in each["lanes"]["provisional"]]
        return {
            "serial": self._serial,
            "rev": session.revision,
            "clip": self._clip,
            "range": list(progress.limits),
            "objects": objects,
            "classes": classes,
            "next_class": self._next_class(document, classes),
            "reviewed": sorted(document.reviewed),
            "looked": spans(session.seen),
            "looked_share": len(session.seen) / max(self._video.frame_count or 1, 1),
            "provisional": sum(stop - start for start, stop in provisional),
            "queue": queue,
            "to_label": frames_to_label(self._listed, document),
            "proposals": self._open_proposals(document),
            "running": progress.run,
            **self._file_state(),
        }

    def _file_state(self) -> dict[str, Any]:
        session = self._session
        outside = session.outside_edit()
        return {
            "can_undo": session.can_undo,
            "can_redo": session.can_redo,
            "points_file": session.points.name,
            "save_error": session.save_error,
            "outside": outside
            and {
                "added": len(outside.added),
                "removed": len(outside.removed),
                "error": outside.error,
            },
        }

    def _classes(self, document: Document) -> list[str]:
        """List the classes: of the vocabulary, and those of the objects as they came."""
        labels = list(self._session.scope.labels or ())
        used = [document.class_of(each) or DEFAULT_LABEL for each in document.object_ids()]
        return list(dict.fromkeys([*labels, *used]))

    def _next_class(self, document: Document, classes: list[str]) -> str:
        """Choose the class of a new object: that of the object with the last row."""
        last = next((row.label_class for row in reversed(document.rows) if row.label_class), "")
        return last or (classes[0] if classes else DEFAULT_LABEL)

    def _object(
        self,
        document: Document,
        object_id: int,
        classes: list[str],
        flagged: list[int],
        progress: Progress,
    ) -> dict[str, Any]:
        label = document.class_of(object_id) or DEFAULT_LABEL
        colour = label_colour(label, classes, object_id)
        rows = [row for row in document.rows if row.object_id == object_id]
        digest = progress.digests.get(object_id, "")
        lanes = progress.tracks.lanes(object_id, digest, progress.context, flagged)
        gone = progress.absence.spans(object_id, self._video.frame_count or 0)
        return {
            "id": object_id,
            "class": label,
            "colour": colour.hex,
            "text_colour": colour.text_colour.hex,
            "rows": [
                {"frame": row.frame, "x": row.x, "y": row.y, "label": row.label} for row in rows
            ],
            "prompts": sorted({row.frame for row in rows if row.label != GONE}),
            "lanes": lanes | {"gone": gone},
        }

    def _worth_a_look(
        self, document: Document, progress: Progress
    ) -> tuple[list[dict[str, Any]], dict[int, list[int]]]:
        """Return the frames worth a look, worst first, and the flagged frames of each object."""
        key = self._session.revision, progress.tracks.version
        if self._queue_key == key:
            return self._queue
        video = self._video
        size_wh = video.width, video.height
        items = to_items(progress.tracks, progress.digests, video.name, size_wh, video.rate)
        prompted = {row.frame for row in document.rows}
        settled = {
            frame + step
            for frame in document.reviewed
            for step in range(-_NEAR_REVIEWED, _NEAR_REVIEWED + 1)
        } | prompted
        found = find_frames([each for each in items if each.frame not in settled], _QUEUE_LENGTH)
        stops: list[dict[str, Any]] = []
        flagged: dict[int, list[int]] = {}
        for each in found:
            reason = each.reasons[0]
            why = ", ".join(dict.fromkeys(one.text for one in each.reasons))
            stops.append({"frame": each.item.frame, "object": reason.track, "why": why})
            for one in each.reasons:
                if one.track is not None:
                    flagged.setdefault(one.track, []).append(each.item.frame)
        self._queue_key, self._queue = key, (stops, flagged)
        return self._queue

    def _open_proposals(self, document: Document) -> dict[int, list[dict[str, Any]]]:
        """Return the proposed boxes that are still to be accepted, by frame."""
        still_open = {
            frame: open_proposals(document, frame, objects)
            for frame, objects in dict(self._proposals).items()
        }
        return {
            frame: [{"box": list(obj.box), "class": obj.label} for obj in objects]
            for frame, objects in still_open.items()
            if objects
        }


def frames_to_label(listed: Sequence[ListedFrame], document: Document) -> list[dict[str, Any]]:
    """Return the frames of a list in their order; `done` says that a frame has been labelled.

    A frame is labelled when it has a point or a box, or a person said that it looks right.
    """
    done = document.reviewed | {row.frame for row in document.rows}
    return [
        {"frame": each.frame, "rank": each.rank, "why": each.why, "done": each.frame in done}
        for each in listed
    ]


def open_proposals(document: Document, frame: int, proposed: Sequence[Object]) -> list[Object]:
    """Return the proposed boxes of a frame that were not accepted, and have no point inside."""
    rows = [row for row in document.rows if row.frame == frame]
    points = [
        (row.x, row.y)
        for row in rows
        if row.label == POSITIVE and row.x is not None and row.y is not None
    ]
    corners = [(row.x, row.y) for row in rows if row.label == BOX_CORNERS[0]]

    def is_open(obj: Object) -> bool:
        x1, y1, x2, y2 = obj.box
        if (round(x1, 2), round(y1, 2)) in corners:
            return False
        return not any(x1 <= x < x2 and y1 <= y < y2 for x, y in points)

    return [obj for obj in proposed if is_open(obj)]

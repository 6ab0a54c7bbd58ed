"""A frame of a dataset as a task: the same frame has the same external id, whoever pushes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import quote

from annotate.folder import Dataset
from annotate.labelstudio import Server
from annotate.records import Item
from annotate.regions import Region

Task = dict[str, Any]
_T = TypeVar("_T")
PREDICTION = "annotate"  # one name for all: the editor shows those which the project names
STATE = "id,data,updated_at,total_annotations,cancelled_annotations,draft_exists"
_AT_ONCE = 500  # tasks of which an action takes hold
_ADDRESS_BYTES = 6000  # for names: proxies take addresses of 8 kB, and a list is part of one


def external_id(dataset: Dataset, video: str, frame: int | None = None) -> str:
    """The name of a frame, or of a clip, in all projects: `dock.mp4#75@5e1f5e1f`."""
    print_ = dataset.clips.get(video, {}).get("fingerprint") or ""
    name = video if frame is None else f"{video}#{frame}"
    return f"{name}@{print_[:8]}" if print_ else name


def task_data(dataset: Dataset, item: Item) -> dict[str, Any]:
    """What a task tells of its frame, but for where its picture is."""
    return {
        "ext_id": external_id(dataset, item.video, item.frame),
        "video": item.video,
        "frame": item.frame,
        "width": item.width,
        "height": item.height,
    }


def prediction(regions: Sequence[Region]) -> dict[str, Any]:
    """Regions as the prediction of a task; its score is that of its least sure region."""
    scores = [region["score"] for region in regions if "score" in region]
    told = {"model_version": PREDICTION, "result": list(regions)}
    return told | ({"score": min(scores)} if scores else {})


def find(server: Server, project: int, ext_ids: Sequence[str]) -> dict[str, list[Task]]:
    """External id -> the tasks which have it: one, none, or several after a mishap."""
    found: dict[str, list[Task]] = {}
    for asked in _fitting(ext_ids):
        filters = [
            {
                "filter": "filter:tasks:data.ext_id",
                "operator": "in_list",
                "type": "List",
                "value": asked,
            }
        ]
        for task in server.tasks(project, STATE, filters):
            found.setdefault(task["data"]["ext_id"], []).append(task)
    return found


def _fitting(names: Iterable[str]) -> Iterator[list[str]]:
    """Some names at a time: as many as an address may hold, that of a proxy too."""
    some: list[str] = []
    room = _ADDRESS_BYTES
    for name in names:
        size = len(quote(json.dumps(name))) + 6  # a comma and a space
        if some and size > room:
            yield some
            some, room = [], _ADDRESS_BYTES
        some.append(name)
        room -= size
    if some:
        yield some


def chunks(things: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Some at a time, in order."""
    rest = iter(things)
    while some := list(islice(rest, size)):
        yield some


def touched(task: Task) -> str:
    """What a person has done to a task: annotated, skipped, begun, or nothing."""
    if task["total_annotations"]:
        return "annotated"
    if task["cancelled_annotations"]:
        return "skipped"
    return "begun" if task["draft_exists"] else ""


def act(server: Server, project: int, action: str, ids: Iterable[int]) -> None:
    """Do one of the Data Manager's actions to tasks, some hundreds at a time."""
    for some in chunks(ids, _AT_ONCE):
        chosen = {"all": False, "included": some}
        server.send(
            "POST",
            "/api/dm/actions",
            {"selectedItems": chosen},
            params={"id": action, "project": project},
        )


def same(there: Iterable[Mapping[str, Any]], regions: Sequence[Region]) -> bool:
    """Whether the predictions of a task are one, of these regions: their ids say what they are."""
    found = list(there)
    if len(found) != 1:
        return False
    kinds = [(region["id"], region["type"]) for region in regions]
    return [(each["id"], each["type"]) for each in found[0]["result"]] == kinds

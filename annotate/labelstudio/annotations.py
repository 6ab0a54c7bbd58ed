"""Read the annotations of a project: which one counts, and what its result holds.

Whatever a person or a script has saved on the server may come: keys may be missing, and numbers may
be of any kind. A result that cannot be read as a whole leaves out its frame, which is noted, and
never the pull. What is read beside shapes, such as a choice or a text, is noted too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from annotate.dataset.folder import object_ids
from annotate.errors import LostResponse, StudioError
from annotate.items.foreign_records import as_finite_number, as_whole_number, is_text, shown
from annotate.items.records import Item, Object
from annotate.items.sequences import chunks
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.regions import restore_pushed, to_object
from annotate.labelstudio.tasks import Task, task_status

_IDS_PER_REQUEST = 200  # task ids that fit into a URL
_ATTRIBUTE_KEYS = {  # type of a result that is no shape -> the key of its value
    "choices": "choices",
    "textarea": "text",
    "rating": "rating",
    "number": "number",
    "datetime": "datetime",
    "taxonomy": "taxonomy",
}
_SHAPE_KEYS = {"x", "y", "points", "rle", "vertices", "sequence", "ranges"}
_MAX_NAMES = 3  # frames that a line of notes names


@dataclass(frozen=True)
class Verdict:
    """The submitted annotation of a task: author, time, and what its result holds.

    `regions` are the results that should be shapes. `attributes` are those of the whole image, such
    as a choice: name of the control -> value. `remarks` are lines about results that are not kept
    in an object.
    """

    author: str
    updated_at: str
    regions: Sequence[Mapping[str, Any]]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    remarks: Sequence[str] = ()

    def provenance(self, region_id: str) -> dict[str, str]:
        """Make the record of who changed an object, when, and in which region."""
        texts = {"who": self.author, "when": self.updated_at, "region": region_id}
        return {key: text if is_text(text) else shown(text) for key, text in texts.items()}


def read_result(result: Any, author: str = "", updated_at: str = "") -> Verdict:
    """Divide the result of an annotation into regions, attributes of the image, and remarks.

    Raises:
        StudioError: it is no list of records, or two regions have one id.
    """
    if not isinstance(result, list):
        raise StudioError(f"an annotation whose result is no list: {shown(result)}")
    regions: list[Mapping[str, Any]] = []
    others: list[Mapping[str, Any]] = []
    for record in result:
        if not isinstance(record, dict):
            raise StudioError(f"a result that is no record: {shown(record)}")
        kind = record.get("type")
        is_other = isinstance(kind, str) and (kind == "relation" or kind in _ATTRIBUTE_KEYS)
        (others if is_other else regions).append(record)
    ids = Counter(str(name) for each in regions if (name := each.get("id")) is not None)
    if repeated := [name for name, count in ids.items() if count > 1]:
        raise StudioError(f"several regions with the id {shown(repeated[0])}")
    attributes: dict[str, Any] = {}
    remarks = [line for region in regions for line in _remarks_on_region(region)]
    remarks += [_read_other(record, ids, attributes) for record in others]
    return Verdict(author, updated_at, regions, attributes, remarks)


def _read_other(
    record: Mapping[str, Any], region_ids: Mapping[str, int], attributes: dict[str, Any]
) -> str:
    """Add a result that is no shape to `attributes`, where it can be; return a line about it."""
    kind = str(record["type"])
    if kind == "relation":
        return "not kept: a relation of two regions"
    name = record.get("from_name")
    name = name if is_text(name) else kind
    value = record.get("value")
    value = value if isinstance(value, dict) else {}
    content: Any = value.get(_ATTRIBUTE_KEYS[kind])
    text = f"{kind} {shown(name)} = {shown(content)}"
    if str(record.get("id")) in region_ids or _SHAPE_KEYS & value.keys():
        return f"not kept: {text}, on a region"
    if not _is_plain(content):
        return f"not kept: {text}, on the whole frame"
    earlier = attributes.get(name)
    attributes[name] = content if earlier is None else [*_as_list(earlier), *_as_list(content)]
    return f"kept as an attribute of the frame: {text}"


def _remarks_on_region(region: Mapping[str, Any]) -> Iterator[str]:
    value = region.get("value")
    if not isinstance(value, dict):
        return
    for key in sorted(set(_ATTRIBUTE_KEYS.values()) & value.keys()):
        yield f"not kept: {key} = {shown(value[key])}, on a region"


def _as_list(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [content]


def _is_plain(content: Any, depth: int = 3) -> bool:
    """Return whether a value is text, a finite number or a list of these, as JSON can hold."""
    if isinstance(content, list):
        return bool(content) and depth > 0 and all(_is_plain(each, depth - 1) for each in content)
    return is_text(content) or (
        not isinstance(content, str | bool) and as_finite_number(content) is not None
    )


def correct_item(item: Item, verdict: Verdict) -> Item:
    """Make the item as a person left it; changed objects record who changed them, and when.

    Raises:
        StudioError: a region cannot be converted to an object.
    """
    originals = dict(zip(object_ids(item.objects), item.objects, strict=True))
    order = {name: index for index, name in enumerate(originals)}
    ordered: list[tuple[int, Object]] = []
    for region in verdict.regions:
        name = str(region.get("id"))
        original = originals.get(name)
        obj = to_object(region, original, item)
        if obj is None:
            continue
        untouched = obj is original
        if original is None:
            obj, untouched = restore_pushed(region, obj, item)
        if not untouched:
            obj = replace(obj, by=verdict.provenance(name))
        ordered.append((order.get(name, len(order)), obj))
    ordered.sort(key=lambda pair: pair[0])
    attributes = {**(item.attributes or {}), **verdict.attributes} or None
    return replace(item, objects=tuple(obj for _, obj in ordered), attributes=attributes)


@dataclass
class AnnotationReader:
    """Reads the annotations of a project, counts tasks by state, and notes unclear ones."""

    client: StudioClient
    project: int
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[tuple[str, str]] = field(default_factory=list)
    _emails: dict[int, str] = field(default_factory=dict)
    _unreadable: dict[int, str] = field(default_factory=dict)  # task id -> the server's refusal

    def fetch_annotated(self, task_states: Iterable[Task]) -> dict[int, dict[str, Any]]:
        """Fetch the tasks that a person worked on, with their annotations, by task id.

        The SDK is not used: it sends `ids`, which the server ignores, so that all tasks come.
        """
        annotated: dict[int, dict[str, Any]] = {}
        ids = (int(task["id"]) for task in task_states if task_status(task))
        for batch in chunks(ids, _IDS_PER_REQUEST):
            annotated |= {task["id"]: task for task in self._export(batch)}
        return annotated

    def _export(self, ids: Sequence[int]) -> list[dict[str, Any]]:
        """Export tasks; one that the server fails to write is noted later, and not the batch."""
        params = {"exportType": "JSON", "download_all_tasks": "true", "ids[]": list(map(str, ids))}
        try:
            listed = self.client.get(f"/api/projects/{self.project}/export", params)
            tasks = listed if isinstance(listed, list) else []
            return [task for task in tasks if isinstance(task, dict) and task.get("id") in ids]
        except StudioError as error:
            if isinstance(error, LostResponse) or ": 500:" not in str(error):
                raise
            if len(ids) > 1:
                half = len(ids) // 2
                return [*self._export(ids[:half]), *self._export(ids[half:])]
            self._unreadable[ids[0]] = str(error).partition(": 500:")[2].strip()
            return []

    def read_verdict(
        self,
        name: str,
        task_states: Sequence[Task],
        annotated_tasks: Mapping[int, Mapping[str, Any]],
    ) -> Verdict | None:
        """Read the submitted annotation of a task; None, counted or noted, where there is not one.

        One annotation that is marked as ground truth wins over the others.
        """
        try:
            annotations = [
                annotation
                for task in task_states
                for annotation in self._list_annotations(task, annotated_tasks)
            ]
        except StudioError as error:
            self.note(name, "unclear", str(error))
            return None
        submitted = [each for each in annotations if not each.get("was_cancelled")]
        starred = [each for each in submitted if each.get("ground_truth")]
        submitted = starred if len(starred) == 1 else submitted
        has_draft = any(task.get("draft_exists") for task in task_states)
        if submitted and has_draft:
            self.remark(name, "a draft after the annotation is not submitted")
        if len({json.dumps(each.get("result"), sort_keys=True) for each in submitted}) > 1:
            authors = ", ".join(sorted({self._author(each) for each in submitted}))
            reason = f"{len(submitted)} annotations, by {authors}: delete all but one"
            self.note(name, "several", reason)
            return None
        if submitted:
            newest = max(submitted, key=lambda each: str(each.get("updated_at")))
            try:
                author, updated_at = self._author(newest), str(newest.get("updated_at"))
                return read_result(newest.get("result"), author, updated_at)
            except StudioError as error:
                self.note(name, "unclear", str(error))
        elif has_draft:
            self.note(name, "begun", "a draft is not submitted")
        elif annotations:
            self.note(name, "skipped", f"by {self._author(annotations[-1])}")
        else:
            self.counts["not looked at"] += 1
        return None

    def _list_annotations(
        self, task: Task, annotated_tasks: Mapping[int, Mapping[str, Any]]
    ) -> list[Mapping[str, Any]]:
        exported = annotated_tasks.get(task["id"])
        has_some = task.get("total_annotations") or task.get("cancelled_annotations")
        if exported is None and has_some:
            reason = self._unreadable.get(task["id"], "it left them out")
            raise StudioError(f"the server cannot export its annotations: {reason}")
        listed = (exported or {}).get("annotations") or []
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise StudioError(f"annotations that are no records: {shown(listed)}")
        return listed

    def note(self, name: str, state: str, reason: str) -> None:
        """Count a task, and note it for a person to look at."""
        self.counts[state] += 1
        self.remark(name, f"{state}: {reason}")

    def remark(self, name: str, reason: str) -> None:
        """Note a task that is counted elsewhere."""
        self.notes.append((name, reason))

    def _author(self, annotation: Mapping[str, Any]) -> str:
        author = annotation.get("completed_by")
        user_id = as_whole_number(author.get("id") if isinstance(author, dict) else author)
        if not self._emails:
            self._emails = {each["id"]: each["email"] for each in self.client.get("/api/users/")}
        return "unknown" if user_id is None else self._emails.get(user_id, f"user {user_id}")


def group_notes(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Join notes of one reason to one line: "dock.mp4#0, dock.mp4#5 and 50 more: unclear: ..."."""
    names: dict[str, list[str]] = {}
    for name, reason in notes:
        names.setdefault(reason, []).append(name)
    return [f"{_enumerate(each)}: {reason}" for reason, each in names.items()]


def _enumerate(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")

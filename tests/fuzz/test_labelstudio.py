"""Annotations of Label Studio that are changed at random.

Every frame of a pull is submitted, or counted by what it is instead. A submitted frame has an
object for every region of one of its annotations, but for brush masks that were erased.
"""

from fractions import Fraction

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import fuzz, mutated, outcome

from annotate.dataset.folder import Dataset, create_dataset, load_dataset
from annotate.items import masks
from annotate.items.records import Header, Item, Object
from annotate.labelstudio.client import Project
from annotate.labelstudio.pull import pull_dataset
from annotate.labelstudio.regions import REGION_TYPES, to_regions

DISC = masks.encode(np.hypot(*(np.indices((48, 64)) - 20)) < 9)
MUG = Object("mug", (10.0, 12.0, 30.0, 40.0), 0.5, 1, source="yoloe")
PLATE = Object("plate", masks.box(DISC), None, 2, DISC, "sam2/tiny")
ITEMS = [Item("dock", n, Fraction(n), 64, 48, (MUG, PLATE)) for n in range(3)]
CONFIG = '<View><RectangleLabels name="box"><Label value="mug"/></RectangleLabels></View>'
DRAWN = {"original_width": 64, "original_height": 48, "to_name": "image"}
SIDES = {"x": 10, "y": 20, "width": 30, "height": 40, "rotation": 5}
OUTLINE = {"points": [[10, 10], [50, 10], [50, 60]], "closed": True}
BOX = {"id": "n1", "type": "rectanglelabels", "value": SIDES | {"rectanglelabels": ["plate"]}}
POLYGON = {"id": "n2", "type": "polygonlabels", "value": OUTLINE | {"polygonlabels": ["mug"]}}
CHOICE = {"id": "n3", "type": "choices", "from_name": "night", "value": {"choices": ["yes"]}}
RESULTS = [to_regions(ITEMS[0]), [POLYGON | DRAWN, CHOICE], [*to_regions(ITEMS[2]), BOX | DRAWN]]
SAVED = {"completed_by": 1, "was_cancelled": False, "updated_at": "2026-01-01T10:00:00Z"}
VALID = [[SAVED | {"id": n, "result": result}] for n, result in enumerate(RESULTS)]


class Client:
    """Label Studio with one project, whose tasks have these annotations."""

    url = "http://127.0.0.1:8080"

    def __init__(self, annotations):
        self.tasks_annotations = annotations

    def require_project(self, name):
        return Project(1, name, CONFIG, "", len(ITEMS), "2026-01-01")

    def server_identity(self):
        return "2026"

    def tasks(self, project, include, filters=()):
        state = {"total_annotations": 1, "cancelled_annotations": 0, "draft_exists": False}
        for n in range(len(ITEMS)):
            data = {"ext_id": f"dock#{n}@5e1f5e1f"}
            yield {"id": n, "data": data, "updated_at": "2026-01-01T10:00:00Z", **state}

    def get(self, path, params=None):
        if path == "/api/users/":
            return [{"id": 1, "email": "a@b.c"}]
        return [{"id": n, "annotations": each} for n, each in enumerate(self.tasks_annotations)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    clips = {"dock": {"fingerprint": "5e1f" * 16}}
    dataset = Dataset(tmp_path_factory.mktemp("studio") / "set", ("mug", "plate"), clips)
    with create_dataset(dataset, Header("build")) as writer:
        for item in ITEMS:
            image = np.full((48, 64, 3), item.frame, np.uint8)
            cv2.imwrite(str(writer.images / f"dock-{item.frame:06d}.png"), image)
            writer.add(f"dock-{item.frame:06d}.png", item)
    return load_dataset(dataset.path)


@fuzz
@given(st.tuples(*(mutated(annotations, 2) for annotations in VALID)))
def test_every_frame_and_region_is_accounted_for(dataset, annotations):
    out = dataset.path.parent / "pulled"
    report = outcome(
        lambda: pull_dataset(dataset, Client(annotations), out, project="1", force=True)
    )
    if report is None:
        return
    pulled = list(load_dataset(out))
    assert sum(report.frame_counts.values()) == len(ITEMS), report
    assert report.frame_counts["submitted"] == len(pulled)
    for sample in pulled:
        given_annotations = annotations[sample.item.frame]
        results = [each["result"] for each in given_annotations if isinstance(each, dict)]
        assert any(_is_read(result, sample.item.objects) for result in results)


def _is_read(result, objects):
    """Return whether there is an object for each region; a brush mask may be empty."""
    kinds = [record["type"] for record in result if record.get("type") in REGION_TYPES.values()]
    brushes = kinds.count("brushlabels")
    return len(kinds) - brushes <= len(objects) <= len(kinds)

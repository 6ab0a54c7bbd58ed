from dataclasses import replace

import numpy as np
import pytest
from labelstudio_fixtures import boxed, make_dataset

from annotate.dataset import diff
from annotate.dataset.folder import object_ids
from annotate.errors import DatasetError
from annotate.items import masks
from annotate.items.records import Object
from annotate.viewing import review

SIZE = 64, 48


def masked(rows, label="target", **fields):
    mask = np.zeros(SIZE[::-1], bool)
    mask[rows, 10:30] = True
    rle = masks.encode(mask)
    return Object(label, masks.box(rle), mask=rle, source="light", **fields)


def corrected(before, after, index):
    """Return `after`, edited from object `index` of `before`; None stands for an added object."""
    region = "new" if index is None else object_ids(before)[index]
    return replace(after, by={"who": "ada@example.com", "when": "2026-01-02", "region": region})


BEFORE = [boxed(), boxed("target", (40.0, 10.0, 50.0, 20.0)), masked(slice(10, 30)), boxed(track=3)]


@pytest.fixture
def datasets(tmp_path):
    """A frame with a box moved, one relabelled, a mask halved, a box deleted, one added."""
    after = [
        corrected(BEFORE, replace(BEFORE[0], box=(20.125, 8.5, 40.375, 40.0), score=None), 0),
        corrected(BEFORE, replace(BEFORE[1], label="mech"), 1),
        corrected(BEFORE, masked(slice(20, 30)), 2),
        corrected(BEFORE, boxed("mech", (0.0, 0.0, 4.0, 4.0), source="person", score=None), None),
    ]
    return make_dataset(tmp_path / "was", [BEFORE, [boxed()]]), make_dataset(
        tmp_path / "now", [after]
    )


def test_each_kind_of_change_is_listed(datasets):
    changes = diff.diff_datasets(*datasets)
    assert [change.kind for change in changes] == [
        "moved",
        "relabelled",
        "moved",
        "deleted",
        "added",
    ]
    assert changes[0].iou == pytest.approx(1 / 3, abs=1e-6)
    assert changes[2].iou == 0.5
    rows = diff.to_dataframe(changes)
    assert rows["who"].tolist()[:2] == ["ada@example.com"] * 2
    assert rows.loc[1, ["class", "new_class"]].tolist() == ["target", "mech"]
    assert rows["who"].isna().tolist() == [False] * 3 + [
        True,
        False,
    ]  # unknown for deletions
    table = diff.summarize(changes)
    assert table.loc[("mech", "colour"), list(diff.KINDS)].tolist() == [0, 1, 0, 1, 0]
    assert table.loc[("target", "light"), "iou"] == 0.5
    assert table.loc[("mech", "person"), "added"] == 1
    assert (table["work"] == 1).all()


def test_unchanged_objects_are_kept_and_only_common_frames_count(tmp_path):
    before = make_dataset(tmp_path / "was", [BEFORE, [boxed()], []])
    after = make_dataset(tmp_path / "now", [BEFORE])
    changes = diff.diff_datasets(before, after)
    assert [change.kind for change in changes] == ["kept"] * 4
    assert diff.summarize(changes)["work"].tolist() == [0, 0, 0]
    with pytest.raises(DatasetError, match="nothing of .* was changed"):
        review.draw_changes(before, after, changes)
    other = make_dataset(tmp_path / "other", [BEFORE], video="bay.mp4")
    with pytest.raises(DatasetError, match="it has no frame of"):
        diff.diff_datasets(before, other)


def test_an_object_whose_dataset_was_built_again_is_kept(tmp_path):
    """Its score and track are of the earlier dataset, its box is the same."""
    before = make_dataset(tmp_path / "was", [[boxed(score=0.5, track=9)]])
    after = make_dataset(tmp_path / "now", [[boxed(track=3)]])
    assert [change.kind for change in diff.diff_datasets(before, after)] == ["kept"]


def test_regions_without_an_id_are_all_counted(tmp_path):
    new = [boxed(box=(x, 0.0, x + 5.0, 5.0), by={"who": "ada@example.com"}) for x in (0.0, 20.0)]
    same = [replace(obj, by={"region": "None"}) for obj in new]
    before = make_dataset(tmp_path / "was", [[]])
    for number, objects in enumerate([new, same]):
        after = make_dataset(tmp_path / f"now{number}", [objects])
        assert [change.kind for change in diff.diff_datasets(before, after)] == ["added"] * 2


def test_objects_of_other_programs_are_matched_by_box(tmp_path):
    near = boxed(box=(12.0, 8.5, 32.0, 40.0), source="other")
    far = boxed(box=(50.0, 0.0, 60.0, 10.0), source="other")
    before = make_dataset(tmp_path / "was", [[boxed()]])
    after = make_dataset(tmp_path / "now", [[far, near]])
    assert [change.kind for change in diff.diff_datasets(before, after)] == ["moved", "added"]


def test_the_largest_changes_come_first_and_the_sheet_shows_both_sides(datasets, tmp_path):
    changes = diff.diff_datasets(*datasets)
    kinds = [change.kind for change in review.largest_changes(changes, 2)]
    assert kinds == ["moved", "deleted"]  # by the number of changed pixels
    sheet = review.draw_changes(*datasets, changes)
    assert sheet.ndim == 3 and sheet.std() > 10


def test_the_command_prints_a_summary_and_draws_a_sheet(datasets, annotate, tmp_path):
    code, out, _ = annotate("diff", *(each.path for each in datasets), "-o", tmp_path / "c.png")
    assert code == 0 and (tmp_path / "c.png").exists()
    assert (
        out.splitlines()[0] == "class\tsource\tkept\tmoved\trelabelled\tdeleted\tadded\tiou\twork"
    )


def test_touches_are_counted_by_what_each_correction_takes(datasets, annotate):
    """Two moved, one relabelled, one deleted, one added with its class, and one look."""
    changes = diff.diff_datasets(*datasets)
    assert diff.count_touches(changes, 1, classes=3) == 2 * 2 + 1 + 1 + 3 + 1
    assert diff.count_touches(changes, 1, classes=1) == 2 * 2 + 1 + 1 + 2 + 1
    assert diff.count_common_frames(*datasets) == 1
    _, _, err = annotate("diff", *(each.path for each in datasets))
    assert "10 touches on 1 frame" in err

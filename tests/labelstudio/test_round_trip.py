"""The dataset of the demo is pushed, corrected, pulled, compared and exported."""

import shutil

import pytest
from labelstudio_fixtures import submit_all, tasks_of

from annotate.dataset import diff
from annotate.dataset.export import FORMATS, export_dataset
from annotate.dataset.folder import load_dataset
from annotate.labelstudio.pull import pull_dataset
from annotate.labelstudio.push import push_dataset

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio, pytest.mark.slow]


def test_the_demo_dataset_is_pushed_corrected_pulled_and_exported(server, finished_demo, tmp_path):
    dataset = load_dataset(shutil.copytree(finished_demo[0] / "dataset", tmp_path / "dataset"))
    project = push_dataset(dataset, server, project="the loop").project.id
    assert len(tasks_of(server, project)) == len(dataset) == 28
    submit_all(server, project)
    [task] = tasks_of(server, project)[next(iter(tasks_of(server, project)))]
    [annotation] = server.get(f"/api/tasks/{task['id']}/annotations/")
    server.send(
        "PATCH", f"/api/annotations/{annotation['id']}/", {"result": annotation["result"][1:]}
    )

    report = pull_dataset(dataset, server, tmp_path / "out", project="the loop")
    assert report.frame_counts["submitted"] == 28
    corrected = load_dataset(tmp_path / "out")
    changes = diff.diff_datasets(dataset, corrected)
    assert [change.kind for change in changes if change.kind != "kept"] == ["deleted"]
    for name in ("coco", "yolo"):
        export_dataset(corrected, FORMATS.load(name), tmp_path / name)
    assert push_dataset(corrected, server, project="the loop").frame_counts == {"annotated": 28}

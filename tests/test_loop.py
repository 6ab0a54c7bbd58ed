"""The demo's dataset through the loop: pushed, corrected a little, pulled, compared, exported."""

import pytest
from studio_fixture import submit_all, tasks_of

from annotate import corrections, demo, exports, folder
from annotate.pull import pull
from annotate.push import push

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio, pytest.mark.slow]


def test_the_demo_s_dataset_goes_through_the_loop(server, tmp_path):
    demo.run(tmp_path / "demo")
    dataset = folder.load(tmp_path / "demo" / "dataset")
    project = push(dataset, server, project="the loop").project.id
    assert len(tasks_of(server, project)) == len(dataset) == 28
    submit_all(server, project)
    [some] = tasks_of(server, project)[next(iter(tasks_of(server, project)))]
    [said] = server.get(f"/api/tasks/{some['id']}/annotations/")
    server.send("PATCH", f"/api/annotations/{said['id']}/", {"result": said["result"][1:]})

    assert pull(dataset, server, tmp_path / "out", project="the loop").frames["submitted"] == 28
    corrected = folder.load(tmp_path / "out")
    found = corrections.changes(dataset, corrected)
    assert [change.kind for change in found if change.kind != "kept"] == ["deleted"]
    for way in ("coco", "yolo"):
        exports.export(corrected, exports.load(way), tmp_path / way)
    assert push(corrected, server, project="the loop").frames == {"annotated": 28}

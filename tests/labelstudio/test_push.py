"""Push to a real server that loses requests, is slow or is killed."""

import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from labelstudio_fixtures import (
    Proxy,
    boxed,
    free_port,
    make_dataset,
    migrated,
    start,
    submit,
    tasks_of,
    through,
)

from annotate.dataset.folder import external_id, load_dataset
from annotate.errors import DatasetError, LostResponse, StudioError, UnknownName
from annotate.labelstudio import sync
from annotate.labelstudio.client import TOKEN_VARIABLE, StudioClient, read_token
from annotate.labelstudio.push import push_dataset
from annotate.labelstudio.server import stop_process
from annotate.labelstudio.tasks import PushPart

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio]


@pytest.fixture
def dataset(tmp_path):
    """A dataset of twelve frames: the third is empty, the others have a box each."""
    return make_dataset(tmp_path / "mechs", [[boxed()] if n != 2 else [] for n in range(12)])


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(sync, "_MAX_BATCH_TASKS", 5)
    monkeypatch.setattr(sync, "_FIRST_BATCH_TASKS", 5)
    monkeypatch.setattr(sync, "_PAUSE_SECONDS", 0.1)


def frame_id(dataset, number):
    return external_id(dataset, "dock.mp4", 5 * number)


def each_frame_once(server, project, dataset):
    """Return whether each frame of the dataset has one task with one prediction."""
    tasks = tasks_of(server, project)
    names = {external_id(dataset, s.item.video, s.item.frame) for s in dataset}
    predicted = [each["task"] for each in server.get("/api/predictions", {"project": project})]
    ids = sorted(task["id"] for same_frame in tasks.values() for task in same_frame)
    return tasks.keys() == names and len(ids) == len(names) and sorted(predicted) == ids


def test_a_second_push_adds_only_new_frames(server, dataset, tmp_path):
    title = "grow"
    report = push_dataset(dataset, server, project=title)
    assert report.frame_counts == {"new": 12}
    assert push_dataset(dataset, server, project=title).frame_counts == {"unchanged": 12}
    more = make_dataset(tmp_path / "more", [[boxed()] if n != 2 else [] for n in range(14)])
    assert push_dataset(more, server, project=title).frame_counts == {"unchanged": 12, "new": 2}
    assert each_frame_once(server, report.project.id, more)


def ranked(*numbers):
    """A list of frames of the dataset, in this order."""
    return PushPart(
        {
            ("dock.mp4", 5 * number): {"rank": rank, "why": "mech missing", "worth": 1.5}
            for rank, number in enumerate(numbers, start=1)
        }
    )


def in_tab(server, project, title="By rank"):
    """The frame numbers and ranks of the tasks that a tab shows, in its order."""
    [tab] = [
        each
        for each in server.get("/api/dm/views/", {"project": project})
        if each["data"]["title"] == title
    ]
    listed = server.get("/api/tasks", {"view": tab["id"], "fields": "all"})["tasks"]
    return [(task["data"]["frame"] // 5, task["data"].get("rank")) for task in listed]


def test_a_list_of_frames_is_pushed_with_its_ranks_and_shown_by_rank(server, dataset):
    """Twelve ranks: the tab sorts them as numbers."""
    order = [7, 3, 11, 0, 1, 2, 4, 5, 6, 8, 10, 9]
    project = push_dataset(dataset, server, project="list", part=ranked(*order)).project.id
    assert in_tab(server, project) == [(n, rank) for rank, n in enumerate(order, 1)]
    data = tasks_of(server, project)[frame_id(dataset, 7)][0]["data"]
    assert data.pop("image") and data.pop("ext_id") == frame_id(dataset, 7)
    assert data == {
        "video": "dock.mp4", "clip": "dock.mp4", "frame": 35, "seconds": 1.167, "width": 64,
        "height": 48, "score": 0.75, "rank": 1, "why": "mech missing", "worth": 1.5,
    }  # fmt: skip


def test_a_later_list_replaces_the_ranks_but_on_tasks_a_person_worked_on(server, dataset):
    project = push_dataset(dataset, server, project="lists", part=ranked(4, 5, 6)).project.id
    submit(server, tasks_of(server, project)[frame_id(dataset, 6)][0]["id"])
    report = push_dataset(dataset, server, project="lists", part=ranked(8, 5))
    assert report.frame_counts == {"new": 1, "unchanged": 1}
    assert in_tab(server, project) == [(8, 1), (5, 2), (6, 3)]
    whole = push_dataset(dataset, server, project="lists")
    assert whole.frame_counts == {"new": 8, "unchanged": 3, "annotated": 1}
    assert in_tab(server, project) == [(8, 1), (5, 2), (6, 3)]


def test_a_part_is_of_a_class_and_of_the_list(server, tmp_path):
    objects = [[boxed()], [boxed("target"), boxed()], [boxed("target")], []]
    dataset = make_dataset(tmp_path / "parts", objects)
    part = PushPart(labels=["target"])
    project = push_dataset(dataset, server, project="part", part=part).project.id
    assert tasks_of(server, project).keys() == {frame_id(dataset, n) for n in (1, 2)}
    both = PushPart(ranked(0, 2, 99).ranks, ["target"])
    report = push_dataset(dataset, server, project="both parts", part=both)
    assert report.frame_counts == {"new": 1}
    assert report.notes == ["2 frames of the list are not in this part of the dataset"]
    with pytest.raises(UnknownName, match="no class 'targte'"):
        push_dataset(dataset, server, part=PushPart(labels=["targte"]))
    with pytest.raises(DatasetError, match="no frame of this list or with such an object"):
        push_dataset(dataset, server, project="none", part=ranked(99))
    assert server.find_project("title:none") is None


def test_predictions_have_the_version_of_the_model_and_the_project_shows_it(server, dataset):
    push_dataset(dataset, server, project="versions")
    report = push_dataset(dataset, server, project="versions", model_version="mine 2")
    assert report.frame_counts == {"refreshed": 12}
    project = report.project.id
    versions = {
        each["model_version"] for each in server.get("/api/predictions", {"project": project})
    }
    assert versions == {"mine 2"} == {server.get_project(project).model_version}


def test_predictions_are_refreshed_on_untouched_tasks_only(server, dataset, tmp_path):
    """Tasks that a person annotated, skipped or began stay unchanged, with their predictions."""
    title = "touch"
    project = push_dataset(dataset, server, project=title).project.id
    tasks = tasks_of(server, project)
    annotated, skipped, begun = (tasks[frame_id(dataset, n)][0]["id"] for n in (0, 1, 3))
    submit(server, annotated)
    submit(server, skipped, [], was_cancelled=True)
    server.send("POST", f"/api/tasks/{begun}/drafts", {"result": [], "lead_time": 1.0})
    before = {p["task"]: p["result"] for p in server.get("/api/predictions", {"project": project})}

    moved = [[boxed(box=(1.0, 1.0, 20.0, 20.0))] if n != 2 else [] for n in range(12)]
    report = push_dataset(make_dataset(tmp_path / "again", moved), server, project=title)
    assert report.frame_counts == {
        "annotated": 1, "skipped": 1, "begun": 1, "refreshed": 8, "unchanged": 1
    }  # fmt: skip
    after = {p["task"]: p["result"] for p in server.get("/api/predictions", {"project": project})}
    for task in (annotated, skipped, begun):
        assert after[task] == before[task]
    untouched = tasks[frame_id(dataset, 5)][0]["id"]
    assert after[untouched][0]["value"]["x"] == pytest.approx(100 / 64)
    assert len(server.get("/api/predictions", {"project": project})) == 12
    [annotation] = server.get(f"/api/tasks/{annotated}/annotations/")
    assert annotation["result"] == before[annotated]


def test_a_lost_response_of_an_import_is_recovered(label_studio, dataset, small_batches):
    """The server carries out the second import, but its response is lost."""
    lose = lambda when, n: "drop" if (when, n) == ("after", 2) else None  # noqa: E731
    with through(label_studio, lose) as (server, proxy):
        report = push_dataset(dataset, server, project="lost answer")
        assert proxy.count == 3
        assert report.frame_counts == {"new": 12}
        assert each_frame_once(server, report.project.id, dataset)


def test_a_lost_request_is_sent_again(label_studio, dataset, small_batches, monkeypatch):
    monkeypatch.setattr(sync, "_MAX_CHECKS", 2)
    monkeypatch.setattr(sync, "_PAUSE_SECONDS", 0.1)
    lose = lambda when, n: "drop" if (when, n) == ("before", 2) else None  # noqa: E731
    with through(label_studio, lose) as (server, proxy):
        report = push_dataset(dataset, server, project="lost request")
        assert proxy.count == 4
        assert each_frame_once(server, report.project.id, dataset)


def test_a_batch_that_arrives_late_is_deleted(label_studio, dataset, small_batches, monkeypatch):
    """The server gets the first request after the batch was sent again."""
    monkeypatch.setattr(sync, "_MAX_CHECKS", 1)
    monkeypatch.setattr(sync, "_PAUSE_SECONDS", 0.1)
    sent_again, arrived = threading.Event(), threading.Event()

    def slow(when, number):
        if (when, number) == ("before", 1):
            sent_again.wait()
        elif (when, number) == ("after", 2):
            sent_again.set()
        elif (when, number) == ("after", 1):
            arrived.set()

    with through(label_studio, slow, 3.0) as (server, _):
        report = push_dataset(dataset, server, project="late")
        arrived.wait()
        again = push_dataset(dataset, server, project="late")
        assert again.frame_counts["doubles deleted"] + report.frame_counts["doubles deleted"] == 5
        assert each_frame_once(server, report.project.id, dataset)


def test_an_import_that_ends_after_the_timeout_is_recovered(label_studio, dataset, small_batches):
    pushed = threading.Event()

    def slow(when, number):
        if (when, number) == ("after", 1):
            pushed.wait()

    with through(label_studio, slow, 3.0) as (server, _):
        report = push_dataset(dataset, server, project="timeout")
        pushed.set()
        assert report.frame_counts == {"new": 12}
        assert each_frame_once(server, report.project.id, dataset)


PUSH = """
import sys
from pathlib import Path
from annotate.dataset.folder import load_dataset
from annotate.labelstudio import sync
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.push import push_dataset
sync._MAX_BATCH_TASKS = sync._FIRST_BATCH_TASKS = 5
with StudioClient(sys.argv[1], sys.argv[2], Path(sys.argv[3])) as client:
    push_dataset(load_dataset(sys.argv[4]), client, project="killed")
"""


def test_a_killed_push_can_be_continued(label_studio, server, dataset):
    """SIGKILL comes when the second batch has been committed."""
    children = []

    def kill(when, number):
        if (when, number) == ("after", 2):
            os.kill(children[0].pid, signal.SIGKILL)

    with Proxy(label_studio.url, "/import", kill) as proxy:
        arguments = [
            proxy.url,
            label_studio.token,
            str(label_studio.document_root),
            str(dataset.path),
        ]
        children.append(subprocess.Popen([sys.executable, "-c", PUSH, *arguments]))
        assert children[0].wait(120) == -signal.SIGKILL
    assert push_dataset(dataset, server, project="killed").frame_counts == {
        "unchanged": 10,
        "new": 2,
    }
    assert each_frame_once(server, server.find_project("killed").id, dataset)


def test_a_push_is_continued_after_the_server_was_killed(program, dataset, tmp_path, small_batches):
    data = tmp_path / "data"
    shutil.copytree(migrated(program), data)
    port = free_port()
    running, process = start(program, data, port)

    def kill(when, number):
        if (when, number) == ("after", 2):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    refused = pytest.raises(StudioError, match="no Label Studio answers|lost")
    with through(running, kill) as (server, _), refused:
        push_dataset(dataset, server, project="struck")
    running, process = start(program, data, port)
    try:
        with running.client() as server:
            report = push_dataset(dataset, server, project="struck")
            assert report.frame_counts["new"] + report.frame_counts["unchanged"] == 12
            assert report.frame_counts["new"] in (2, 7)
            assert each_frame_once(server, report.project.id, dataset)
    finally:
        stop_process(process.pid)
        process.wait()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda d: (d.images / "dock-000005.png").unlink(), "dock-000005.png: the image"),
        (
            lambda d: (d.images / "dock-000005.png").write_bytes(b"no"),
            "cannot? be read|can be read",
        ),
        (lambda d: d.items.write_text(d.items.read_text().replace('"mech"', '"tank"', 1)), "tank"),
    ],
    ids=["missing image", "damaged image", "unknown label"],
)
def test_a_bad_dataset_is_refused_before_anything_is_sent(server, dataset, damage, message):
    damage(dataset)
    with pytest.raises(DatasetError, match=message):
        push_dataset(load_dataset(dataset.path), server, project="refused")
    assert server.find_project("refused") is None


def test_an_image_of_another_size_is_refused(server, dataset):
    from PIL import Image

    Image.new("RGB", (48, 64)).save(dataset.images / "dock-000005.png")
    with pytest.raises(DatasetError, match="48x64, but its item says 64x48"):
        push_dataset(dataset, server, project="refused")


def test_tasks_are_batched_by_size_and_too_large_ones_refused(monkeypatch):
    task = "a", b"0" * 6000
    monkeypatch.setattr(sync, "_MAX_BATCH_BYTES", 13_000)
    assert [len(batch.names) for batch in sync.batch_tasks([task] * 5)] == [2, 2, 1]
    monkeypatch.setattr(sync, "_MAX_TASK_BYTES", 5_000)
    with pytest.raises(DatasetError, match="a: a task of 0 MB, but Label Studio accepts"):
        list(sync.batch_tasks([task]))


def test_a_project_that_is_deleted_during_a_push_is_an_error(label_studio, dataset, small_batches):
    def delete(when, number):
        if (when, number) == ("before", 2):
            with label_studio.client() as other:
                other.send("DELETE", f"/api/projects/{other.find_project('doomed').id}/")

    with through(label_studio, delete) as (server, _):
        with pytest.raises(StudioError, match="/import: 404"):
            push_dataset(dataset, server, project="doomed")
        with pytest.raises(StudioError, match="no project 987654; was it deleted"):
            push_dataset(dataset, server, project="987654")


def test_an_edited_config_is_kept_and_completed(server, dataset, tmp_path):
    """The label and colour of the person stay; a new class of the vocabulary is added."""
    title = "edited"
    project = push_dataset(dataset, server, project=title).project
    edited = project.config.replace("#00D9FF", "#123456").replace(
        "</RectangleLabels>", '<Label value="mine" /></RectangleLabels>'
    )
    server.send("PATCH", f"/api/projects/{project.id}/", {"label_config": edited})
    grown = make_dataset(
        tmp_path / "grown", [[boxed("drone")]], classes=("mech", "Gelände wagen", "target", "drone")
    )
    report = push_dataset(grown, server, project=title)
    assert report.added_classes == ("drone",)
    for part in ("#123456", 'value="mine"'):
        assert part in report.project.config
    assert report.project.config.count('value="drone"') == 3
    assert push_dataset(grown, server, project=title).added_classes == ()

    broken = edited.replace('name="brush"', 'name="pinsel"')
    server.send("PATCH", f"/api/projects/{project.id}/", {"label_config": broken})
    with pytest.raises(StudioError, match='no <BrushLabels name="brush"> any more'):
        push_dataset(dataset, server, project=title)


@pytest.mark.parametrize("title", ["ab", "a" * 51])
def test_a_title_of_wrong_length_is_refused(server, dataset, title):
    with pytest.raises(StudioError, match="a project's title has 3 to 50 characters"):
        push_dataset(dataset, server, project=title)


def test_two_projects_of_the_same_title_are_refused(server, dataset):
    first = push_dataset(dataset, server, project="twins").project
    body = {"title": "twins", "label_config": first.config}
    server.send("POST", "/api/projects/", body)
    with pytest.raises(StudioError, match=f"give the number as `project`, such as {first.id}"):
        push_dataset(dataset, server, project="twins")
    assert push_dataset(dataset, server, project=str(first.id)).frame_counts == {"unchanged": 12}


def test_a_post_is_never_sent_twice(label_studio):
    """The SDK sends a POST three times."""
    with through(label_studio, lambda when, n: "drop") as (server, proxy):
        with pytest.raises(LostResponse):
            server.send("POST", "/api/projects/1/import", [])
        assert proxy.count == 1


def test_images_are_uploaded_to_a_remote_server(label_studio, dataset):
    """Without a document root, images can only be uploaded."""
    with StudioClient(label_studio.url, label_studio.token) as server:
        project = push_dataset(dataset, server, project="elsewhere").project.id
        [task] = tasks_of(server, project)[frame_id(dataset, 4)]
        assert task["data"]["image"].startswith("/data/upload/")
        shown = server._wrapper.httpx_client.request(task["data"]["image"], method="GET")
        assert shown.content == (dataset.images / "dock-000020.png").read_bytes()
        assert push_dataset(dataset, server, project="elsewhere").frame_counts == {"unchanged": 12}


def test_the_token_is_read_from_the_environment_or_a_private_file(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with pytest.raises(StudioError, match="no token: set LABEL_STUDIO_API_KEY"):
        read_token(None)
    monkeypatch.setenv(TOKEN_VARIABLE, " abc\n")
    assert read_token(None) == "abc"
    file = tmp_path / "token"
    file.write_text("def\n")
    file.chmod(0o644)
    with pytest.raises(StudioError, match="chmod 600"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == "def"

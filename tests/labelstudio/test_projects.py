"""The project of a dataset is found by the content of its frames, not by the folder's name."""

import threading
from fractions import Fraction

import pytest
from labelstudio_fixtures import boxed, make_dataset, submit_all, tasks_of
from PIL import Image

from annotate.dataset.folder import Dataset, create_dataset, external_id, load_dataset
from annotate.errors import StudioError
from annotate.items.records import Header, Item
from annotate.labelstudio.pull import pull_dataset
from annotate.labelstudio.push import find_pushed_dataset, push_dataset, push_lock, record_push

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio]


def make_project(server, title, config="<View></View>"):
    return server.send("POST", "/api/projects/", {"title": title, "label_config": config})["id"]


def of_clip(path, fingerprint):
    """Make a dataset of one frame of a clip, which is called as all others are."""
    clip = {"fingerprint": fingerprint * 32, "frame_count": 900, "width": 64, "height": 48}
    with create_dataset(Dataset(path, ("mech",), {"dock.mp4": clip}), Header("build")) as writer:
        Image.new("RGB", (64, 48)).save(writer.images / "dock-000000.png")
        writer.add("dock-000000.png", Item("dock.mp4", 0, Fraction(0), 64, 48, (boxed(),)))
    return load_dataset(path)


def imported(path, colour, objects=()):
    """Make a dataset as `annotate import` does: of no clip that is known."""
    with create_dataset(Dataset(path, ("mech",)), Header("import")) as writer:
        Image.new("RGB", (64, 48), colour).save(writer.images / "a.png")
        writer.add("a.png", Item("images", 0, Fraction(0), 64, 48, objects))
    return load_dataset(path)


def test_datasets_of_one_folder_name_have_a_project_each(server, tmp_path):
    foreign = make_project(server, "frames")
    task = {"data": {"image": "/data/none.png"}}
    server.send("POST", f"/api/projects/{foreign}/import", [task])
    first, second = (of_clip(tmp_path / name / "frames", f"{name}1") for name in "ab")
    reports = [push_dataset(dataset, server) for dataset in (first, second)]
    assert [report.project.title for report in reports] == ["frames 2", "frames 3"]
    assert [report.frame_counts for report in reports] == [{"new": 1}, {"new": 1}]
    assert server.get_project(foreign).task_count == 1
    for dataset, report in zip((first, second), reports, strict=True):
        assert push_dataset(dataset, server).project.id == report.project.id
        submit_all(server, report.project.id)
        pulled = pull_dataset(dataset, server, dataset.path.parent / "out")
        assert pulled.frame_counts == {"submitted": 1}
    other = of_clip(tmp_path / "c" / "frames", "c1")
    with pytest.raises(StudioError, match="no project called 'frames' has frames of"):
        pull_dataset(other, server, tmp_path / "out")


def test_images_of_two_imported_datasets_are_not_mixed(server, tmp_path):
    first = imported(tmp_path / "one" / "photos", "red", (boxed(),))
    second = imported(tmp_path / "two" / "photos", "blue")
    again = imported(tmp_path / "three" / "photos", "red")
    names = [external_id(each, "images", 0) for each in (first, second, again)]
    assert names[0].startswith("a.png@") and names[0] == names[2] != names[1]
    project = push_dataset(first, server, project="photos of both").project
    assert push_dataset(second, server, project="photos of both").frame_counts == {"new": 1}
    assert set(tasks_of(server, project.id)) == set(names)
    assert push_dataset(again, server, project="photos of both").frame_counts == {"refreshed": 1}


def test_digits_are_a_title_before_they_are_an_id(server, tmp_path):
    dataset = make_dataset(tmp_path / "2025", [[boxed()]])
    project = push_dataset(dataset, server).project
    assert (project.title, server.find_project("2025").id) == ("2025", project.id)
    assert server.find_project(project.id).id == server.find_project(f"id:{project.id}").id
    digits = f"{project.id:03}"  # a title has three characters
    called_so = make_project(server, digits)
    with pytest.raises(StudioError, match=f"give `project` as id:{called_so} or id:{digits}"):
        server.find_project(digits)
    assert server.find_project(f"title:{digits}").id == called_so
    with pytest.raises(StudioError, match="no project 3025; .* as title:3025"):
        push_dataset(dataset, server, project="3025")
    assert push_dataset(dataset, server, project="title:3025").project.title == "3025"


@pytest.mark.parametrize("name", ["1", "a" * 60])
def test_a_folder_name_of_wrong_length_is_made_a_title(server, tmp_path, name):
    dataset = make_dataset(tmp_path / name, [[boxed()]])
    title = push_dataset(dataset, server).project.title
    assert title == ("dataset 1" if name == "1" else "a" * 50)
    assert push_dataset(dataset, server).frame_counts == {"unchanged": 1}


def test_an_empty_project_of_the_browser_is_used(server, tmp_path):
    made = make_project(server, "by hand")
    dataset = make_dataset(tmp_path / "by hand", [[boxed()]])
    report = push_dataset(dataset, server)
    assert (report.project.id, report.frame_counts) == (made, {"new": 1})
    assert 'name="brush"' in report.project.config
    choices = '<Choices name="c" toName="t"><Choice value="a" /></Choices>'
    make_project(server, "texts", f'<View><Text name="t" value="$text" />{choices}</View>')
    with pytest.raises(StudioError, match="config is for other work: it has no <RectangleLabels"):
        push_dataset(dataset, server, project="texts")


def test_a_project_is_remembered_wherever_its_server_listens(server, tmp_path):
    dataset = make_dataset(tmp_path / "kept", [[boxed()]])
    project = push_dataset(dataset, server).project
    assert record_push(project, dataset.path) is None
    assert find_pushed_dataset(server.get_project(project.id)) == dataset.path
    assert record_push(project, tmp_path / "other") == dataset.path


def test_a_second_push_at_the_same_time_is_refused(server, tmp_path):
    dataset = make_dataset(tmp_path / "busy", [[boxed()]])
    held, done = threading.Event(), threading.Event()

    def hold():
        with push_lock(server, "busy"):
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    try:
        with pytest.raises(StudioError, match="another push to 'busy' runs on this machine"):
            push_dataset(dataset, server)
    finally:
        done.set()
        holder.join()
    assert push_dataset(dataset, server).frame_counts == {"new": 1}


def test_the_first_tab_begins_with_the_lowest_score(server, tmp_path):
    dataset = make_dataset(tmp_path / "tab", [[boxed(score=score)] for score in (0.9, 0.2, 0.5)])
    project = push_dataset(dataset, server).project.id
    [tab] = server.get("/api/dm/views/", {"project": project})
    listed = server.get("/api/tasks", {"view": tab["id"], "fields": "all"})["tasks"]
    assert [task["predictions_score"] for task in listed] == [0.2, 0.5, 0.9]

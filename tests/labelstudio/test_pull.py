"""Pull from a real server: untouched objects return unchanged."""

import contextlib
import dataclasses
import itertools
import json
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labelstudio_fixtures import boxed, make_dataset, submit, submit_all, tasks_of, through

from annotate.dataset.diff import diff_datasets
from annotate.dataset.folder import SplitRange, external_id, load_dataset, object_ids, with_split
from annotate.errors import DatasetError, OutputError, StudioError
from annotate.items import boxes, brush, masks
from annotate.items.records import Item, Object
from annotate.labelstudio import regions
from annotate.labelstudio.client import StudioClient
from annotate.labelstudio.pull import PULL_FILE, pull_dataset
from annotate.labelstudio.push import push_dataset
from annotate.labelstudio.regions import to_object, to_regions
from annotate.labelstudio.tasks import bulk_action

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio]
SIZE = 64, 48
NUMBERS = itertools.count()


def masked(mask, label="target", **fields):
    rle = masks.encode(np.asarray(mask, bool))
    return Object(label, masks.box(rle), mask=rle, source="light", **fields)


def donut(size_wh=SIZE):
    width, height = size_wh
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - height / 2, x - width / 2)
    return (distance < height / 3) & (distance > height / 6)


def parts_mask():
    mask = np.zeros(SIZE[::-1], bool)
    mask[2:9, 3:20] = mask[20:40, 40:60] = mask[47, 63] = True
    return mask


def pixel_mask():
    return np.arange(SIZE[0] * SIZE[1]).reshape(SIZE[::-1]) == 77


OBJECTS = [
    [
        boxed(),
        boxed("Gelände wagen", (0.0, 0.0, 64.0, 48.0), track=7),
        boxed(box=(1.0, 1.0, 2.0, 2.0)),
    ],
    [masked(donut(), track=3), masked(parts_mask(), "mech", score=0.5), masked(pixel_mask())],
    [masked(np.ones(SIZE[::-1], bool)), boxed(), boxed()],  # two of the same
    [],
]


@pytest.fixture
def pushed(server, tmp_path):
    """A dataset, the title of its project, and a function from frame number to task id."""
    dataset = make_dataset(tmp_path / "frames", OBJECTS)
    title = f"pull {next(NUMBERS)}"
    project = push_dataset(dataset, server, project=title).project.id
    tasks = tasks_of(server, project)

    def task_id(number):
        [task] = tasks[external_id(dataset, "dock.mp4", 5 * number)]
        return task["id"]

    return dataset, title, task_id


def result_of(server, task):
    [prediction] = server.get("/api/predictions", {"task": task})
    return prediction["result"]


def items(path):
    return [sample.item for sample in load_dataset(path)]


@pytest.mark.parametrize("polygons", [False, True], ids=["brush", "polygons"])
def test_untouched_objects_return_exactly(server, tmp_path, polygons):
    dataset = make_dataset(tmp_path / "frames", OBJECTS)
    push_dataset(dataset, server, project=f"as is {polygons}", polygons=polygons)
    for [task] in tasks_of(server, server.find_project(f"as is {polygons}").id).values():
        submit(server, task["id"])
    report = pull_dataset(dataset, server, tmp_path / "out", project=f"as is {polygons}")
    assert report.frame_counts == {"submitted": 4} and not report.notes
    assert items(tmp_path / "out") == items(dataset.path)
    assert (tmp_path / "out/items.jsonl").read_text().splitlines()[1:] == (
        dataset.items.read_text().splitlines()[1:]
    )
    for sample in dataset:
        pulled = (tmp_path / "out/images" / sample.image).read_bytes()
        assert pulled == (dataset.images / sample.image).read_bytes()


def test_changed_objects_record_who_and_when(server, pushed, tmp_path):
    """A box is moved, one relabelled, one deleted, one added, and a mask erased in part."""
    dataset, title, task_id = pushed
    result = result_of(server, task_id(0))
    result[0]["value"]["x"] += 100 / 64
    result[1]["value"]["rectanglelabels"] = ["mech"]
    del result[2]
    new = dict(result[0], id="brandnew", value=dict(result[0]["value"], width=10.0, x=0.0))
    made = submit(server, task_id(0), [*result, {**new, "origin": "manual"}])
    masked_result = result_of(server, task_id(1))
    erased = donut()
    erased[:20] = False
    masked_result[0]["value"]["rle"] = brush.encode_brush(erased)
    submit(server, task_id(1), masked_result)

    pull_dataset(dataset, server, tmp_path / "out", project=title)
    (first, second), (first_original, second_original) = (
        items(tmp_path / "out"),
        items(dataset.path)[:2],
    )
    moved, relabelled, added = first.objects
    who = {"who": server.current_user()["email"], "when": made["updated_at"]}
    assert moved.box == (11.0, 8.5, 31.25, 40.0)
    assert moved.by == {**who, "region": object_ids(first_original.objects)[0]}
    assert (moved.source, moved.score) == ("colour", None)
    assert relabelled == dataclasses.replace(
        first_original.objects[1],
        label="mech",
        by={**who, "region": object_ids(first_original.objects)[1]},
    )
    assert (added.source, added.box, added.by["region"]) == (
        "person",
        (0.0, 8.5, 6.4, 40.0),
        "brandnew",
    )
    assert np.array_equal(masks.decode(second.objects[0].mask), erased)
    assert second.objects[0].box == masks.box(erased) and second.objects[0].track == 3
    assert second.objects[1:] == second_original.objects[1:]


def test_unclear_frames_are_left_out_and_noted(server, pushed, tmp_path):
    dataset, title, task_id = pushed
    with pytest.raises(DatasetError, match="nothing of project .* has been submitted yet"):
        pull_dataset(dataset, server, tmp_path / "out", project=title)
    assert not (tmp_path / "out").exists()
    submit(server, task_id(0))
    submit(server, task_id(0), [])  # another annotation
    submit(server, task_id(1), [], was_cancelled=True)
    server.send("POST", f"/api/tasks/{task_id(2)}/drafts", {"result": [], "lead_time": 1.0})
    submit(server, task_id(3), [])
    report = pull_dataset(dataset, server, tmp_path / "out", project=title)
    assert report.frame_counts == {"several": 1, "skipped": 1, "begun": 1, "submitted": 1}
    email = server.current_user()["email"]
    assert sorted(reason for _, reason in report.notes) == [
        "begun: a draft is not submitted",
        f"several: 2 annotations, by {email}: delete all but one",
        f"skipped: by {email}",
    ]
    [empty] = items(tmp_path / "out")
    assert (empty.frame, empty.objects) == (15, ())  # a confirmed negative
    first, _ = server.get(f"/api/tasks/{task_id(0)}/annotations/")
    server.send("PATCH", f"/api/annotations/{first['id']}/", {"ground_truth": True})
    report = pull_dataset(dataset, server, tmp_path / "out", project=title, force=True)
    assert report.frame_counts["several"] == 0 and report.frame_counts["submitted"] == 2


@pytest.fixture
def ada(label_studio, server):
    """A client of a second person, who signed up by invitation."""
    import httpx

    invitation = server.get("/api/invite")["invite_url"]
    with httpx.Client(base_url=label_studio.url, trust_env=False) as browser:
        browser.get(invitation)
        form = {"email": "ada@example.com", "password": "engine-no-1"}
        form["csrfmiddlewaretoken"] = browser.cookies["csrftoken"]
        headers = {"Referer": label_studio.url}
        assert browser.post(invitation, data=form, headers=headers).status_code == 302
        token = browser.get("/api/current-user/token").json()["token"]
    with StudioClient(label_studio.url, token) as client:
        yield client


def test_different_annotations_of_two_people_are_noted(server, ada, pushed, tmp_path):
    """Equal annotations count; different ones are noted, until one of them is starred."""
    dataset, title, task_id = pushed
    submit(server, task_id(0))
    submit(ada, task_id(0))
    submit(server, task_id(1))
    result = result_of(ada, task_id(1))
    hers = submit(ada, task_id(1), result[1:])
    report = pull_dataset(dataset, server, tmp_path / "out", project=title)
    assert items(tmp_path / "out") == items(dataset.path)[:1]
    me = server.current_user()["email"]
    reason = f"several: 2 annotations, by ada@example.com, {me}: delete all but one"
    assert report.notes == [("dock.mp4#5@5e1f5e1f", reason)]
    server.send("PATCH", f"/api/annotations/{hers['id']}/", {"ground_truth": True})
    pull_dataset(dataset, server, tmp_path / "out", project=title, force=True)
    assert items(tmp_path / "out")[1].objects == items(dataset.path)[1].objects[1:]
    assert push_dataset(dataset, server, project=title).frame_counts["annotated"] == 2


def test_a_draft_after_a_submission_is_noted(server, pushed, tmp_path):
    dataset, title, task_id = pushed
    annotation = submit(server, task_id(0))
    path = f"/api/tasks/{task_id(0)}/annotations/{annotation['id']}/drafts"
    server.send("POST", path, {"result": [], "lead_time": 1.0})
    report = pull_dataset(dataset, server, tmp_path / "out", project=title)
    assert report.frame_counts == {"submitted": 1, "not looked at": 3}
    assert [reason for _, reason in report.notes] == [
        "a draft after the annotation is not submitted"
    ]
    assert items(tmp_path / "out") == items(dataset.path)[:1]


def test_since_last_fetches_changes_and_keeps_the_rest(server, pushed, tmp_path):
    dataset, title, task_id = pushed
    out = tmp_path / "out"
    with pytest.raises(DatasetError, match="nothing was pulled there yet"):
        pull_dataset(dataset, server, out, project=title, since_last=True)
    annotation = submit(server, task_id(0))
    submit(server, task_id(1))
    pull_dataset(dataset, server, out, project=title)
    with pytest.raises(OutputError, match="already there"):
        pull_dataset(dataset, server, out, project=title)
    submit(server, task_id(3), [])
    pull_dataset(dataset, server, out, project=title, since_last=True)
    assert items(out) == [items(dataset.path)[n] for n in (0, 1, 3)]
    server.send("DELETE", f"/api/annotations/{annotation['id']}/")
    pull_dataset(dataset, server, out, project=title, since_last=True)
    assert [item.frame for item in items(out)] == [5, 15]
    bulk_action(server, server.find_project(title).id, "delete_tasks", [task_id(1)])
    report = pull_dataset(dataset, server, out, project=title, since_last=True)
    assert [item.frame for item in items(out)] == [15]
    assert report.frame_counts["deleted"] == 1 and report.frame_counts["not pushed"] == 0
    assert any("5@" in name and "gone from the project" in reason for name, reason in report.notes)
    other = make_dataset(tmp_path / "other", OBJECTS)
    push_dataset(other, server, project=f"{title} 2")
    with pytest.raises(DatasetError, match="pulled from project"):
        pull_dataset(other, server, out, project=f"{title} 2", since_last=True)


def test_a_region_of_another_size_leaves_out_its_frame(server, pushed, tmp_path):
    """This happens when an image was turned by its EXIF tag: percents are of the other side."""
    dataset, title, task_id = pushed
    result = result_of(server, task_id(0))
    for region in result:
        region["original_width"], region["original_height"] = 48, 64
    submit(server, task_id(0), result)
    with pytest.raises(DatasetError, match=r"can be used: 3 not looked at, 1 unclear; dock.mp4#0"):
        pull_dataset(dataset, server, tmp_path / "out", project=title)
    assert not (tmp_path / "out").exists()
    submit(server, task_id(1))
    report = pull_dataset(dataset, server, tmp_path / "out", project=title)
    assert items(tmp_path / "out") == items(dataset.path)[1:2]
    [(name, reason)] = report.notes
    assert name == "dock.mp4#0@5e1f5e1f" and "an image of 48x64, but the frame is 64x48" in reason


def test_a_dataset_that_was_built_again_gets_what_nobody_touched(server, pushed, tmp_path):
    """The annotations are of objects that it does not have: other scores, tracks and classes."""
    dataset, title, task_id = pushed
    for number in range(4):
        submit(server, task_id(number))
    others = [[dataclasses.replace(o, score=0.125, track=40) for o in each] for each in OBJECTS]
    rebuilt = make_dataset(tmp_path / "rebuilt", [others[0][:1], [], others[2], [boxed()]])
    report = pull_dataset(rebuilt, server, tmp_path / "out", project=title)
    assert items(tmp_path / "out") == items(dataset.path) and not report.notes
    changes = diff_datasets(rebuilt, load_dataset(tmp_path / "out"))
    assert {change.object.source for change in changes} == {"colour", "light"}  # and no person


def test_since_last_knows_its_project_at_another_address(label_studio, server, pushed, tmp_path):
    """A server moves to another port; another one may come to its address and number."""
    dataset, title, task_id = pushed
    submit(server, task_id(0))
    out = tmp_path / "out"
    pull_dataset(dataset, server, out, project=title)
    submit(server, task_id(1))
    with through(label_studio, lambda *_: None) as (moved, proxy):
        pull_dataset(dataset, moved, out, project=title, since_last=True)
    assert json.loads((out / PULL_FILE).read_text())["url"] == proxy.url
    assert items(out) == items(dataset.path)[:2]
    before = (out / PULL_FILE).read_text()
    record = json.loads(before)
    for key, value in (("created", "2026-01-02T03:04:05.678901Z"), ("server", "2026-01-02")):
        identity = record["identity"] | {key: value}
        (out / PULL_FILE).write_text(json.dumps(record | {"identity": identity}))
        with pytest.raises(DatasetError, match="and not from this project"):
            pull_dataset(dataset, server, out, project=title, since_last=True)
    for damaged in ("{", "[]", json.dumps(record | {"newest": "yesterday"})):
        (out / PULL_FILE).write_text(damaged)
        with pytest.raises(DatasetError, match="nothing was pulled there yet"):
            pull_dataset(dataset, server, out, project=title, since_last=True)
    assert items(out) == items(dataset.path)[:2]


def test_since_last_keeps_the_split_and_the_files_of_others(server, pushed, tmp_path):
    dataset, title, task_id = pushed
    submit(server, task_id(1))
    out = tmp_path / "out"
    pull_dataset(dataset, server, out, project=title)
    with_split(load_dataset(out), [SplitRange("dock.mp4", 5, 6, "val")])
    (out / "notes").mkdir()
    (out / "notes/todo.txt").write_text("the mech at the back")
    (out / "images/sketch.png").write_bytes(b"by hand")
    (out / "latest").symlink_to("notes/todo.txt")
    submit(server, task_id(3))
    submit(server, task_id(0), [], was_cancelled=True)
    pull_dataset(dataset, server, out, project=title, since_last=True)
    assert {sample.item.frame: sample.split for sample in load_dataset(out)} == {
        5: "val",
        15: "val",
    }
    assert (out / "latest").read_text() == "the mech at the back"
    assert (out / "images/sketch.png").read_bytes() == b"by hand"
    files = {path.name for path in out.iterdir()}
    assert files == {"images", "items.jsonl", "dataset.toml", "pulled.json", "notes", "latest"}
    assert any(
        "skipped" in reason for _, reason in json.loads((out / PULL_FILE).read_text())["notes"]
    )


def test_a_video_is_not_pulled_since_the_last(annotate):
    code, _, err = annotate("pull", "d", "-o", "out", "--as", "video", "--since", "last")
    assert code == 2 and "only frames can be pulled since the last" in err


def test_a_pull_over_its_own_source_is_refused(server, pushed, tmp_path):
    dataset, title, task_id = pushed
    submit(server, task_id(3))
    (tmp_path / "link").symlink_to(dataset.path)
    before = items(dataset.path)
    for out in (dataset.path, tmp_path / "link"):
        with pytest.raises(OutputError):
            pull_dataset(dataset, server, out, project=title, force=True)
    assert items(dataset.path) == before and len(list(dataset.images.iterdir())) == 4


def test_bad_regions_are_noted_and_relations_ignored(server, pushed, tmp_path):
    dataset, title, task_id = pushed
    for number, change in enumerate(
        [
            lambda region: region["value"].pop("rectanglelabels"),
            lambda region: region["value"].update(rle=[1, 2, 3]),
        ]
    ):
        result = result_of(server, task_id(number))
        change(result[0])
        submit(server, task_id(number), result)
    result = result_of(server, task_id(2))
    between = {"type": "relation", "from_id": result[0]["id"], "to_id": result[1]["id"]}
    submit(server, task_id(2), [*result, {**between, "direction": "right"}])
    report = pull_dataset(dataset, server, tmp_path / "out", project=title)
    assert sorted(reason for _, reason in report.notes) == [
        "not kept: a relation of two regions",
        "unclear: a brush mask with truncated or damaged bytes",
        "unclear: a region with no label",
    ]
    assert items(tmp_path / "out") == items(dataset.path)[2:3]


BOX = {"x": 10.0, "y": 10.0, "width": 30.0, "height": 20.0, "rotation": 0}
FRAME = {"original_width": 1000, "original_height": 500, "image_rotation": 0, "to_name": "image"}


def drawn(kind, value, **fields):
    value = {**value, kind: ["cat"]}
    return {"id": "r1", "type": kind, "from_name": "box", **FRAME, "value": value, **fields}


def polygon(*points):
    return drawn("polygonlabels", {"points": list(points), "closed": True}, id="p1")


GOOD = drawn("rectanglelabels", BOX)
WHOLE_RLE = [0, 30, 132, 128, 57, 27, *[255] * 102, 225, 31, 255, 192]  # 1000x500 pixels
CHOICE = {"id": "c1", "type": "choices", "from_name": "q", "to_name": "image"}
# name -> the result of a frame of 1000x500, and the objects or the reason
FOUND_IN_THE_WILD = {
    "choices on the picture": ([GOOD, {**CHOICE, "value": {"choices": ["blurry"]}}], 1),
    "no original size": ([{k: v for k, v in GOOD.items() if not k.startswith("original")}], 1),
    "null coordinates": (
        [drawn("rectanglelabels", {**BOX, "x": None, "y": None, "width": None, "height": None})],
        "unclear: a box with sides that are not numbers",
    ),
    "rle among boxes": ([drawn("rectanglelabels", {"format": "rle", "rle": WHOLE_RLE})], 1),
    "null in a polygon": (
        [polygon([10, 10], [None, 20], [10, 30])],
        "unclear: a polygon with a coordinate that is not a finite number",
    ),
    "polygon of two points": (
        [GOOD, polygon([10, 10], [20, 20])],
        "unclear: a polygon of 2 points that encloses no pixel",
    ),
    "label not in the config": ([{**GOOD, "value": {**BOX, "rectanglelabels": ["zebra"]}}], 1),
    "box without area": (
        [drawn("rectanglelabels", {**BOX, "width": 0.0, "height": 0.0})],
        "unclear: a box without area inside the frame of 1000x500",
    ),
    "a label that the server itself cannot export": (
        [{**GOOD, "value": {**BOX, "rectanglelabels": ["\ud800"]}}],
        "unclear: the server cannot export its annotations: ",
    ),
    "the good one": ([GOOD], 1),
}


def test_odd_results_leave_out_their_frames_and_never_the_pull(
    label_studio, server, annotate, tmp_path
):
    """They are from public reports of faults. What was pulled can be exported."""
    count = len(FOUND_IN_THE_WILD)
    dataset = make_dataset(tmp_path / "wild", [[]] * count, (1000, 500), ["cat", "dog"])
    project = push_dataset(dataset, server).project.id
    tasks = tasks_of(server, project)
    for number, (result, _) in enumerate(FOUND_IN_THE_WILD.values()):
        [task] = tasks[external_id(dataset, "dock.mp4", 5 * number)]
        with contextlib.suppress(StudioError):  # it is saved all the same
            submit(server, task["id"], result)
    (tmp_path / "token").write_text(label_studio.token)
    (tmp_path / "token").chmod(0o600)
    access = ("--url", server.url, "--token-file", tmp_path / "token")
    code, out, err = annotate("pull", dataset.path, "-o", tmp_path / "out", *access)
    assert code == 0 and "submitted\t5" in out and "unclear\t5" in out
    assert "classes added to the dataset: zebra" in err
    corrected = {item.frame // 5: item for item in items(tmp_path / "out")}
    for number, (name, (_, expected)) in enumerate(FOUND_IN_THE_WILD.items()):
        if isinstance(expected, str):
            assert number not in corrected, name
            assert f"dock.mp4#{5 * number}@5e1f5e1f: {expected}" in err, name
        else:
            assert len(corrected[number].objects) == expected, name
    assert corrected[0].attributes == {"q": ["blurry"]}
    assert [corrected[n].objects[0].box for n in (0, 1, 6, 9)] == [(100.0, 50.0, 400.0, 150.0)] * 4
    assert corrected[6].objects[0].label == "zebra"
    assert load_dataset(tmp_path / "out").classes == ("cat", "dog", "zebra")
    for name in ("coco", "yolo"):
        assert annotate("export", tmp_path / "out", "--to", name, "-o", tmp_path / name)[0] == 0


def test_a_task_of_another_dataset_is_noted(server, pushed, tmp_path):
    _, title, task_id = pushed
    submit(server, task_id(0))
    smaller = make_dataset(tmp_path / "smaller", OBJECTS[:3])
    report = pull_dataset(smaller, server, tmp_path / "out", project=title)
    strange = "strange: a task of a frame that this dataset does not have"
    assert report.notes == [("dock.mp4#15@5e1f5e1f", strange)]
    project = server.find_project(title).id
    body = {"project": project, "data": {"image": "/data/by-hand.png", "ext_id": 7}}
    task = server.send("POST", "/api/tasks", body)
    report = pull_dataset(smaller, server, tmp_path / "out", project=title, force=True)
    assert report.notes == [("dock.mp4#15@5e1f5e1f", strange), (f"task {task['id']}", strange)]
    with pytest.raises(StudioError, match="there is no project called 'smaller'; push to it first"):
        pull_dataset(smaller, server, tmp_path / "out2")


sides = st.floats(0, 1, width=32)


@st.composite
def any_box(draw):
    """Draw boxes of any position and size, also at the edges and between pixels."""
    (x1, x2), (y1, y2) = (sorted((draw(sides) * s, draw(sides) * s)) for s in SIZE)
    return Object(draw(st.sampled_from(["mech", "Gelände wagen"])), (x1, y1, x2, y2), None)


@st.composite
def any_mask(draw):
    bits = draw(st.lists(st.booleans(), min_size=48, max_size=48))
    mask = np.kron(np.array(bits).reshape(6, 8), np.ones((8, 8), bool))
    return masked(mask) if mask.any() else masked(pixel_mask())


@given(st.lists(any_box() | any_mask(), max_size=6), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_object_survives_conversion_through_json(objects, polygons):
    item = Item("dock.mp4", 5, Fraction(1, 6), *SIZE, tuple(objects))
    sent = json.loads(json.dumps(to_regions(item, polygons=polygons)))
    back = [to_object(r, original, item) for r, original in zip(sent, objects, strict=True)]
    assert all(one is other for one, other in zip(back, objects, strict=True))
    for region, original in zip(sent, objects, strict=True):  # nearly, without the original
        if not boxes.area(regions.round_box(original.box)):
            with pytest.raises(StudioError, match="a box without area"):
                to_object(region, None, item)
            continue
        new = to_object(region, None, item)
        assert new.label == original.label
        if region["type"] == "brushlabels":
            assert new.mask == original.mask
        if region["type"] == "rectanglelabels":
            assert np.allclose(new.box, original.box, atol=6e-4)


def test_many_images_of_many_shapes_return_exactly(server, tmp_path):
    """40 frames: boxes at the edges and between pixels, masks ragged, large and full."""
    noise = np.random.default_rng(3)
    frames = []
    for _ in range(40):
        corners = np.sort(noise.uniform(0, 1, (3, 2, 2)) * SIZE, axis=1).reshape(3, 4)
        ragged = [masked(noise.random(SIZE[::-1]) < p) for p in (0.02, 0.5)]
        frames.append([*(boxed(box=tuple(c)) for c in corners.tolist()), *ragged])
    dataset = make_dataset(tmp_path / "many", frames)
    push_dataset(dataset, server, project="many shapes")
    submit_all(server, server.find_project("many shapes").id)
    pull_dataset(dataset, server, tmp_path / "out", project="many shapes")
    assert items(tmp_path / "out") == items(dataset.path)


def test_long_external_ids_are_requested_in_batches(server, tmp_path):
    """40 ids with escaped characters would make a URL of 9 kB."""
    video = "Übergrößenträger, Halle 7 #2 " * 4 + ".mp4"
    dataset = make_dataset(tmp_path / "names", [[boxed()]] * 40, video=video)
    report = push_dataset(dataset, server, project="long names")
    assert push_dataset(dataset, server, project="long names").frame_counts == {"unchanged": 40}
    assert len(tasks_of(server, report.project.id)) == 40


def test_a_large_image_is_pulled(server, tmp_path):
    size = 4000, 3000
    frame_objects = [
        masked(donut(size)),
        masked(np.ones(size[::-1], bool)),
        boxed(box=(0.5, 0.5, 3999.5, 3000)),
    ]
    dataset = make_dataset(tmp_path / "large", [frame_objects], size)
    push_dataset(dataset, server)
    [[task]] = tasks_of(server, server.find_project("large").id).values()
    result = result_of(server, task["id"])
    erased = donut(size)
    erased[:, :1700] = False
    result[0]["value"]["rle"] = brush.encode_brush(erased)
    submit(server, task["id"], result)
    pull_dataset(dataset, server, tmp_path / "out")
    [item] = items(tmp_path / "out")
    assert item.objects[1:] == tuple(frame_objects[1:])
    assert np.array_equal(masks.decode(item.objects[0].mask), erased)


def test_a_rotated_box_is_enclosed(server):
    item = Item("dock.mp4", 0, Fraction(0), 100, 200)
    value = {"x": 50.0, "y": 25.0, "width": 20.0, "height": 5.0, "rotation": 90}
    region = {"type": "rectanglelabels", "value": {**value, "rectanglelabels": ["mech"]}}
    assert to_object(region, None, item).box == (40.0, 50.0, 50.0, 70.0)


def test_a_fully_erased_mask_gives_no_object():
    item = Item("dock.mp4", 0, Fraction(0), *SIZE, (masked(donut()),))
    [region] = to_regions(item)
    region["value"]["rle"] = brush.encode_brush(np.zeros(SIZE[::-1], bool))
    assert to_object(region, item.objects[0], item) is None

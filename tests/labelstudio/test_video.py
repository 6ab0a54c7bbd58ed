import copy
import json
from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from labelstudio_fixtures import submit, tasks_of

from annotate.dataset.build import build_dataset
from annotate.errors import DatasetError, OutputError, StudioError, VideoError
from annotate.items import journal
from annotate.items.records import Header, Item, Object
from annotate.labelstudio import video
from annotate.labelstudio.tracks import VideoTask, expand_track, track_frames, tracks_to_regions
from annotate.video import reader

pytestmark = [pytest.mark.timeout(900), pytest.mark.studio]
RATE, SIZE, COUNT = 25, (64, 48), 20
VIDEO_TASK = VideoTask("dock.mp4", SIZE, Fraction(RATE), [Fraction(n, RATE) for n in range(COUNT)])
BY = {"who": "ada@example.com", "when": "2026-01-02", "region": "r"}


def boxed(x, track=7, label="mech", y=10.0):
    return Object(label, (x, y, x + 10, y + 10), 0.5, track, source="light")


def frame(number, *objects):
    return Item("dock.mp4", number, Fraction(number, RATE), *SIZE, objects)


# Every fourth frame: track 7 is absent on frame 8 and after 12; track 9 starts on frame 8.
ITEMS = [
    frame(0, boxed(0.0)),
    frame(4, boxed(8.125)),
    frame(8, boxed(30.0, 9)),
    frame(12, boxed(20.0), boxed(31.0, 9)),
    frame(16, boxed(32.0, 9)),
]


def expand(region, sent, originals):
    track = int(region["id"].split("-")[0][5:])
    objects = {item.frame: o for item in originals for o in item.objects if o.track == track}
    return expand_track(region, track, objects, sent, VIDEO_TASK, BY)


def test_frames_count_from_one_and_the_last_visible_keyframe_is_not_enabled():
    first, second = tracks_to_regions(ITEMS, VIDEO_TASK)
    keys = [(key["frame"], key["enabled"]) for key in first["value"]["sequence"]]
    assert keys == [(1, True), (5, False), (13, False)]
    assert first["value"]["sequence"][1]["time"] == 5 / 25
    assert [key["enabled"] for key in second["value"]["sequence"]] == [True, True, False]
    assert (first["value"]["framesCount"], first["value"]["duration"]) == (20, 0.8)


def test_untouched_keyframes_are_the_originals_and_boxes_between_are_interpolated():
    first, _ = tracks_to_regions(ITEMS, VIDEO_TASK)
    objects = expand(first, first, ITEMS)
    assert sorted(objects) == [0, 1, 2, 3, 4, 12]
    for item in ITEMS:
        if item.frame in objects:
            assert objects[item.frame] is item.objects[0]
    assert objects[2].box == pytest.approx((4.0625, 10, 14.0625, 20), abs=6e-4)
    assert objects[2].score is None and objects[2].by is None


def test_a_new_keyframe_records_who_set_it_and_changes_its_neighbours():
    first, _ = tracks_to_regions(ITEMS, VIDEO_TASK)
    edited = copy.deepcopy(first)
    key = {"frame": 3, "enabled": True, "x": 50.0, "y": 0.0, "width": 10.0, "height": 10.0}
    edited["value"]["sequence"].insert(1, key)
    objects = expand(edited, first, ITEMS)
    assert objects[2].box == (32.0, 0.0, 38.4, 4.8) and objects[2].by == BY
    assert objects[1].by == objects[3].by == BY
    assert objects[0] is ITEMS[0].objects[0] and objects[4] is ITEMS[1].objects[0]
    edited["value"]["labels"] = ["crate"]
    assert {(each.label, each.by["who"]) for each in expand(edited, first, ITEMS).values()} == {
        ("crate", "ada@example.com")
    }


def test_a_track_can_be_extended_to_the_end():
    first, _ = tracks_to_regions(ITEMS, VIDEO_TASK)
    edited = copy.deepcopy(first)
    edited["value"]["sequence"][-1]["enabled"] = True
    objects = expand(edited, first, ITEMS)
    assert max(objects) == COUNT - 1
    assert objects[12] is ITEMS[3].objects[0] and objects[19].by == BY


def test_a_track_has_one_class():
    items = [frame(0, boxed(0.0)), frame(4, boxed(1.0, label="crate"))]
    with pytest.raises(DatasetError, match="dock.mp4#4: track 7 is a "):
        tracks_to_regions(items, VIDEO_TASK)
    with pytest.raises(DatasetError, match="dock.mp4#0: track 7 is there twice"):
        tracks_to_regions([frame(0, boxed(0.0), boxed(9.0))], VIDEO_TASK)


def write_clip(path, pts=None):
    """Write a clip of 20 frames; `pts` are their times in hundredths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 100)
        stream.codec_context.time_base = Fraction(1, 100)
        for number in range(COUNT):
            pixels = np.full((SIZE[1], SIZE[0], 3), number * 10, np.uint8)
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            picture.pts = pts[number] if pts else number * 4
            picture.time_base = Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def build(tmp_path, clip, items=ITEMS):
    """Build a dataset of the clip and the items."""
    header = Header(
        "propagate", vocabulary={"labels": ["mech"]}, videos=reader.header_entry(reader.probe(clip))
    )
    seconds = {each.index: each.seconds for each in reader.frames(clip)}
    journal.write(
        tmp_path / "items.jsonl",
        header,
        [replace(item, seconds=seconds[item.frame]) for item in items],
    )
    return build_dataset([tmp_path / "items.jsonl"], tmp_path / "tracks")


def test_clips_are_pushed_and_pulled(server, tmp_path):
    dataset = build(tmp_path, write_clip(tmp_path / "dock.mp4"))
    report = video.push_clips(dataset, server)
    assert report.frame_counts == {"new": 1} and report.project.title == "tracks video"
    assert video.push_clips(dataset, server).frame_counts == {"unchanged": 1}
    with pytest.raises(StudioError, match="nothing of project .* has been submitted"):
        video.pull_clips(dataset, server, tmp_path / "out.jsonl")
    [[task]] = tasks_of(server, report.project.id).values()
    assert task["data"]["fps"] == "25.0" and task["data"]["frames"] == 20
    _, shown = server.fetch(task["data"]["video"])
    assert shown == (tmp_path / "dock.mp4").read_bytes()
    submit(server, task["id"])
    assert video.pull_clips(dataset, server, tmp_path / "out.jsonl").frame_counts == {
        "submitted": 20
    }
    back = list(journal.read(tmp_path / "out.jsonl"))
    assert [item.frame for item in back] == list(range(20))
    for item in dataset:
        assert back[item.item.frame] == item.item
    with pytest.raises(OutputError, match="already there"):
        video.pull_clips(dataset, server, tmp_path / "out.jsonl")
    built = build_dataset([tmp_path / "out.jsonl"], tmp_path / "built", every=4)
    assert [s.item for s in built] == [s.item for s in dataset]


def test_objects_without_a_track_are_counted_and_never_become_negatives(server, tmp_path):
    """Frame 4 also has a target without a track, which the video does not show."""
    target = Object("mech", (40.0, 20.0, 50.0, 30.0), 0.25, None, source="colour")
    items = [replace(i, objects=(*i.objects, target)) if i.frame == 4 else i for i in ITEMS]
    dataset = build(tmp_path, write_clip(tmp_path / "dock.mp4"), items)
    report = video.push_clips(dataset, server, project="untracked")
    [note] = report.notes
    assert note.startswith("dock.mp4: 1 objects without a track, on 1 frames, are not shown")
    [[task]] = tasks_of(server, report.project.id).values()
    submit(server, task["id"])
    report = video.pull_clips(dataset, server, tmp_path / "out.jsonl", project="untracked")
    assert report.clip_counts == {"submitted": 1}
    assert report.frame_counts == {"submitted": 14, "left out": 6}
    [(_, reason)] = report.notes
    assert reason.startswith("1 objects without a track were not shown and are kept")
    back = {item.frame: item for item in journal.read(tmp_path / "out.jsonl")}
    assert sorted(back) == [0, 4, *range(8, 20)]
    assert back[4].objects == dataset_objects(dataset)[4]


def test_a_clip_and_a_dataset_are_not_written_over(tmp_path):
    """Nothing is asked of a server before that."""
    clip = write_clip(tmp_path / "dock.mp4")
    dataset = build(tmp_path, clip)
    content = clip.read_bytes(), dataset.items.read_bytes()
    for out in (clip, dataset.items):
        with pytest.raises(OutputError):
            video.pull_clips(dataset, None, out, force=True)
    assert (clip.read_bytes(), dataset.items.read_bytes()) == content


def dataset_objects(dataset):
    return {sample.item.frame: sample.item.objects for sample in dataset}


def track_region(**changes):
    """Track 9 of ITEMS, with other values in its second keyframe or in its value."""
    region = copy.deepcopy(tracks_to_regions(ITEMS, VIDEO_TASK)[1])
    for key, value in changes.items():
        target = (
            region["value"] if key in ("labels", "sequence") else region["value"]["sequence"][1]
        )
        target[key] = value
    return region


ODD_TRACKS = {
    "a side of null": track_region(x=None),
    "a side of NaN": track_region(width=float("nan")),
    "y of null": track_region(y=None),
    "a side of 1e8": track_region(x=1e8),
    "a width of 1e8": track_region(width=1e8),
    "a box outside": track_region(x=150.0),
    "no area": track_region(width=0.0),
    "a negative size": track_region(height=-5.0),
    "a turn": track_region(rotation=30),
    "a frame of null": track_region(frame=None),
    "frame 0": track_region(frame=0),
    "frame 1e8": track_region(frame=10**8),
    "a frame twice": track_region(frame=9),
    "half a frame": track_region(frame=9.5),
    "no keyframes": track_region(sequence=[]),
    "keyframes of null": track_region(sequence=[None]),
    "a sequence that is none": track_region(sequence={"frame": 1}),
    "no label": track_region(labels=[]),
    "two labels": track_region(labels=["mech", "crate"]),
    "a label that is a number": track_region(labels=[7]),
    "no value": {"id": "r", "type": "videorectangle"},
    "another kind": {**track_region(), "type": "videopolygon"},
}


@pytest.mark.parametrize("name", ODD_TRACKS)
def test_a_track_that_cannot_be_read_is_named(name):
    region = ODD_TRACKS[name]
    with pytest.raises(StudioError) as caught:
        expand_track(region, 9, {}, None, VIDEO_TASK, BY)
    assert str(caught.value).isprintable()
    frames = track_frames(region, VIDEO_TASK)
    assert 0 <= frames.start < frames.stop <= COUNT


def test_only_the_frames_of_an_odd_track_are_left_out(server, tmp_path):
    dataset = build(tmp_path, write_clip(tmp_path / "dock.mp4"))
    report = video.push_clips(dataset, server, project="odd track")
    [[task]] = tasks_of(server, report.project.id).values()
    [prediction] = server.get("/api/predictions", {"task": task["id"]})
    first, second = prediction["result"]
    second["value"]["sequence"][1]["x"] = None
    timeline = {"id": "t", "type": "timelinelabels", "value": {"ranges": [{"start": 1, "end": 9}]}}
    choice = {"id": "c", "type": "choices", "from_name": "q", "value": {"choices": ["night"]}}
    zebra = {**copy.deepcopy(first), "id": "new"}
    zebra["value"]["labels"] = ["zebra"]
    submit(server, task["id"], [first, second, timeline, choice, zebra])
    report = video.pull_clips(dataset, server, tmp_path / "out.jsonl", project="odd track")
    assert [reason for _, reason in report.notes] == [
        "kept as an attribute of the frame: choices q = ['night']",
        "unclear: a keyframe with sides that are not numbers; frames 8 to 16 are left out",
        "not kept: a region of the kind 'timelinelabels'",
    ]
    assert report.frame_counts == {"submitted": 11, "left out": 9}
    assert report.added_classes == ("zebra",)
    back = {item.frame: item for item in journal.read(tmp_path / "out.jsonl")}
    assert back[0].objects[0] == dataset_objects(dataset)[0][0]
    assert (back[0].objects[1].label, back[0].objects[1].track) == ("zebra", 10)
    assert back[19].attributes == {"q": ["night"]}
    build_dataset([tmp_path / "out.jsonl"], tmp_path / "built")


def test_a_rebuilt_dataset_gets_the_tracks_that_nobody_touched():
    """Other boxes and scores; track 7 is not there any more."""
    first, second = json.loads(json.dumps(tracks_to_regions(ITEMS, VIDEO_TASK)))
    boxes = [frame(8, replace(boxed(50.0, 9), score=0.125)), frame(12, boxed(31.0, 9))]
    [sent] = tracks_to_regions(boxes, VIDEO_TASK)
    known = {item.frame: item.objects[0] for item in boxes}
    objects = expand_track(second, 9, known, sent, VIDEO_TASK, BY)
    assert objects[8] == replace(boxed(30.0, 9), score=None) and objects[12] is known[12]
    assert {(o.by, o.source) for o in objects.values()} == {(None, "light")}
    objects = expand_track(first, 7, {}, None, VIDEO_TASK, BY)
    assert {(o.by, o.source, o.track) for o in objects.values()} == {(None, "light", 7)}
    first["value"]["sequence"][0]["x"] += 1
    objects = expand_track(first, 7, {}, None, VIDEO_TASK, BY)
    assert objects[0].by == BY and objects[0].source == "light"


def test_a_digit_more_or_less_in_a_keyframe_is_no_change():
    first, _ = tracks_to_regions(ITEMS, VIDEO_TASK)
    nudged = copy.deepcopy(first)
    for key in nudged["value"]["sequence"]:
        key["x"] += 1e-12
    objects = expand(nudged, first, ITEMS)
    assert objects[0] is ITEMS[0].objects[0] and objects[2].by is None


UNEVEN_PTS = [0, 4, 8, 13, 16, 20, 25, 28, 33, 40, 44, 48, 53, 56, 60, 66, 70, 75, 80, 84]


@pytest.mark.parametrize(
    "pts, message",
    [
        (UNEVEN_PTS, "its frame rate varies"),
        ([100 + 4 * n for n in range(COUNT)], "first frame is at"),
    ],
    ids=["variable", "late"],
)
def test_a_clip_that_would_show_wrong_frames_is_refused_or_transcoded(
    server, tmp_path, pts, message
):
    clip = write_clip(tmp_path / "dock.mp4", pts)
    dataset = build(tmp_path, clip)
    title = f"spoilt {pts[0]}"
    with pytest.raises(VideoError, match=f"{message}.*`transcode`"):
        video.push_clips(dataset, server, project=title)
    assert server.find_project(title) is None
    report = video.push_clips(dataset, server, project=title, transcode=True)
    [[task]] = tasks_of(server, report.project.id).values()
    _, shown = server.fetch(task["data"]["video"])
    (tmp_path / "shown.mp4").write_bytes(shown)
    transcoded = reader.probe(tmp_path / "shown.mp4")
    assert not transcoded.variable_rate and transcoded.frame_count == COUNT
    assert float(transcoded.rate) == pytest.approx(float(task["data"]["fps"]), abs=1e-4)
    greys = [[each.image.mean() for each in reader.frames(p)] for p in (clip, transcoded.path)]
    assert np.allclose(*greys, atol=4)


def test_a_dataset_without_tracks_is_refused(server, tmp_path):
    items = [frame(0, boxed(0.0, None))]
    dataset = build(tmp_path, write_clip(tmp_path / "dock.mp4"), items)
    with pytest.raises(DatasetError, match="none of its objects has a track"):
        video.push_clips(dataset, server)

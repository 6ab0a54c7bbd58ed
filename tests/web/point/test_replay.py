"""What the page saves is what `annotate propagate` writes of the same points, byte for byte."""

import random
from dataclasses import replace

import pandas as pd
import pytest
from wanderer import Wanderer

from annotate import prompts
from annotate.dataset.folder import load_dataset
from annotate.errors import ItemsError, PromptError, SettingsDiffer
from annotate.items import journal
from annotate.prompts import PromptTable
from annotate.propagators.job import Job
from annotate.propagators.run import run_to_file
from annotate.video import reader
from annotate.web.point.editor import Editor
from annotate.web.point.launch import PointFiles, PointOptions, open_editor
from annotate.web.point.session import PointSession
from annotate.web.point.tracking.engine import PropagatorEngine
from annotate.web.point.writer import PropagatorWriter

STOP = 24


@pytest.fixture
def editor(demo, tmp_path):
    video = reader.probe(demo)
    scope = prompts.clip_scope(video)
    job = Job(Wanderer(), "wanderer", demo, PromptTable((), {}), 0, STOP)
    points = tmp_path / "points.csv"
    session = PointSession(points, scope, {"clip": video.name, "fingerprint": video.fingerprint})
    writer = PropagatorWriter(job, points, tmp_path / "masks.jsonl", tmp_path / "dataset")
    editor = Editor(video, session, PropagatorEngine(job), writer, "wanderer")
    yield editor
    editor.close()


def run_all(editor, frame, direction):
    """Propagate, and wait for the end."""
    editor.run(frame, direction, None)
    while True:
        last = editor.events.last
        if editor.state()["running"] is None:
            return
        editor.events.next_after(last).result(60)


def command_line_bytes(editor, tmp_path):
    """The file that the command line writes of the points on disk."""
    writer = editor.writer
    scope = editor.session.scope
    table = prompts.prompt_table(prompts.read_points(writer.points, scope), scope=scope)
    out = tmp_path / "again.jsonl"
    run_to_file(
        replace(writer.job, prompts=table, both_directions=editor.backward), out, force=True
    )
    return out.read_bytes()


def random_action(rng, editor):
    numbers = editor.session.document.object_ids() or [1]
    frame, number = rng.randrange(STOP), rng.choice([*numbers, 1, 2])
    kind = rng.choice(["point"] * 4 + ["gone", "box", "undo", "redo", "delete", "clear", "class"])
    return {
        "kind": kind,
        "frame": frame,
        "object": number,
        "x": rng.randrange(800),
        "y": rng.randrange(600),
        "label": rng.choice([1, 1, 0]),
        "x1": 5,
        "y1": 5,
        "x2": rng.randrange(10, 800),
        "y2": 600,
        "class": rng.choice(["imp", "demon"]),
    }


@pytest.mark.parametrize("seed", range(4))
def test_a_saved_session_replays_to_the_same_bytes(editor, tmp_path, seed):
    rng = random.Random(seed)
    editor.act({"kind": "point", "frame": 5, "object": 1, "x": 50, "y": 60, "label": 1})
    for step in range(25):
        try:
            editor.act(random_action(rng, editor))
        except PromptError:
            continue
        if step % 9 == 0 and editor.session.document.rows:
            run_all(editor, rng.randrange(STOP), rng.choice(["forward", "both"]))
    if not editor.session.document.rows:
        editor.act({"kind": "point", "frame": 5, "object": 1, "x": 50, "y": 60, "label": 1})
    editor.save()
    assert editor.writer.output.read_bytes() == command_line_bytes(editor, tmp_path)


def test_masks_of_the_page_are_those_that_are_saved(editor):
    editor.act({"kind": "point", "frame": 2, "object": 1, "x": 50, "y": 60, "label": 1})
    editor.act({"kind": "point", "frame": 6, "object": 2, "x": 90, "y": 60, "label": 1})
    run_all(editor, 4, "both")  # provisional before the first frame of the run
    assert editor.state()["provisional"] > 0
    assert "masks differ" in editor.save()
    assert editor.state()["provisional"] == 0
    saved = {item.frame: item for item in journal.read(editor.writer.output)}
    for frame in range(STOP):
        shown = {each["id"]: each["mask"] for each in editor.masks(frame)["objects"]}
        objects = saved[frame].objects if frame in saved else ()
        assert (frame, shown) == (frame, {obj.track: dict(obj.mask) for obj in objects})


def test_a_dataset_says_which_frames_were_looked_at(editor):
    editor.act({"kind": "point", "frame": 20, "object": 1, "x": 50, "y": 60, "label": 1})
    editor.act({"kind": "reviewed", "frame": 22})
    editor.see([20, 21])
    assert "4 frames" in editor.build_dataset()
    dataset = load_dataset(editor.writer.dataset)
    table = pd.read_csv(dataset.path / "frames.csv", index_col="frame")
    assert table.loc[20].tolist() == [1, 1, 0] and table.loc[22].tolist() == [0, 0, 1]
    assert len(table) == len(dataset)
    editor.build_dataset()  # once more, over the first


def test_light_saves_what_the_command_line_writes(demo, tmp_path, annotate):
    files = PointFiles.beside(demo, tmp_path / "p.csv", None)
    with open_editor(demo, files, PointOptions(stop=2)) as editor:
        editor.act({"kind": "point", "frame": 0, "object": 1, "x": 332, "y": 244, "label": 1})
        assert editor.masks(0)["objects"][0]["mask"]
        message = editor.save()
    assert f"annotate propagate {demo} -p {files.points} --stop 2" in message
    code, _, err = annotate(
        "propagate", demo, "-p", files.points, "--stop", 2, "-o", tmp_path / "again.jsonl"
    )
    assert code == 0, err
    assert (tmp_path / "again.jsonl").read_bytes() == files.items.read_bytes()


def test_a_corrected_session_is_saved_again(editor, tmp_path):
    """Also where objects depend on each other, and in one direction more."""
    for frame, direction in [(2, "forward"), (6, "both")]:
        editor.act({"kind": "point", "frame": frame, "object": 1, "x": 50, "y": 60, "label": 1})
        run_all(editor, 0, direction)
        editor.save()
        assert editor.writer.output.read_bytes() == command_line_bytes(editor, tmp_path)
    before = editor.writer.output.read_bytes()
    editor.save()  # all is settled
    assert editor.writer.output.read_bytes() == before


def test_a_save_that_is_stopped_or_overtaken_leaves_the_file(editor, monkeypatch):
    editor.act({"kind": "point", "frame": 2, "object": 1, "x": 50, "y": 60, "label": 1})
    editor.save()
    before = editor.writer.output.read_bytes()
    editor.act({"kind": "point", "frame": 3, "object": 1, "x": 50, "y": 60, "label": 1})

    def overtaken(run, frame=None):
        monkeypatch.undo()
        editor.act({"kind": "point", "frame": 9, "object": 2, "x": 9, "y": 9, "label": 1})

    for meanwhile in (lambda run, frame=None: editor.stop(), overtaken):
        monkeypatch.setattr(editor, "_step", meanwhile)
        with pytest.raises(PromptError, match="stopped"):
            editor.save()
        assert editor.writer.output.read_bytes() == before and editor.state()["running"] is None
    editor.save()
    assert editor.writer.output.read_bytes() != before


def test_items_of_another_engine_are_not_written_over(editor, demo, tmp_path):
    editor.act({"kind": "point", "frame": 2, "object": 1, "x": 50, "y": 60, "label": 1})
    editor.save()
    other = replace(editor.writer, job=replace(editor.writer.job, source="other"))
    with pytest.raises(SettingsDiffer, match="give another `output`"):
        other.check()
    editor.writer.output.write_text("mine\n")
    with pytest.raises(ItemsError):
        editor.save()
    assert editor.writer.output.read_text() == "mine\n"

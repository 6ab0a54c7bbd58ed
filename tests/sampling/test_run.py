import csv
import itertools
import json
import sys

import numpy as np
import pytest
from PIL import Image
from synthetic_footage import film, flat, pan, still

from annotate.dataset.frame_sources import locate_clips
from annotate.errors import (
    AnnotateError,
    ItemsError,
    MissingPackage,
    OutputError,
    SettingsDiffer,
    UnknownName,
)
from annotate.items import journal
from annotate.sampling.filter import FilterOptions, SamplingOptions, filter_frames, sampled_frames
from annotate.sampling.folder import (
    ITEMS_FILE,
    count_by_reason,
    read_items,
    restore_frames,
    summarize_folder,
)
from annotate.sampling.run import Job, decision_item, fill_folder
from annotate.video import reader
from annotate.video.reader import FrameSelection

pytest.importorskip("scenedetect")


@pytest.fixture
def show(tmp_path):
    """Two clips: three shots, the last of them blank; two shots, the second one a repeat."""
    one = film(tmp_path / "one.mp4", still(1, 12), pan(2, 15), flat(0, 12))
    return one, film(tmp_path / "two.mp4", still(3, 12), still(1, 12))


def every_fourth(show, **options):
    """Make a job for every fourth frame of the clips."""
    filter_options = FilterOptions(options.pop("method", "hash"))
    sampling_options = SamplingOptions(False, FrameSelection(every=4))
    return Job(tuple(show), sampling_options, filter_options, **options)


def pictures(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix in {".png", ".jpg"})


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(folder):
    with (folder / "frames.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_fill_folder_writes_images_items_and_a_table(show, tmp_path):
    out = tmp_path / "out"
    assert fill_folder(Job(show), out)
    names = [row["file"] for row in rows(out)]
    assert names == pictures(out) and [name[:3] for name in names] == ["one", "one", "two", "two"]
    frame = reader.seek(show[0], int(rows(out)[1]["frame"]))
    with Image.open(out / names[1]) as image:
        np.testing.assert_array_equal(np.asarray(image), frame.image)
    assert rows(out)[1]["seconds"] == str(frame.seconds)
    assert count_by_reason(out) == {"": 4, "blank": 1}
    assert summarize_folder(out) == "kept 4 of 5 frames; dropped 1: 1 blank"


def test_items_have_the_drop_reason_and_later_stages_skip_dropped_frames(show, tmp_path):
    fill_folder(every_fourth(show), tmp_path)
    items = journal.read(tmp_path / "items.jsonl")
    dropped = {(item.video, item.frame): item.dropped for item in items}
    assert dropped["one.mp4", 0] is None
    assert dropped["one.mp4", 28] == {"why": "blank"}
    assert dropped["two.mp4", 12] == {
        "why": "duplicate",
        "video": "one.mp4",
        "frame": 0,
        "similarity": 1.0,
    }
    used = [item.frame for clip in locate_clips([items]) for item in clip.items()]
    assert len(used) == len(pictures(tmp_path)) < len(dropped)


def test_complete_folder_is_not_changed(show, tmp_path):
    out = tmp_path / "out"
    assert fill_folder(every_fourth(show), out)
    before = content(out)
    assert not fill_folder(every_fourth(show), out)
    assert content(out) == before
    with pytest.raises(SettingsDiffer, match="duplicates: hash in the file, ssim now"):
        fill_folder(every_fourth(show, method="ssim"), out)
    assert fill_folder(Job(show), out, force=True)
    assert len(pictures(out)) == len(rows(out)) == 4


@pytest.mark.parametrize("kill_at", [0, 3, 10, 14])
@pytest.mark.parametrize("max_frames", [None, 3])
def test_killed_run_is_continued(show, tmp_path, kill_at, max_frames):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    fill_folder(every_fourth(show, max_frames=max_frames), whole)

    class Killed(BaseException):
        pass

    count = itertools.count()

    def kill(frame):
        if next(count) == kill_at:
            raise Killed

    with pytest.raises(Killed):
        fill_folder(every_fourth(show, max_frames=max_frames), cut, progress=kill)
    assert cut.exists() is (kill_at > 0)  # nothing was written
    if kill_at:
        with (cut / "items.jsonl").open("ab") as file:
            file.write(b'{"video":"tw')
        with pytest.raises(ItemsError, match="not filled to its end"):
            read_items(cut)
    decoded = []
    assert fill_folder(every_fourth(show, max_frames=max_frames), cut, progress=decoded.append)
    assert content(cut) == content(whole)
    if kill_at > 10:  # killed in the second clip: the first is not sampled again
        assert {frame.video for frame in decoded} == {"two.mp4"}


def test_missing_table_is_written_again(show, tmp_path):
    fill_folder(every_fourth(show), tmp_path / "out")
    before = content(tmp_path / "out")
    (tmp_path / "out" / "frames.csv").unlink()
    assert not fill_folder(every_fourth(show), tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_max_frames_keeps_the_most_different_frames(show, tmp_path):
    job = Job(
        show,
        SamplingOptions(False, FrameSelection(every=3)),
        FilterOptions(everything=True),
        max_frames=4,
    )
    fill_folder(job, tmp_path / "out")
    kept = {(row["video"], int(row["frame"])) for row in rows(tmp_path / "out")}
    assert len(kept) == len(pictures(tmp_path / "out")) == 4
    shots = {(v, 0 if f < 12 else 1 if v == "two.mp4" or f < 27 else 2) for v, f in kept}
    assert ("two.mp4", 0) in shots and len(shots - {("two.mp4", 1)}) >= 3
    assert count_by_reason(tmp_path / "out")["over budget"] > 4
    fill_folder(job, tmp_path / "again")
    assert content(tmp_path / "again") == content(tmp_path / "out")


def test_dropped_frames_are_restored(show, tmp_path):
    out = tmp_path / "out"
    fill_folder(every_fourth(show, image_format="jpg"), out)
    before, dropped = len(rows(out)), count_by_reason(out)
    assert restore_frames(out, ["blank"]) == dropped["blank"]
    assert restore_frames(out, frames=["two.mp4#12"]) == 1
    assert "two-000012.jpg" in pictures(out)
    assert len(pictures(out)) == len(rows(out)) == before + dropped["blank"] + 1
    assert count_by_reason(out)["blank"] == 0
    assert restore_frames(out) == 0
    assert not fill_folder(
        every_fourth(show, image_format="jpg"), out
    )  # the folder still counts as complete


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"reasons": ["blnk"]}, "did you mean 'blank'"),
        ({"frames": ["one.mp4#0"]}, "no dropped frame 'one.mp4#0'"),
    ],
)
def test_unknown_reasons_and_frames_cannot_be_restored(arguments, message, show, tmp_path):
    fill_folder(every_fourth(show), tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(UnknownName, match=message):
        restore_frames(tmp_path / "out", **arguments)
    assert content(tmp_path / "out") == before


def test_path_of_a_moved_clip_must_be_given(show, tmp_path):
    out = tmp_path / "out"
    fill_folder(every_fourth(show), out)
    moved = show[0].rename(tmp_path / "elsewhere.mp4")
    with pytest.raises(ItemsError, match="give its path in `videos`"):
        restore_frames(out, ["blank"])
    assert restore_frames(out, ["blank"], videos={"one.mp4": moved})
    assert "one-000028.png" in pictures(out)


def test_two_clips_of_one_name_are_refused(show, tmp_path):
    (tmp_path / "b").mkdir()
    other = film(tmp_path / "b" / "one.mp4", still(5))
    with pytest.raises(AnnotateError, match="two clips are called one: rename one"):
        fill_folder(Job((show[0], other)), tmp_path / "out")


def test_file_at_the_output_path_is_an_error(show, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="out: cannot write there: File exists"):
        fill_folder(Job(show), tmp_path / "out")


def test_restore_needs_a_folder_of_frames(tmp_path):
    with pytest.raises(ItemsError, match="fill it with `annotate frames"):
        restore_frames(tmp_path)


def test_nothing_is_written_without_scenedetect(show, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(MissingPackage, match="scenedetect"):
        fill_folder(Job(show), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_complete_folder_does_not_need_scenedetect(show, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert fill_folder(Job(show), out)
    before = (out / ITEMS_FILE).read_bytes()
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    assert not fill_folder(Job(show), out)
    with pytest.raises(MissingPackage, match="scenedetect"):
        fill_folder(Job(show), out, force=True)
    assert (out / ITEMS_FILE).read_bytes() == before


def test_the_frames_and_restore_commands_report_the_counts(annotate, show, tmp_path):
    out = tmp_path / "out"
    code, out_text, err = annotate("frames", *show, "-o", out, "--every", 4, "--duplicates", "hash")
    assert (code, out_text.strip()) == (0, str(out))
    assert "kept" in err and "duplicate" in err
    code, out_text, _ = annotate("restore", out)
    assert code == 0 and "duplicate\t" in out_text
    code, out_text, err = annotate("restore", out, "--reason", "duplicate", "--reason", "blank")
    assert code == 0 and out_text == "frames\tcount\nkept\t16\n"
    assert json.loads((out / "items.jsonl").read_text().splitlines()[0])["stage"] == "frames"


def test_the_preview_counts_kept_frames_by_threshold(annotate, show, tmp_path):
    sheet = tmp_path / "sheet.png"
    code, out_text, _ = annotate("frames", *show, "--rate", 5, "--preview", sheet)
    assert code == 0
    table = dict(line.split("\t", 1) for line in out_text.splitlines()[1:-1])
    assert list(table) == ["0.4", "0.5", "0.6 *", "0.7", "0.8"]
    kept = [int(counts.split("\t")[0]) for counts in table.values()]
    assert kept == sorted(kept) and kept[2] == sum(
        not decision.drop_reason
        for clip in show
        for decision in filter_frames(
            sampled_frames(clip, SamplingOptions(False, FrameSelection(rate=5))), FilterOptions()
        )
    )
    with Image.open(sheet) as image:
        assert image.width > 600
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["one.mp4", "sheet.png", "two.mp4"]


@pytest.mark.parametrize(
    "words, message",
    [
        ((), "give a folder, or --preview PNG"),
        (("-o", "out", "--preview", "a.png"), "give a folder, or --preview PNG"),
        (("-o", "out", "--shots", "--every", "4"), "one of --shots, --every, --rate"),
    ],
)
def test_exclusive_options_are_refused(annotate, show, words, message):
    code, _, err = annotate("frames", show[0], *words)
    assert code == 2 and message in " ".join(err.split())


def test_similarity_is_rounded_in_items(show):
    decisions = list(
        filter_frames(
            sampled_frames(show[0], SamplingOptions(False, FrameSelection())), FilterOptions()
        )
    )
    records = [decision_item(d).dropped for d in decisions if d.nearest and d.drop_reason]
    assert all(each["similarity"] == round(each["similarity"], 4) for each in records) and records

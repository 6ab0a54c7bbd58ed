"""Bad input gives one clear line: exit code 1, no traceback, and no output is left behind."""

import io
import json
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from annotate.items import journal

DETECT = ("-d", "colour", "-v", "designator.v1")
STUDY = ("--describe", "vlm", "-o", "study")
FIND = ("--name", "mech", "-o", "found")
POINTS = "frame_id,object_id,x,y,label,class\n"


def encoded(path, count, size_wh=(64, 48), audio=False):
    """A small mp4: `count` pictures, or a second of silence instead."""
    with av.open(str(path), "w") as file:
        if audio:
            stream = file.add_stream("aac", rate=44100)
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate = 44100
            file.mux(stream.encode(silence))
        else:
            stream = file.add_stream("mpeg4", rate=30)
            stream.width, stream.height = size_wh
            for n in range(count):
                image = np.full((size_wh[1], size_wh[0], 3), n % 256, np.uint8)
                file.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        file.mux(stream.encode())
    return path


def missing(path):
    return path / "nowhere.mp4"


def empty_folder(path):
    (path / "folder").mkdir()
    return path / "folder"


def empty_file(path):
    (path / "empty.mp4").touch()
    return path / "empty.mp4"


def text(path):
    (path / "text.mp4").write_text("it was a dark and stormy night\n" * 99)
    return path / "text.mp4"


def audio_only(path):
    return encoded(path / "sound.mp4", 0, audio=True)


def no_frames(path):
    """An mp4 whose index says that there is a video, of no pictures at all."""
    whole = encoded(path / "whole.mp4", 2).read_bytes()
    (path / "none.mp4").write_bytes(
        whole[: whole.index(b"mdat") - 4] + whole[whole.index(b"moov") - 4 :]
    )
    return path / "none.mp4"


BAD_CLIPS = [missing, empty_folder, empty_file, text, audio_only, no_frames]


@pytest.mark.parametrize("make", BAD_CLIPS, ids=lambda make: make.__name__)
def test_a_file_that_is_no_video_is_refused(make, tmp_path, annotate):
    clip = make(tmp_path)
    code, out, err = annotate("detect", clip, *DETECT, "-o", "boxes.jsonl")
    assert code == 1 and out == ""
    assert clip.name in err and err.count("\n") == 1 and "Traceback" not in err
    assert not (tmp_path / "boxes.jsonl").exists()


def test_a_truncated_clip_gives_what_it_has(demo, tmp_path, annotate):
    clip = tmp_path / "cut.mp4"
    clip.write_bytes(demo.read_bytes()[:400_000])
    code, _, err = annotate("detect", clip, *DETECT, "-o", "boxes.jsonl")
    assert code == 1 and "cut.mp4" in err and "frame" in err
    assert len(list(journal.read("boxes.jsonl"))) > 10


PICTURES = {
    "alpha": Image.new("RGBA", (40, 30), (200, 20, 20, 120)),
    "grey": Image.new("L", (40, 30), 77),
    "16-bit": Image.fromarray(np.full((30, 40), 40_000, np.uint16)),
    "palette": Image.new("P", (40, 30)),
    "1x1": Image.new("RGB", (1, 1)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_odd_pictures_are_read(kind, tmp_path, annotate):
    PICTURES[kind].save(tmp_path / "picture.png")
    code, _, err = annotate("detect", "picture.png", *DETECT, "-o", "boxes.jsonl")
    assert code == 0, err
    [item] = journal.read("boxes.jsonl")
    assert (item.width, item.height) == PICTURES[kind].size and item.objects == ()


@pytest.mark.parametrize(
    "output, message",
    [
        ("no/such/folder/boxes.jsonl", "No such file or directory"),
        (".", "Is a directory"),
        pytest.param(
            "/dev/full",
            "No space left on device",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full"),
        ),
    ],
)
def test_an_output_that_cannot_be_written(output, message, demo, annotate):
    code, _, err = annotate("detect", demo, *DETECT, "-o", output, "--stop", 3)
    assert code == 1 and message in err and err.count("\n") == 1


def test_malformed_toml(tmp_path, demo, annotate):
    (tmp_path / "my.v1.toml").write_text("[classes.mug\n")
    code, _, err = annotate("detect", demo, "-d", "colour", "-v", "my.v1.toml", "-o", "b.jsonl")
    assert code == 1 and "my.v1.toml: malformed TOML" in err and "line 1" in err


BAD_POINTS = {
    "point outside": ("0,1,800,5,1,mech", "row 1, column x: expected a point inside the picture"),
    "NaN": ("0,1,nan,5,1,mech", "row 1, column x: expected a number of pixels"),
    "beyond the clip": ("140,1,5,5,1,mech", "row 1, column frame_id: expected a frame of the clip"),
    "unknown class": ("0,1,5,5,1,desigator", "no class 'desigator'; did you mean 'designator'"),
}


@pytest.mark.parametrize("kind", BAD_POINTS)
def test_bad_points(kind, tmp_path, demo, annotate):
    row, message = BAD_POINTS[kind]
    (tmp_path / "p.csv").write_text(POINTS + row + "\n")
    words = ("propagate", demo, "-p", "p.csv", "-v", "designator.v1", "-o", "m.jsonl")
    code, _, err = annotate(*words)
    assert code == 1 and message in err and "p.csv" in err and err.count("\n") == 1
    assert not (tmp_path / "m.jsonl").exists()


UNKNOWN = {
    ("detect", "-d", "color", "-v", "designator.v1"): "no detector 'color'; did you mean 'colour'",
    ("detect", "-d", "colour", "-v", "designer.v1"): "no vocabulary 'designer.v1'; did you mean",
    ("detect", *DETECT, "--set", "spede=1"): "no option of colour 'spede'",
    ("detect", *DETECT, "--near", "desinator"): "no class 'desinator'; did you mean 'designator'",
    ("propagate", "--engine", "lihgt", "--box", "0,1,2,2,9,9"): "no engine 'lihgt'; did you mean",
}


@pytest.mark.parametrize("words", UNKNOWN, ids=UNKNOWN.values())
def test_an_unknown_name_gets_the_nearest_one(words, demo, annotate):
    command, *rest = words
    code, _, err = annotate(command, demo, *rest, "-o", "out.jsonl")
    assert code == 1 and UNKNOWN[words] in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "words", [("--evry", 3), ("--every", 0), ("--every", "many"), ("--set", "nothing")]
)
def test_usage_is_exit_code_2(words, demo, annotate):
    code, _, err = annotate("detect", demo, *DETECT, "-o", "out.jsonl", *words)
    assert code == 2 and "Traceback" not in err


UNUSABLE = {
    "backward from boxes": (
        "propagate",
        "demo.mp4",
        "--from",
        "b.jsonl",
        "--both",
        "-o",
        "m.jsonl",
    ),
    "not a box to ignore": ("frames", "demo.mp4", "--ignore", "1,2", "-o", "out"),
    "a cut of no clip": ("split", "set", "--cut", "quay.mp4:9"),
    "nothing left to train on": ("split", "set", "--val", 0.7, "--test", 0.3),
    "a box of three": ("study", "demo.mp4", "--frame", 0, "--box", "1,2,3", *STUDY),
    "points that exist": ("propose-points", "demo.mp4", "--phrase", "mech", "-o", "b.jsonl"),
    "curves that exist": ("calibrate-scores", "b.jsonl", "--truth", "set", "-o", "b.jsonl"),
    "a sheet that exists": ("diff", "set", "set", "-o", "b.jsonl"),
    "no truth": ("find", "demo.mp4", "--reference", "s.png", *FIND, "--truth", "no.json"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_what_cannot_be_done_is_refused_before_anything_is_written(kind, demo, tmp_path, annotate):
    (tmp_path / "demo.mp4").symlink_to(demo)
    assert annotate("detect", "demo.mp4", *DETECT, "-o", "b.jsonl", "--stop", 2)[0] == 0
    assert annotate("build", "b.jsonl", "-o", "set")[0] == 0
    Image.new("RGB", (40, 30)).save("s.png")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    code, out, err = annotate(*UNUSABLE[kind])
    assert code == 1 and out == "" and err.count("\n") == 1
    assert err.startswith("annotate: ") and "`" not in err and "Traceback" not in err
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.fixture
def items(demo, tmp_path, annotate):
    assert annotate("detect", demo, *DETECT, "-o", "boxes.jsonl", "--stop", 4)[0] == 0
    return tmp_path / "boxes.jsonl"


def test_items_of_another_clip(items, tmp_path, annotate):
    other = encoded(tmp_path / "demo.mp4", 9)
    code, _, err = annotate("draw", items, "-o", "o.mp4", "--video", f"demo.mp4={other}")
    assert code == 1 and "made from another demo.mp4" in err
    code, _, err = annotate("build", items, "-o", "ds", "--video", f"demo.mp4={other}")
    assert code == 1 and "made from another demo.mp4" in err
    assert not (tmp_path / "ds").exists() and not (tmp_path / "o.mp4").exists()


DAMAGE = {
    "box outside": ({"box": [0, 0, 900, 5]}, "outside the picture of 800x600"),
    "mask of another size": (
        {"mask": {"size": [6, 8], "counts": "0"}},
        "the mask has the size [6, 8]",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_items(kind, items, annotate):
    change, message = DAMAGE[kind]
    lines = items.read_text().splitlines()
    record = json.loads(lines[1])
    obj = {"label": "designator", "box": [0, 0, 5, 5], "score": None, "source": "me"}
    record["objects"] = [obj | change]
    items.write_text("\n".join([lines[0], json.dumps(record), *lines[2:]]) + "\n")
    for words in (("draw", items, "-o", "s.png"), ("build", items, "-o", "ds")):
        code, _, err = annotate(*words)
        assert code == 1 and f"{items.name}:2" in err and message in err


def test_a_newer_header(items, annotate):
    items.write_text(items.read_text().replace('"annotate":1', '"annotate":2', 1))
    code, _, err = annotate("draw", items, "-o", "s.png")
    assert code == 1 and "written by a newer annotate" in err and "pip install -U" in err


def test_names_with_umlauts_and_spaces(demo, tmp_path, annotate):
    home = tmp_path / "Größe, 你好 x"
    home.mkdir()
    clip = home / "mein Spiel.mp4"
    clip.write_bytes(demo.read_bytes())
    boxes, out = home / "die Kästen.jsonl", home / "ein Datensatz"
    for words in (
        ("detect", clip, *DETECT, "-o", boxes, "--stop", 3),
        ("build", boxes, "-o", out),
        ("export", out, "--to", "coco", "-o", home / "für COCO"),
        ("draw", boxes, "-o", home / "Übersicht.png"),
        ("frames", clip, "-o", home / "Bilder", "--keyframes"),
    ):
        code, _, err = annotate(*words)
        assert code == 0, err
    assert (home / "Übersicht.png").exists() and len(list((home / "Bilder").glob("*.png"))) == 4


def test_a_dash_is_stdin_and_stdout(demo, tmp_path, annotate, monkeypatch):
    code, out, _ = annotate("detect", demo, *DETECT, "-o", "-", "--stop", 3)
    assert code == 0 and len(out.splitlines()) == 5  # header, three items, end
    monkeypatch.setattr("sys.stdin", io.StringIO(out))
    code, _, err = annotate("draw", "-", "-o", "sheet.png")
    assert code == 0, err
    with Image.open("sheet.png") as sheet:
        assert sheet.size[0] > 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sheet.png"]


def test_a_closed_stdout_is_no_error(demo):
    words = [sys.executable, "-m", "annotate", "detect", str(demo), *DETECT, "-o", "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        run.stdout.readline()
        run.stdout.close()
        assert "Traceback" not in run.stderr.read().decode()

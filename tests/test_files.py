import errno
import json
import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from annotate import files
from annotate.errors import OutputError, UnknownName, WeightsError

ROOT = Path(__file__).parents[1]


def test_a_missing_packaged_file_names_the_nearest():
    with pytest.raises(UnknownName, match="no file in clips 'dmeo.mp4'; did you mean 'demo.mp4'"):
        files.packaged_file("clips", "dmeo.mp4")


def test_a_file_appears_complete_or_not_at_all(tmp_path):
    path = tmp_path / "table.csv"
    with files.atomic_file(path) as draft:
        assert draft.suffix == ".csv" and draft.parent == tmp_path
        draft.write_text("1")
        assert not path.exists()
    assert path.read_text() == "1"
    with pytest.raises(ZeroDivisionError), files.atomic_file(path) as draft:
        draft.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("nothing", "file"):
        with pytest.raises(OutputError, match="x.json: cannot write there: N"):
            files.write_text(tmp_path / folder / "x.json", "")
    missing = tmp_path / "nothing" / "x"
    with (
        pytest.raises(WeightsError, match="cannot write there"),
        files.atomic_file(missing, error=WeightsError) as draft,
    ):
        draft.touch()


def test_missing_folders_are_created_with_parents(tmp_path):
    files.write_text(tmp_path / "a" / "b.txt", "1\n", parents=True)
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"1\n"


def test_concurrent_writers_have_temporary_files_of_their_own(tmp_path):
    path = tmp_path / "x.json"
    with files.atomic_file(path, concurrent=True) as draft, files.atomic_file(path) as other:
        assert draft != other
        draft.write_text("1")
        other.write_text("2")
    assert path.read_text() == "1"  # the outer block ended last


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_a_secret_file_is_never_readable_by_others(tmp_path):
    path = tmp_path / "token"
    with files.atomic_file(path, mode=0o600) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600
        draft.write_text("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and path.read_text() == "secret"


def test_json_is_read_as_it_was_written_and_a_damaged_file_gives_none(tmp_path):
    path = tmp_path / "deep" / "answer.json"
    files.write_json(path, {"größe": 1})
    assert files.read_json(path) == {"größe": 1} == json.loads(path.read_text("utf-8"))
    path.write_text("[1]")
    assert files.read_json(path) is None and files.read_json(tmp_path / "none") is None


def test_an_existing_path_is_refused_without_force(tmp_path):
    path = tmp_path / "x.png"
    files.refuse_existing(path, force=False)
    path.touch()
    with pytest.raises(OutputError, match="already there; give another output path, or `force`"):
        files.refuse_existing(path, force=False)
    files.refuse_existing(path, force=True)


def test_force_replaces_a_folder_of_its_own_kind_only(tmp_path):
    out = tmp_path / "set"
    for text in ("1", "2"):
        with files.atomic_folder(out, marker_file="set.toml", force=True) as draft:
            (draft / "set.toml").write_text(text)
    assert (out / "set.toml").read_text() == "2" and list(tmp_path.iterdir()) == [out]
    with (
        pytest.raises(OutputError, match="already there"),
        files.atomic_folder(out, marker_file="set.toml"),
    ):
        pass
    (out / "set.toml").rename(out / "letters.txt")
    with (
        pytest.raises(OutputError, match="something else is there"),
        files.atomic_folder(out, marker_file="set.toml", force=True),
    ):
        pass


def test_the_environment_chooses_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert files.cache_dir("answers", "ab") == tmp_path / "caches" / "annotate" / "answers" / "ab"
    assert files.user_data_dir() == tmp_path / "data" / "annotate"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the folders of Linux")
def test_the_default_cache_folder_on_linux(tmp_path, monkeypatch):
    for variable in ("XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert files.cache_dir("shots") == tmp_path / ".cache" / "annotate" / "shots"
    assert files.user_data_dir() == tmp_path / ".local" / "share" / "annotate"


@pytest.mark.slow
def test_a_wheel_holds_the_packaged_data(tmp_path):
    """Prompts, models and the clip are in the wheel and are read from there."""
    build = "import hatchling.build as b, sys; print(b.build_wheel(sys.argv[1]))"
    words = [sys.executable, "-c", build, str(tmp_path)]
    made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(tmp_path / made.stdout.split()[-1]) as wheel:
        wheel.extractall(tmp_path / "site")
    probe = (
        "import annotate.files as f; print(f.__file__);"
        "print(f.packaged_file('clips', 'demo.mp4'), f.packaged_file('models', 'manifest.toml'),"
        "f.packaged_file('prompts', 'vocabulary/designator.v1.toml'),"
        "f.packaged_file('models', 'efficientnet-lite0-s16.onnx'))"
    )
    words = [sys.executable, "-c", probe]
    site = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    run = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True, env=site)
    assert all(str(tmp_path / "site") in word for word in run.stdout.split())


def test_an_output_below_a_file_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.csv", tmp_path / "file" / "more" / "x"):
        with pytest.raises(OutputError, match="cannot write there: Not a directory"):
            files.check_writable(path)
    files.check_writable(tmp_path / "new" / "x.csv")
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_full_or_read_only_disk_is_one_error(tmp_path, monkeypatch):
    def fail(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", fail)
    with pytest.raises(OutputError, match="x: cannot write there: Read-only file system"):
        files.refuse_existing(tmp_path / "x", force=False)


def test_a_device_is_never_replaced_by_a_file():
    with pytest.raises(OutputError, match="it is a device"):
        files.write_text(files.Path("/dev/full"), "x")


@pytest.mark.parametrize(
    "content, is_own",
    [
        (b"", True),
        (b'{"annotate":1,"stage":"detect"}\n', True),
        (b'{\n "annotate": 1, "detectors": {}}', True),
        (b"frame_id,object_id,x,y,label\n", True),
        (b"\x89PNG\r\n\x1a\nrest", True),
        (b"....moov" + files.MADE_BY.encode(), True),
        (b"[classes.mech]\n", False),
        (b'{"images": []}', False),
        (b"frame,x,y\n", False),
        (b"....ftypmp42moov", False),
    ],
)
def test_force_replaces_a_file_that_annotate_can_have_made(tmp_path, content, is_own):
    path = tmp_path / "out"
    path.write_bytes(content)
    if is_own:
        files.refuse_existing(path, force=True)
    else:
        with pytest.raises(OutputError, match="not made by annotate"):
            files.refuse_existing(path, force=True)


def test_two_writers_of_one_folder_exclude_each_other(tmp_path):
    out = tmp_path / "dataset"
    with files.atomic_folder(out, marker_file="x") as first:
        (first / "x").write_text("first")
        with (
            pytest.raises(OutputError, match="another run is writing it"),
            files.atomic_folder(out, marker_file="x"),
        ):
            raise AssertionError
    assert (out / "x").read_text() == "first"


def test_what_a_killed_run_left_of_a_folder_is_removed(tmp_path):
    left_over = tmp_path / "dataset.part"
    (left_over / "images").mkdir(parents=True)
    (left_over / "half").touch()
    with files.atomic_folder(tmp_path / "dataset", marker_file="x") as folder:
        assert not list(folder.iterdir())
        (folder / "x").touch()
    assert [each.name for each in tmp_path.iterdir()] == ["dataset"]

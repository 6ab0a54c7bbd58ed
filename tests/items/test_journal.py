import dataclasses
import errno
import io
import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.errors import ItemsError, OutputError, SettingsDiffer
from annotate.items import journal
from annotate.items.records import Header, Item, Object, item_from_json, item_to_json
from annotate.locking import locks

MASK = {"size": [48, 64], "counts": "X`06Ua"}


def item(index, *objects):
    return Item("dock.mp4", index, Fraction(index, 30), 64, 48, objects)


MUG = Object("mug", (1.5, 2.0, 10.25, 20.0), 0.75, 3, MASK, "colour")


def run(path, header, items, stop=None):
    """Write the items after the last one in the file, as a stage does."""
    with journal.append(path, header) as out:
        if out.complete:
            return
        for each in items[out.count : stop]:
            out.write(each)
        if stop is None:
            out.finish()


ITEMS = [item(0, MUG), item(1), item(2, MUG, Object("plate", (0, 0, 64, 48))), item(5)]


def test_what_is_written_is_read(tmp_path, header):
    path = tmp_path / "größe 1.jsonl"
    run(path, header, ITEMS)
    written = journal.read(path)
    assert written.header == header
    assert list(written) == ITEMS
    assert list(written) == ITEMS  # it can be iterated twice


def test_flags_are_written_only_if_there_are_any():
    flagged = dataclasses.replace(MUG, flags=("jump", "overlap"))
    assert '"flags"' not in item_to_json(item(0, MUG))
    assert item_to_json(item(0, flagged)).endswith(
        '"source":"colour","flags":["jump","overlap"]}]}'
    )


def test_a_run_killed_at_any_byte_is_resumed_to_the_same_bytes(tmp_path, header):
    whole = tmp_path / "whole.jsonl"
    run(whole, header, ITEMS)
    expected = whole.read_bytes()
    for cut in range(len(expected)):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(expected[:cut])
        run(path, header, ITEMS)
        assert path.read_bytes() == expected, f"cut at byte {cut}"


def test_a_complete_file_is_not_changed(tmp_path, header):
    path = tmp_path / "a.jsonl"
    run(path, header, ITEMS)
    before = path.read_bytes()
    with journal.append(path, header) as out:
        assert out.complete and out.count == 4 and out.last == ITEMS[-1]
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change, message",
    [
        ({"settings": {"detector": "colour", "smallest": 26}}, "smallest: 25 in the file, 26 now"),
        ({"settings": {"detector": "colour"}}, "smallest: 25 in the file, not set now"),
        ({"stage": "propagate"}, "stage: detect in the file, propagate now"),
        ({"version": "9.9"}, "annotate:"),
        ({"vocabulary": {"name": "mugs.v2", "sha256": "0", "labels": []}}, "mugs.v1 in the file"),
        ({"videos": {"dock.mp4": {"fingerprint": "ab"}}}, "clip dock.mp4: not set in the file"),
    ],
)
def test_other_settings_are_refused_and_named(tmp_path, header, change, message):
    path = tmp_path / "a.jsonl"
    run(path, header, ITEMS, stop=2)
    before = path.read_bytes()
    with pytest.raises(SettingsDiffer, match=message):
        journal.append(path, dataclasses.replace(header, **change))
    assert path.read_bytes() == before
    with journal.append(path, dataclasses.replace(header, **change), force=True) as out:
        assert out.count == 0


def test_the_path_of_a_clip_is_not_compared(tmp_path, header):
    here = {"dock.mp4": {"fingerprint": "ab", "path": "here/dock.mp4"}}
    there = {"dock.mp4": {"fingerprint": "ab", "path": "/there/dock.mp4"}}
    path = tmp_path / "a.jsonl"
    run(path, dataclasses.replace(header, videos=here), ITEMS, stop=2)
    run(path, dataclasses.replace(header, videos=there), ITEMS)
    assert len(list(journal.read(path))) == 4


@pytest.mark.parametrize("text", ["my holiday\n", "", '{"a": 1}\n', "half a line of something"])
def test_another_kind_of_file_is_not_overwritten(tmp_path, header, text):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    if text:
        with pytest.raises(OutputError, match="`force`"):
            journal.append(path, header)
        assert path.read_text() == text


def test_a_newer_format_says_what_to_do(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"annotate": 99, "version": "7.0", "stage": "detect"}\n')
    with pytest.raises(ItemsError, match=r"newer annotate \(7.0, format 99.*pip install -U"):
        journal.read(path)


BAD = {
    "not JSON": "{]",
    "the item has no 'width'": '{"frame": 0, "objects": []}',
    "outside the picture of 64x48": {"box": [0, 0, 65, 48]},
    r"box \[-1.0, 0.0, 5.0, 5.0\] is outside": {"box": [-1, 0, 5, 5]},
    "is not x1, y1, x2, y2": {"box": [9, 0, 4, 48]},
    "but the picture is": {"mask": {"size": [48, 65], "counts": "0"}},
    "could not convert": {"box": ["a", 0, 1, 1]},
    "not enough values": {"box": [0, 0, 1]},
}


@pytest.mark.parametrize("message", BAD, ids=BAD)
def test_a_damaged_item_is_named_by_its_line(tmp_path, header, message):
    path = tmp_path / "a.jsonl"
    run(path, header, ITEMS)
    lines = path.read_text().splitlines()
    bad = BAD[message]
    if isinstance(bad, dict):
        record = json.loads(lines[1])
        record["objects"][0] |= bad
        bad = json.dumps(record)
    lines[2] = bad
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ItemsError, match=f"a.jsonl:3: .*{message}"):
        list(journal.read(path))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "."])
def test_a_missing_file_and_a_folder_cannot_be_read(name):
    with pytest.raises(ItemsError, match="No such file|a folder"):
        journal.read(name)


def test_a_binary_file_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ItemsError, match="not text"):
        journal.read("a.jsonl")


def test_a_missing_folder_cannot_be_written_to(tmp_path, header):
    with pytest.raises(OutputError, match="no/such/a.jsonl: cannot write there: No such file"):
        journal.append(tmp_path / "no/such/a.jsonl", header)


class FullDisk(io.FileIO):
    """A file on a nearly full disk: bytes are written up to the limit, then ENOSPC is raised."""

    room = 900

    def write(self, data):
        fits = self.room - self.tell()
        super().write(data[: max(fits, 0)])
        if fits < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


def test_a_full_disk_keeps_the_complete_lines(tmp_path, header):
    path = tmp_path / "a.jsonl"
    with FullDisk(path, "w+") as file:
        out = journal.Appender(file, "a.jsonl")
        out._write_line(header.to_json())
        with pytest.raises(OutputError, match="No space left on device; the 3 frames before"):
            for each in [item(n, MUG) for n in range(99)]:
                out.write(each)
    assert list(journal.read(path)) == [item(n, MUG) for n in range(3)]
    assert path.read_bytes().endswith(b"\n"), "the half line is cut off"


def test_standard_output_and_input(capfdbinary, monkeypatch, header):
    journal.write("-", header, ITEMS)
    written = capfdbinary.readouterr().out.decode()
    monkeypatch.setattr("sys.stdin", io.StringIO(written))
    read = journal.read("-")
    assert read.header == header and list(read) == ITEMS


def test_a_failed_write_leaves_no_file(tmp_path, header):
    def breaks():
        yield ITEMS[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        journal.write(tmp_path / "a.jsonl", header, breaks())
    assert list(tmp_path.iterdir()) == []


boxes = st.tuples(*[st.floats(0, 24)] * 2, st.floats(24, 64), st.floats(24, 48))
objects = st.builds(
    Object,
    label=st.text(min_size=1),
    box=boxes,
    score=st.none() | st.floats(0, 1),
    track=st.none() | st.integers(0, 2**40),
    mask=st.none() | st.just(MASK),
    source=st.text(),
    flags=st.lists(st.sampled_from(["jump", "covers", "overlap"]), unique=True).map(tuple),
)
an_item = st.builds(
    Item,
    video=st.text(),
    frame=st.integers(0, 2**40),
    seconds=st.fractions(),
    width=st.just(64),
    height=st.just(48),
    objects=st.lists(objects).map(tuple),
    lost=st.lists(st.integers(0, 99)).map(tuple),
)


@given(an_item)
def test_any_item_is_read_as_it_was_written(original):
    line = item_to_json(original)
    assert "\n" not in line
    assert item_from_json(line, "here") == original


def resume(path, header, *, fails_at=None, force=False):
    """Run over ITEMS, failing before the item `fails_at`; return the result and the reports."""
    reported = []

    def items_after(last):
        for each in ITEMS:
            if each.frame == fails_at:
                raise OSError("stopped")
            if each.frame > last:
                yield each

    ran = journal.resume_items(path, header, items_after, force=force, progress=reported.append)
    return ran, reported


def test_a_stopped_run_is_resumed_after_its_last_item(tmp_path, header):
    path, whole = tmp_path / "stopped.jsonl", tmp_path / "whole.jsonl"
    assert resume(whole, header) == (True, ITEMS)
    with pytest.raises(OSError, match="stopped"):
        resume(path, header, fails_at=2)
    assert list(journal.read(path)) == ITEMS[:2]
    assert resume(path, header) == (True, ITEMS[2:])
    assert path.read_bytes() == whole.read_bytes()
    assert resume(path, header) == (False, [])
    assert resume(path, header, force=True) == (True, ITEMS)


def test_a_run_that_fails_before_its_first_item_leaves_no_file(tmp_path, header):
    with pytest.raises(OSError, match="stopped"):
        resume(tmp_path / "none.jsonl", header, fails_at=0)
    assert not list(tmp_path.iterdir())
    with pytest.raises(OSError, match="stopped"):
        resume("/dev/null", header, fails_at=0)
    assert Path("/dev/null").exists()


def test_a_resumed_run_need_not_be_complete(tmp_path, header):
    path = tmp_path / "open.jsonl"
    assert journal.resume(path, header, lambda out: out.write(ITEMS[0]), end_marker=False)
    with journal.append(path, header) as out:
        assert not out.complete and out.last == ITEMS[0]


@pytest.mark.parametrize("removed", [1, 2, 4])
def test_removed_lines_are_noticed(tmp_path, header, removed):
    path = tmp_path / "a.jsonl"
    run(path, header, ITEMS)
    lines = path.read_text().splitlines(keepends=True)
    damaged = "".join(line for number, line in enumerate(lines) if number != removed)
    path.write_text(damaged)
    with pytest.raises(ItemsError, match="a.jsonl:5: damaged: 3 frames .* says 4"):
        list(journal.read(path))
    with pytest.raises(ItemsError, match="damaged: 3 frames"), journal.append(path, header):
        raise AssertionError
    assert path.read_text() == damaged


WRITER = """
import sys, time
from annotate.items import journal
from annotate.items.records import Header
with journal.append(sys.argv[1], Header("detect")):
    print("open", flush=True)
    time.sleep(600)
"""


def test_a_second_run_on_one_file_is_refused_until_the_first_is_killed(tmp_path):
    path = tmp_path / "a.jsonl"
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"open\n"
        for force in (False, True):
            with pytest.raises(OutputError, match="another run is writing it"):
                journal.append(path, Header("detect"), force=force)
        writer.kill()
    assert journal.resume(path, Header("detect"), lambda out: out.write(ITEMS[0]))


def test_a_file_that_another_run_removed_is_made_again(tmp_path, header, monkeypatch):
    """A run that fails removes its file between the opening and the lock of the next one."""
    path = tmp_path / "a.jsonl"
    lock = locks._lock

    def removed_before_the_lock(descriptor, place):
        monkeypatch.setattr(locks, "_lock", lock)
        place.unlink()
        lock(descriptor, place)

    monkeypatch.setattr(locks, "_lock", removed_before_the_lock)
    run(path, header, ITEMS)
    assert list(journal.read(path)) == ITEMS


def test_force_keeps_the_earlier_file_until_the_first_item(tmp_path, header):
    path = tmp_path / "a.jsonl"
    run(path, header, ITEMS)
    before = path.read_bytes()
    with pytest.raises(OSError, match="stopped"):
        resume(path, header, fails_at=0, force=True)
    assert path.read_bytes() == before
    with pytest.raises(OSError, match="stopped"):
        resume(path, header, fails_at=2, force=True)
    assert list(journal.read(path)) == ITEMS[:2]


@pytest.mark.parametrize("text", ["[classes]\n", '{"images": []}\n'])
def test_force_replaces_only_items(tmp_path, header, text):
    path = tmp_path / "mine"
    path.write_text(text)
    with pytest.raises(OutputError, match="not made by annotate"):
        journal.append(path, header, force=True)
    assert path.read_text() == text


def test_a_clip_of_the_header_is_never_the_output(tmp_path, header):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"a film")
    header = dataclasses.replace(header, videos={"clip.mp4": {"path": str(clip)}})
    with pytest.raises(OutputError, match="this is an input of the run"):
        journal.append(clip, header, force=True)
    assert clip.read_bytes() == b"a film"


def test_a_last_line_that_is_cut_inside_a_character_is_skipped(tmp_path, header):
    path, item = tmp_path / "a.jsonl", Item("é.mp4", 0, Fraction(0), 64, 48)
    journal.write(path, header, [item, item])
    data = path.read_bytes()
    cut = data.rindex("é".encode()) + 1
    path.write_bytes(data[:cut])
    assert list(journal.read(path)) == [item]
    path.write_bytes(data[:cut] + data[cut + 1 :])
    with pytest.raises(ItemsError, match=r"a\.jsonl:3: not text"):
        list(journal.read(path))
    with pytest.raises(ItemsError, match=r"a\.jsonl:3: not text"), journal.append(path, header):
        pass

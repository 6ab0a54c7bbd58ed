import json
import resource
import shutil
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest
from dataset_samples import PLATE, clip, item, items, mug
from training_samples import clip as drawn_clip
from training_samples import drawn_dataset
from untrained import untrained_model

from annotate.dataset.build import build_dataset
from annotate.dataset.folder import SplitRange, load_dataset, with_split
from annotate.errors import (
    AnnotateError,
    DatasetError,
    OutputError,
    SettingsDiffer,
    UnknownName,
    WeightsError,
)
from annotate.items import journal
from annotate.items.records import Header
from annotate.training.chain import walk
from annotate.training.run import Training, train
from annotate.vocabulary import read_vocabulary
from annotate.weights import lineage

FAST = {"options": {"copies": 1, "min_steps": 1}, "epochs": 1, "image_size": 64, "threads": 1}


@pytest.fixture
def dataset(tmp_path):
    return drawn_dataset(tmp_path, train=4, val=3)


@pytest.fixture
def training(dataset, tmp_path):
    return Training(dataset.path, tmp_path / "model", **FAST)


def built(folder, lines, labels=("plate", "mug"), name="dock"):
    pictures = clip(folder / name, len(lines))
    frames = [item(name, number, *objects) for number, objects in enumerate(lines)]
    return build_dataset(
        [items(folder / "items.jsonl", [pictures], frames, labels)], folder / "data"
    )


@pytest.mark.parametrize(
    ("lines", "labels", "parts", "reason"),
    [
        ([(PLATE,), ()], ("plate",), None, "not split into train and val"),
        ([(PLATE,), (PLATE,)], ("plate",), "train", "no frame is in val"),
        ([(PLATE,), (mug(),)], ("plate", "mug"), "train val", "class 'mug' has no object in train"),
        ([(), (PLATE,)], ("plate",), "train val", "no object is in train"),
        ([(PLATE,), ()], ("plate",), "train val", "no object is in val"),
        ([(PLATE,)], ("plate",), "train", "no frame is in val"),
    ],
)
def test_a_dataset_that_cannot_be_trained_on_is_refused(lines, labels, parts, reason, tmp_path):
    dataset = built(tmp_path, lines, labels)
    if parts:
        ranges = [SplitRange("dock", n, n + 1, part) for n, part in enumerate(parts.split())]
        last = ranges[-1]
        with_split(dataset, [*ranges[:-1], replace(last, stop=len(lines))])
    with pytest.raises(DatasetError, match=reason):
        train(Training(dataset.path, tmp_path / "model", **FAST))
    assert not list(tmp_path.glob("model*"))


def test_a_split_by_frames_is_refused_and_a_pair_of_frames_named(tmp_path):
    dataset = built(tmp_path, [(PLATE,)] * 6, ("plate",))
    still = (dataset.images / "dock-000000.png").read_bytes()
    for path in dataset.images.iterdir():
        path.unlink()
        path.write_bytes(still)
    with_split(
        dataset, [SplitRange("dock", n, n + 1, "val" if n % 2 else "train") for n in range(6)]
    )
    with pytest.raises(DatasetError, match=r"3 of 3 val frames look .* dock-00000..png like dock"):
        train(Training(dataset.path, tmp_path / "model", **FAST))


def test_the_model_is_a_folder_that_appears_as_a_whole(training, dataset):
    lines, reports = [], []
    model = train(training, say=lines.append, report=reports.append)
    names = {"weights.onnx", "lineage.json", "vocabulary.toml", "curve.csv"}
    assert {path.name for path in model.folder.iterdir()} == names
    assert read_vocabulary(model.folder / "vocabulary.toml").labels == ("square",)
    assert lines[0].startswith("train: 4 frames, ") and "without objects" in lines[0]
    assert [(each.epoch, each.epochs) for each in reports] == [(1, 1)]
    record = model.lineage
    assert record.dataset["frames"] == {"train": 4, "val": 3}
    assert record.trainer["name"] == "light" and record.trainer["settings"]["epochs"] == 1
    assert record.runs == ({"epochs": [1, 1], "resumed": False},)
    assert json.loads(record.to_json())["schema"] == 1
    with pytest.raises(OutputError, match="already there"):
        train(training)
    shutil.rmtree(dataset.path)
    assert [link.state for link in walk(model.folder)] == ["as it was", "gone"]


def test_a_training_with_other_settings_is_not_continued(training):
    with pytest.raises(KeyboardInterrupt):
        train(replace(training, epochs=3), report=interrupt)
    work = training.output.with_name("model.training")
    assert work.is_dir() and not training.output.exists()
    with pytest.raises(SettingsDiffer, match=r"epochs: 3 in the file, 2 now; seed: 0 in the file"):
        train(replace(training, epochs=2, seed=5))
    assert train(replace(training, epochs=2, seed=5), force=True).lineage.trainer["seed"] == 5
    assert not work.exists()


def interrupt(report):
    raise KeyboardInterrupt


def test_ctrl_c_keeps_the_last_whole_epoch(training, tmp_path):
    training = replace(training, epochs=3)
    whole = train(replace(training, output=tmp_path / "whole"))

    def second(report):
        if report.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(training, report=second)
    model = train(training)
    assert model.lineage.tensor_sha256 == whole.lineage.tensor_sha256
    [run] = model.lineage.runs
    assert run["resumed"] and run["epochs"][1] == 3
    curves = [(each.folder / "curve.csv").read_text() for each in (model, whole)]
    assert curves[0] == curves[1]


def test_what_stands_in_the_way_is_not_removed(training, dataset, tmp_path):
    work = tmp_path / "model.training"
    work.mkdir()
    (work / "notes.txt").write_text("a year of work")
    with pytest.raises(OutputError, match="no training that was stopped"):
        train(training)
    with pytest.raises(OutputError):
        train(replace(training, output=dataset.path), force=True)
    assert (work / "notes.txt").exists() and (dataset.path / "items.jsonl").exists()


def test_wrong_settings_are_one_line(training, tmp_path):
    for changes, reason in (
        ({"epochs": 0}, "`epochs` must be 1"),
        ({"image_size": 32}, "`image_size` must be 64"),
        ({"freeze": "head"}, "`freeze`"),
    ):
        with pytest.raises(AnnotateError, match=reason):
            replace(training, **changes)
    with pytest.raises(UnknownName, match="did you mean 'light'"):
        train(replace(training, trainer="ligth"))
    with pytest.raises(AnnotateError, match="dropout 0 to"):
        train(replace(training, options={"dropout": 1.0}))
    with pytest.raises(WeightsError):
        train(replace(training, parent=str(tmp_path / "none.onnx")))


def test_a_read_only_dataset_is_trained_on_and_not_written_to(training, dataset):
    before = {path: path.read_bytes() for path in dataset.path.rglob("*") if path.is_file()}
    for path in (dataset.path, dataset.images):
        path.chmod(0o555)
    try:
        train(training)
    finally:
        for path in (dataset.path, dataset.images):
            path.chmod(0o755)
    after = {path: path.read_bytes() for path in dataset.path.rglob("*") if path.is_file()}
    assert before == after


def test_a_full_disk_is_one_line(training, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("annotate.training.light.trainer.np.savez", full)
    with pytest.raises(OutputError, match="No space left on device"):
        train(training)
    assert not list(training.output.parent.glob("model*"))


@pytest.mark.parametrize("limit", [100_000, 1_500_000], ids=["features", "state"])
def test_a_disk_that_gets_full_is_one_line_and_the_training_goes_on_later(
    training, tmp_path, limit
):
    training = replace(training, epochs=2, options={"copies": 1, "min_steps": 1})
    whole = train(replace(training, output=tmp_path / "whole"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))  # no file may be larger
    try:
        with pytest.raises(OutputError, match="cannot write there: File too large"):
            train(training)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not training.output.exists()
    assert training.output.with_name("model.training").exists() == (limit > 1_000_000)
    assert train(training).lineage.tensor_sha256 == whole.lineage.tensor_sha256


def test_too_small_a_disk_is_one_line_before_anything_is_computed(training, tmp_path, monkeypatch):
    sizes = []

    def note_sizes(report):
        folder = training.output.with_name("model.training") / "trainer"
        sizes.extend(each.stat().st_size for each in folder.glob("*.fine"))
        sizes.extend(each.stat().st_size for each in folder.glob("*.coarse"))

    train(training, report=note_sizes)
    assert len(sizes) == 4
    free = sum(sizes) - 1

    def disk_usage(path):
        return SimpleNamespace(free=free)

    monkeypatch.setattr("annotate.training.light.features.shutil.disk_usage", disk_usage)
    training = replace(training, output=tmp_path / "other")
    with pytest.raises(OutputError, match=r"features of 7 pictures need up to 0.0 GB there, and 0"):
        train(training)
    assert not list(tmp_path.glob("other*"))
    free += 1
    train(replace(training, epochs=2))  # other settings: there is nothing to go on from


def test_a_training_asks_for_no_network(training, tmp_path, monkeypatch):
    attempts = []

    def refuse(*place, **options):
        attempts.append(place)
        raise OSError("no network")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    train(replace(training, gold=gold_set(tmp_path, 1)))
    assert attempts == []
    with pytest.raises(OSError, match="no network"):
        socket.create_connection(("127.0.0.1", 9))
    assert len(attempts) == 1  # one that asked would have been seen


def test_a_torn_state_is_one_line_that_says_what_to_do(training):
    with pytest.raises(KeyboardInterrupt):
        train(replace(training, epochs=3), report=interrupt_in_second)
    state = training.output.with_name("model.training") / "trainer" / "state.npz"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(AnnotateError, match="damaged.*`force`"):
        train(replace(training, epochs=3))


def interrupt_in_second(report):
    if report.epoch == 2:
        raise KeyboardInterrupt


def test_the_chain_goes_from_items_to_weights_to_the_dataset(tmp_path, dataset):
    content = {"path": str(dataset.path), "sha256": "5e1f" * 16}
    folder = untrained_model(tmp_path / "model", ("square",), dataset=content)
    digest = lineage.read_model_folder(folder).lineage.tensor_sha256
    path = tmp_path / "boxes.jsonl"
    settings = {"detector": "trained", "model": str(folder), "weights": {"model": digest}}
    journal.write(path, Header("detect", settings), [])
    links = list(walk(path))
    assert [link.what for link in links] == ["items", "weights", "dataset", "items", "clip", "clip"]
    assert links[1].state == "as it was" and links[2].state.startswith("altered: sha256")
    other = {**settings, "weights": {"model": "ab" * 32}}
    journal.write(path, Header("detect", other), [])
    assert (
        "made by tensors abababab"
        in next(link for link in walk(path) if link.what == "weights").state
    )
    shutil.rmtree(folder)
    assert [link.state for link in walk(path)] == ["", "gone"]
    assert next(walk(load_dataset(dataset.path).path)).what == "dataset"


def test_the_command_trains_and_its_model_detects(dataset, tmp_path, annotate):
    words = [
        "--set",
        "copies=1",
        "--set",
        "min_steps=1",
        "--epochs",
        "1",
        "--size",
        "64",
        "--threads",
        "1",
    ]
    code, out, err = annotate("train", dataset.path, "-o", "model", *words)
    assert code == 0 and out.splitlines()[-1] == "model", err
    assert "train: 4 frames" in err
    command = ["detect", tmp_path / "dock", "-d", "trained:model=model"]
    code, out, err = annotate(*command, "-v", "model/vocabulary.toml", "-o", "boxes.jsonl")
    assert code == 0, err
    code, out, err = annotate("lineage", "boxes.jsonl")
    assert code == 0 and "weights" in out and "as it was" in out and "dock" in out


def gold_set(folder, clip_count=5):
    clips = [folder / f"pier{number}" for number in range(clip_count)]
    lines = [each for n, path in enumerate(clips) for each in drawn_clip(path, 2, (90, 60), 50 + n)]
    path = items(folder / "gold.jsonl", clips, lines, ("square",))
    return build_dataset([path], folder / "gold").path


def test_a_model_is_compared_with_its_parent_on_gold(training, tmp_path):
    gold = gold_set(tmp_path)
    first = train(replace(training, gold=gold, seeds=2))
    record = first.lineage
    assert record.gold["looks"] == 1 and (gold / "gold.toml").exists()
    assert record.results["gold"]["before"] is None
    assert len(record.results["gold"]["seeds"]["AP50"]) == 2
    assert {"table.md", "sheet.png", "precision_recall.csv"} <= {
        path.name for path in first.folder.iterdir()
    }
    assert not first.folder.with_name("model.training").exists()
    second = replace(training, output=tmp_path / "next", parent=str(first.folder), seed=7)
    results = train(replace(second, gold=gold)).lineage.results["gold"]
    assert results["before"]["AP50"] == record.results["gold"]["after"]["AP50"]
    assert results["difference"]["AP50"]["low"] is not None and results["clips"] == 5
    assert "looked at 2 times" in (tmp_path / "next" / "table.md").read_text()
    assert [link.what for link in walk(tmp_path / "next")][:3] == ["weights", "parent", "gold"]


def test_a_gold_set_that_overlaps_is_refused_before_anything_is_trained(training, dataset):
    with pytest.raises(DatasetError, match="dock is the same clip as dock"):
        train(replace(training, gold=dataset.path))
    assert not training.output.with_name("model.training").exists()
    with pytest.raises(AnnotateError, match="`seeds` above 1 need `gold`"):
        replace(training, seeds=3)


def test_seeds_that_were_trained_are_not_trained_again(training, tmp_path):
    gold, epochs = gold_set(tmp_path), []
    training = replace(training, gold=gold, seeds=2)

    def stop_in_second(report):
        epochs.append(report.epoch)
        if len(epochs) == 2:
            [features] = training.output.with_name("model.training").rglob("train.fine")
            assert features.parts[-3] == "seed-1"  # those of the first seed are removed
            raise MemoryError

    with pytest.raises(MemoryError):
        train(training, report=stop_in_second)
    train(training, report=lambda report: epochs.append(report.epoch))
    assert len(epochs) <= 3  # the first seed once

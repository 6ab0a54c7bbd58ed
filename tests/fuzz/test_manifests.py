"""Manifests, receipts, notes and dataset files that are changed at random.

A manifest has every model of its file, each of which can be listed and described, or is refused. A
damaged receipt or note is refused, or as good as none. A dataset has every item of its file.
"""

import json
import os
import tomllib
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from mutations import fuzz, json_bytes, mutated_text, outcome, text_bytes

from annotate.dataset.folder import load_dataset
from annotate.detectors.run import DETECTORS
from annotate.items.records import Vocabulary
from annotate.vlm.answer_cache import read_model_notes, write_model_notes
from annotate.weights import manifest, store

SHA256 = "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"
FILES = [{"path": "a/best.pt", "bytes": 5, "sha256": SHA256, "hash_confidence": "A"}, {"path": "b"}]
OWN = {"family": "own", "task": "your own", "licence": "your own", "files": FILES, "path": "/x/y"}
HUB = {"family": "sam2", "task": "masks", "licence": "MIT", "files": FILES[:1], "also": ["*.json"],
       "repo": "a/b", "revision": "de431c4043854a71", "gated": True, "notes": "large"}  # fmt: skip
NOTES = {"url": "http://localhost:1/v1", "model": "sees", "convention": "relative 1000 xyxy",
         "iou": 0.9, "side": 1024, "way": "tool"}  # fmt: skip
DATASET = """\
annotate = 1
classes = ["plate", "mug"]

[clips."dock.mp4"]
fingerprint = "5e1f"
frame_count = 9

[[stretches]]
clip = "dock.mp4"
start = 0
stop = 9
part = "train"
"""
HEADER = b'{"annotate":1,"stage":"build"}\n'
MUG = {"label": "mug", "box": [1, 2, 3, 4], "score": None}
ITEM = {"video": "dock.mp4", "frame": 5, "seconds": "5/2", "width": 64, "height": 48}
ITEM |= {"image": "dock-000005.png", "objects": [MUG]}


def _describe_all():
    models = [model for model, _ in store.list_models()]
    return {model.name: (store.describe_model(model), store.size_text(model)) for model in models}


@fuzz
@given(json_bytes({"mine": OWN, "theirs": HUB}))
def test_every_model_of_a_manifest_is_listed(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "weights"
    folder.mkdir(exist_ok=True)
    (folder / manifest.USER_MANIFEST).write_bytes(data)
    with patch.dict(os.environ, {manifest.WEIGHTS_VARIABLE: str(folder)}):
        described = outcome(_describe_all)
    if described is not None:
        assert json.loads(data).keys() <= described.keys()
        own = manifest.user_models(folder)
        assert manifest._parse_models(json.loads(manifest.user_models_to_json(own)), "") == own


@fuzz
@given(json_bytes(FILES))
def test_a_receipt_is_whole_or_refused(data):
    files = outcome(lambda: manifest.receipt_from_json(data, "fetched.json"))
    assert files is None or len(files) == len(json.loads(data))


@fuzz
@given(json_bytes(NOTES))
def test_notes_of_a_model_are_used_or_refused(data):
    write_model_notes(NOTES["url"], NOTES["model"]).write_bytes(data)
    notes = outcome(lambda: read_model_notes(NOTES["url"], NOTES["model"]))
    assert isinstance(notes, dict)
    words = Vocabulary("demo.v1", {"monster": {"vlm": "Demon"}}, "5e1f")
    options = {"url": NOTES["url"], "model": NOTES["model"]}
    detector = outcome(lambda: DETECTORS.load("vlm", words, **options))
    if detector is not None:
        assert detector.coordinates in ("", notes.get("convention")), detector.coordinates
        outcome(detector.ready)


@fuzz
@given(mutated_text(DATASET), st.just(json.dumps(ITEM).encode()) | json_bytes(ITEM))
def test_a_dataset_has_every_item(tmp_path_factory, text, line):
    folder = tmp_path_factory.getbasetemp() / "dataset"
    folder.mkdir(exist_ok=True)
    line = line.replace(b"\n", b"")
    (folder / "dataset.toml").write_bytes(text_bytes(text))
    (folder / "items.jsonl").write_bytes(HEADER + line + b"\n")
    dataset = outcome(lambda: load_dataset(folder))
    if dataset is not None:
        table = tomllib.loads((folder / "dataset.toml").read_text(encoding="utf-8"))
        assert list(dataset.classes) == table["classes"]
        samples = outcome(lambda: list(dataset))
        assert samples is None or len(samples) == (not line.startswith(b'{"end"'))

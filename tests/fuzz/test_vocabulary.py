"""Vocabularies that are changed at random.

A vocabulary has every class of its file, in order; every phrase of a detector is listed under its
class; otherwise it is refused.
"""

import tomllib

from hypothesis import given
from mutations import fuzz, mutated_text, outcome, text_bytes

from annotate.items.records import Header
from annotate.vocabulary import detector_phrases, read_vocabulary

VALID = """\
description = "things on a table"

[classes.plate]
yolo-world = ["white plate", "dish"]
vlm = "plate"

[classes."red mug"]
yolo-world = "cup"
moondream = ["mug", "red cup"]
colour = { outline = [214, 40, 40] }
"""


def _read(path):
    vocabulary = read_vocabulary(path)
    header = Header("detect", vocabulary=vocabulary.header_entry())
    assert Header.from_json(header.to_json(), "") == header
    return vocabulary


@fuzz
@given(mutated_text(VALID))
def test_every_class_and_phrase_is_there(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "things.v1.toml"
    path.write_bytes(text_bytes(text))
    vocabulary = outcome(lambda: _read(path))
    if vocabulary is None:
        return
    classes = tomllib.loads(path.read_text(encoding="utf-8"))["classes"]
    assert vocabulary.labels == tuple(classes)
    for detector in vocabulary.detectors:
        phrases = outcome(lambda name=detector: detector_phrases(vocabulary, name))
        if phrases is not None:
            for class_id, words in enumerate(classes.values()):
                entry = words.get(detector, [])
                texts = {
                    " ".join(t.split()) for t in ([entry] if isinstance(entry, str) else entry)
                }
                assert texts == {p.text for p in phrases if p.class_id == class_id}

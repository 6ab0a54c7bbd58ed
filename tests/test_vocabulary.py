import pytest

from annotate.errors import PromptError
from annotate.items.records import Vocabulary
from annotate.vocabulary import Phrase, detector_phrases, read_vocabulary


def make_vocabulary(**classes):
    return Vocabulary("mugs.v1", classes, "5e1f" * 16)


def test_alternative_phrases_belong_to_one_class():
    vocabulary = make_vocabulary(
        plate={"vlm": "a plate"}, mug={"yoloe": ["red  mug", "cup"]}, jug={"yoloe": "jug"}
    )
    assert detector_phrases(vocabulary, "yoloe") == (
        Phrase("red mug", 1),
        Phrase("cup", 1),
        Phrase("jug", 2),
    )


def test_a_phrase_that_a_class_has_twice_is_listed_once():
    assert detector_phrases(make_vocabulary(mug={"yoloe": ["cup", "cup"]}), "yoloe") == (
        Phrase("cup", 0),
    )


@pytest.mark.parametrize("entry", [3, [], "", ["cup", " "], {"phrase": "cup"}, [["cup"]]])
def test_an_entry_that_is_not_a_phrase_is_refused(entry):
    with pytest.raises(PromptError, match="class 'mug': yoloe must be a phrase, or a list"):
        detector_phrases(make_vocabulary(mug={"yoloe": entry}), "yoloe")


def test_a_missing_phrase_says_where_to_write_it():
    with pytest.raises(
        PromptError, match=r"no phrase for yoloe: .* yoloe = .* under \[classes.mug\]"
    ):
        detector_phrases(make_vocabulary(mug={"vlm": "a mug"}), "yoloe")


def test_two_classes_cannot_have_the_same_phrase():
    with pytest.raises(PromptError, match="'mug' and 'jug' have the same phrase for yoloe, 'pot'"):
        detector_phrases(
            make_vocabulary(mug={"yoloe": "pot"}, jug={"yoloe": ["jug", "pot"]}), "yoloe"
        )


def test_a_misspelt_detector_is_named(tmp_path):
    path = tmp_path / "v.toml"
    path.write_text("[classes.mark]\ncolor = [350, 10]\n")
    with pytest.raises(PromptError, match="mark: no detector 'color'; did you mean 'colour"):
        read_vocabulary(path)
    path.write_text("[classes.mark]\nfrom-another-package = 1\n")
    assert list(read_vocabulary(path).labels) == ["mark"]

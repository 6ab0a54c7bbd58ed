import pytest

from annotate.errors import PromptError
from annotate.items.records import Vocabulary
from annotate.vocabulary import Phrase, detector_phrases


def words(**classes):
    return Vocabulary("mugs.v1", classes, "5e1f" * 16)


def test_alternatives_stand_for_one_class():
    told = words(plate={"vlm": "a plate"}, mug={"yoloe": ["red  mug", "cup"]}, jug={"yoloe": "jug"})
    assert detector_phrases(told, "yoloe") == (
        Phrase("red mug", 1),
        Phrase("cup", 1),
        Phrase("jug", 2),
    )


def test_a_phrase_given_twice_for_a_class_is_asked_once():
    assert detector_phrases(words(mug={"yoloe": ["cup", "cup"]}), "yoloe") == (Phrase("cup", 0),)


@pytest.mark.parametrize("told", [3, [], "", ["cup", " "], {"phrase": "cup"}, [["cup"]]])
def test_what_is_no_phrase_is_refused(told):
    with pytest.raises(PromptError, match="class 'mug': yoloe must be a phrase, or a list"):
        detector_phrases(words(mug={"yoloe": told}), "yoloe")


def test_nothing_told_says_where_to_write_it():
    with pytest.raises(
        PromptError, match=r"no phrase for yoloe: .* yoloe = .* under \[classes.mug\]"
    ):
        detector_phrases(words(mug={"vlm": "a mug"}), "yoloe")


def test_a_phrase_stands_for_one_class_only():
    with pytest.raises(PromptError, match="'mug' and 'jug' have the same phrase for yoloe, 'pot'"):
        detector_phrases(words(mug={"yoloe": "pot"}, jug={"yoloe": ["jug", "pot"]}), "yoloe")

import json
import re
from pathlib import Path

import pytest

from annotate.detectors.colour.ranges import COLOUR_SPACES, read_colour_specs
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


PAGE = (Path(__file__).parents[1] / "docs/reference/vocabulary.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def documented(key):
    """The unit and the default of a key on the page, by its row in a table."""
    [row] = re.findall(rf"^\| [^|]*`{key}`[^|]*\|([^|]*)\|([^|]*)\|", PAGE, re.MULTILINE)
    return tuple(cell.strip().strip("`") for cell in row)


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_of_the_page_are_vocabularies(tmp_path, text):
    (tmp_path / "docks.v1.toml").write_text(text)
    assert read_colour_specs(read_vocabulary(tmp_path / "docks.v1.toml"))


def entry(**keys):
    """A `colour` entry with one range of red, and more keys."""
    red = {"space": "hsv", "hue_degrees": [350, 10]}
    return make_vocabulary(x={"colour": {"ranges": [red], **keys}})


def test_the_page_documents_each_key_of_the_colour_schema_with_its_default():
    with pytest.raises(PromptError) as refused:
        read_colour_specs(entry(nonsense=1))
    keys = re.search(r"only the keys (.+?)(?: \(|, got)", str(refused.value))[1].split(", ")
    defaults = {key: documented(key)[1] for key in keys}
    plain, whole = read_colour_specs(entry())[0], read_colour_specs(entry(outline={}))[0].outline
    assert json.loads(defaults["size"].replace("inf", "Infinity")) == list(plain.side_px)
    assert json.loads(defaults["aspect"].replace("inf", "Infinity")) == list(plain.aspect)
    assert json.loads(defaults["fill"]) == list(plain.fill)
    assert json.loads(defaults["gap"]) == plain.gap_px and plain.outline is None
    assert json.loads(documented("arms")[1]) == list(whole.arm_share)
    assert json.loads(documented("corners")[1]) == whole.min_corners
    for channels in COLOUR_SPACES.values():
        for channel, limits in channels.items():
            assert json.loads(documented(channel)[1]) == list(limits)


def test_the_page_gives_the_short_form_and_the_options_of_the_detector():
    from annotate.detectors.colour.detector import ColourDetector

    short = read_colour_specs(make_vocabulary(x={"colour": [350, 10]}))[0].ranges[0].channels
    assert short == ((350, 10), (0.3, 1), (0.2, 1))
    assert "saturation of 0.3 to 1 and a value of 0.2\nto 1" in PAGE
    assert f"`min_area` ({ColourDetector.min_area} pixels" in PAGE
    assert f"`min_score` ({ColourDetector.min_score}:" in PAGE

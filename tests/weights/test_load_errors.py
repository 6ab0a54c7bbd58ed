"""Errors of packages that cannot load weights."""

import pickle
from pathlib import Path

import pytest

from annotate.errors import MissingPackage, PromptError, WeightsError
from annotate.weights.load_errors import DAMAGED, load_reason, one_line_errors

ADVICE = """Weights only load failed. This file can still be loaded, to do so you have two \
options, \x1b[1mdo those steps only if you trust the source of the checkpoint\x1b[0m.
\t(1) Re-running `torch.load` with `weights_only` set to `False` will likely succeed."""


@pytest.mark.parametrize(
    "error, reason",
    [
        (KeyError(101), DAMAGED),
        (RuntimeError(""), DAMAGED),
        (pickle.UnpicklingError(ADVICE), DAMAGED),
        (TypeError("ERROR ❌️ a.onnx is empty (EOF).\nRecommended: pay"), "a.onnx is empty (EOF)"),
        (RuntimeError("\x1b[1mNo end\x1b[0m of it. This is an internal error."), "No end of it"),
        (RuntimeError("In state_dict:\n\tMissing: a, b\n\tMore"), "In state_dict: Missing: a, b"),
    ],
)
def test_a_reason_is_one_line_without_colours_and_advice(error, reason):
    assert load_reason(error) == reason


def test_a_long_reason_is_shortened():
    assert len(load_reason(RuntimeError("Missing keys: " + "layer.weight, " * 500))) <= 240


def test_the_file_the_reason_and_the_cure_are_named():
    with (
        pytest.raises(WeightsError, match="^a.pt is no network: the disk is full; fetch it again$"),
        one_line_errors(Path("a.pt"), "is no network", "fetch it again"),
    ):
        raise OSError("the disk is full")


def test_a_missing_module_and_an_error_of_ours_stay_what_they_are():
    with (
        pytest.raises(MissingPackage, match="pip install tiktoken"),
        one_line_errors(Path("a.pt"), "is no network"),
    ):
        raise ModuleNotFoundError(name="tiktoken")
    with pytest.raises(PromptError, match="^a phrase$"), one_line_errors(Path("a.pt"), "is none"):
        raise PromptError("a phrase")

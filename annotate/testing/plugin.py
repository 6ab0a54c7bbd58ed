"""Add the options of the contract tests to pytest (entry point `pytest11`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

FAMILIES = ("detector", "propagator", "segmenter", "format", "trainer")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--detector NAME` and its siblings, each repeatable, and the options that they take."""
    group = parser.getgroup("annotate", "contract tests of annotate's plugins")
    for family in FAMILIES:
        group.addoption(
            f"--{family}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"check this installed {family}; repeatable",
        )
    group.addoption(
        "--plugin-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an option of the plugin that is checked; repeatable",
    )
    group.addoption(
        "--plugin-vocabulary",
        default=None,
        metavar="NAME|TOML",
        help="the vocabulary of the detector; default: two classes, phrased for the detector",
    )


def selected_names(config: Any, family: str) -> list[str]:
    """Return the names given for a family."""
    names: list[str] = config.getoption(f"--{family}", default=[])
    return names


def selected_options(config: Any) -> dict[str, str]:
    """Return the option texts given as KEY=VALUE.

    Raises:
        AnnotateError: a text without an equals sign.
    """
    from annotate.plugins import split_pair

    return dict(split_pair(text) for text in config.getoption("--plugin-option"))

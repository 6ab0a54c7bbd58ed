"""Check installed plugins: `pytest --pyargs annotate.testing --detector NAME`."""

from __future__ import annotations

from typing import Any

import pytest

from annotate import segmenters
from annotate.dataset.export import FORMATS
from annotate.detectors.run import DETECTORS, check_ready
from annotate.propagators.job import PROPAGATORS
from annotate.testing import contracts
from annotate.testing.plugin import FAMILIES, selected_names, selected_options
from annotate.training.trainer import TRAINERS
from annotate.vocabulary import read_vocabulary


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test for each name that was given."""
    for family in FAMILIES:
        if f"{family}_name" in metafunc.fixturenames:
            metafunc.parametrize(f"{family}_name", selected_names(metafunc.config, family))


def test_detector_keeps_the_contract(detector_name: str, pytestconfig: pytest.Config) -> None:
    """Check that a detector proposes as the contract says."""
    path = pytestconfig.getoption("--plugin-vocabulary")
    vocabulary = read_vocabulary(path) if path else contracts.sample_vocabulary(detector_name)
    options: dict[str, Any] = DETECTORS.parse_options(detector_name, selected_options(pytestconfig))
    detector = DETECTORS.load(detector_name, vocabulary, **options)
    check_ready(detector)
    contracts.check_detector(detector)


def test_propagator_keeps_the_contract(propagator_name: str, pytestconfig: pytest.Config) -> None:
    """Check that a propagator follows, resumes and is corrected as the contract says."""
    options = PROPAGATORS.parse_options(propagator_name, selected_options(pytestconfig))
    propagator = PROPAGATORS.load(propagator_name, **options)
    contracts.check_propagator(propagator)
    contracts.check_interactive(propagator)


def test_segmenter_keeps_the_contract(segmenter_name: str, pytestconfig: pytest.Config) -> None:
    """Check that a segmenter segments a picture as the contract says."""
    options = segmenters.SEGMENTERS.parse_options(segmenter_name, selected_options(pytestconfig))
    contracts.check_segmenter(segmenters.SEGMENTERS.load(segmenter_name, **options))


def test_format_keeps_the_contract(format_name: str) -> None:
    """Check that a format reads back what it writes."""
    contracts.check_format(FORMATS.load(format_name))


def test_trainer_keeps_the_contract(trainer_name: str, pytestconfig: pytest.Config) -> None:
    """Check that a trainer makes a model that can be used, and says whether it can repeat it."""
    options = TRAINERS.parse_options(trainer_name, selected_options(pytestconfig))
    contracts.check_trainer(trainer_name, options)

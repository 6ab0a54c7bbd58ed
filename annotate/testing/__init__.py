"""Testing: the contracts that every plugin keeps, as checks and as tests to run.

pytest --pyargs annotate.testing --detector NAME     # an installed plugin, by its name
from annotate.testing.contracts import check_detector  # or called in a test of your own
"""

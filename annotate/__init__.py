"""A gameplay clip goes in, a labelled dataset comes out; local models do the work.

Each stage reads the noun before it and writes the noun after it:

    video -> frames -> items (boxes) -> items (masks, tracks) -> dataset -> formats

Start with `annotate.video.reader`, `annotate.detectors.run`, `annotate.propagators.job` and `annotate.dataset.build`.
"""

__version__ = "0.1.0"

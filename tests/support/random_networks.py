"""Helpers for networks of true architecture with seeded random weights, and for their boxes."""

from contextlib import contextmanager

import numpy as np


@contextmanager
def seeded(seed=5):
    """Seed PyTorch's random numbers within the context, and restore their state after it."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def fit_batch_norm(network, size=320):
    """Fit the batch normalisation of a random network to noise.

    Without it, the outputs are the same everywhere.
    """
    import torch

    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    network.train()
    with torch.no_grad():
        network(torch.rand(2, 3, size, size))
    return network.eval()


def save_letter_tokenizer(kind, folder, start_token, end_token):
    """Save a byte-pair tokenizer of class `kind` with the letters a to z and no merges."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: number + 1 for number, word in enumerate(words)} | {"!": 0}
    vocabulary |= {start_token: 598, end_token: 599}
    kind(vocab=vocabulary, merges=[], pad_token="!").save_pretrained(folder)


# The same network gives other last bits for another batch size, other weights in memory, or on
# another CPU: sums of n float32 products (n up to 4,608) are added in another order, a relative
# error of sqrt(n) * 2**-24 = 4e-6 in a layer, 3e-4 in the logits after some 70 layers. A side of a
# box is the mean of 16 bins of 32 pixels under a softmax: its slope is the variance of the bins, 21
# where all are equal, so that 32 * 21 * 3e-4 = 0.2 pixels. A score is a sigmoid, of slope 1/4, of a
# cosine times exp(3) = 20: 20 / 4 * 3e-4 = 0.0015.
PIXEL_ATOL = 0.2
SCORE_ATOL = 0.0015


def _partners(one, other):
    """Find for each row of `one` (xyxy, score, class) the nearest row of `other`."""
    distance = np.abs(one[:, None, :4] - other[None, :, :4]).max(-1)
    distance += 100 * np.abs(one[:, None, 4] - other[None, :, 4])
    distance += 1e6 * (one[:, None, 5] != other[None, :, 5])
    return other[distance.argmin(1)]


def assert_close(one, other, min_score, pixel_atol=PIXEL_ATOL, score_atol=SCORE_ATOL):
    """Check that each row (xyxy, score, class) has a close row in the other table, in any order.

    A row whose score is at `min_score` may be in one table only.
    """
    for rows, others in ((one, other), (other, one)):
        sure = rows[rows[:, 4] > min_score + score_atol]
        if len(sure):
            partners = _partners(sure, others)
            np.testing.assert_array_equal(sure[:, 5], partners[:, 5])
            np.testing.assert_allclose(sure[:, 4], partners[:, 4], atol=score_atol, rtol=0)
            np.testing.assert_allclose(sure[:, :4], partners[:, :4], atol=pixel_atol, rtol=0)


def as_rows(detections, classes):
    """Stack detections into rows of xyxy, score and class; `classes` is a number for each row."""
    return np.column_stack([detections.xyxy, detections.confidence, classes]).astype(float)


def assert_boxes_of_package(detections, classes, boxes, min_score):
    """Check that detections, with the package's class numbers, equal the `boxes` of Ultralytics."""
    expected = boxes.data.cpu().numpy().astype(float)
    assert len(detections) > 0 and len(expected) > 0
    assert_close(as_rows(detections, classes), expected, min_score)

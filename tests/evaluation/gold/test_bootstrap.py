import numpy as np
import pytest

from annotate.evaluation import metrics
from annotate.evaluation.gold import bootstrap
from annotate.evaluation.gold.bootstrap import MatchCounts
from annotate.items.records import Object

LABELS = ("imp", "demon", "barrel")


def random_boxes(rng, count, scored):
    for _ in range(count):
        x, y = rng.uniform(0, 500, 2)
        width, height = rng.choice([12, 50, 130], 2) * rng.uniform(0.7, 1.3, 2)
        score = round(float(rng.uniform()), 1) if scored else None  # many are equal
        yield Object(str(rng.choice(LABELS)), (x, y, x + width, y + height), score)


def moved(rng, obj):
    score = round(float(rng.uniform(0.3, 1)), 1)
    return Object(obj.label, tuple(np.array(obj.box) + rng.normal(0, 4, 4)), score)


def random_set(seed, clip_count=6):
    rng, truth, found = np.random.default_rng(seed), {}, {}
    for frame in range(4 * clip_count):
        key = f"clip{frame % clip_count}", frame
        truth[key] = [*random_boxes(rng, rng.integers(0, 4), scored=False)]
        hits = [moved(rng, obj) for obj in truth[key] if rng.uniform() < 0.7]
        found[key] = [*hits, *random_boxes(rng, rng.integers(0, 5), scored=True)]
    return truth, found, [f"clip{n}" for n in range(clip_count)]


def ap_of(counts, weights):
    """AP over all IoUs and classes, and AP50, for one row of weights."""
    table = np.array([[m.average_precision(weights)[0] for m in counts[label, "all"]]
                      for label in LABELS])  # fmt: skip
    return np.nanmean(table), np.nanmean(table[:, 0])


@pytest.mark.parametrize("seed", range(50))
def test_average_precision_is_that_of_pycocotools(seed):
    truth, found, clips = random_set(seed)
    counts = bootstrap.match_counts(truth, found, LABELS, clips)
    expected = metrics.average_precision(truth, found, LABELS)
    assert ap_of(counts, np.ones((1, len(clips)))) == pytest.approx(expected, abs=1e-9)


def test_a_clip_that_is_drawn_twice_counts_as_two_clips():
    truth, found, clips = random_set(3)
    weights = np.array([[2, 0, 1, 3, 0, 1]], float)
    copies = [
        {(f"{video}/{n}", frame): objects for (video, frame), objects in each.items()
         for n in range(int(weights[0, clips.index(video)]))}
        for each in (truth, found)
    ]  # fmt: skip
    counts = bootstrap.match_counts(truth, found, LABELS, clips)
    assert ap_of(counts, weights) == pytest.approx(metrics.average_precision(*copies, LABELS))


def test_sizes_are_those_of_coco():
    small, large = (Object("imp", (5.0, 5.0, 5.0 + side, 5.0 + side), 0.9) for side in (20, 120))
    truth, found = {("a", 0): [small, large]}, {("a", 0): [large]}
    counts = bootstrap.match_counts(truth, found, ["imp"], ["a"])
    values = {
        size: counts["imp", size][0].average_precision(np.ones((1, 1)))[0]
        for size in bootstrap.SIZES
    }
    assert values["small"] == 0 and values["large"] == 1 and np.isnan(values["medium"])
    assert values["all"] == pytest.approx(51 / 101)


def simulated_counts(rng, clip_count, *, as_one_clip=False):
    """Two models on clips of different difficulty: the second finds more on all of them."""
    hardness, truth = rng.normal(0, 1, clip_count), rng.integers(15, 40, clip_count)
    models = []
    for quality in (0.0, 0.5):
        rows = []
        for clip, count in enumerate(truth):
            correct = rng.uniform(size=count) < 1 / (1 + np.exp(hardness[clip] - quality))
            rows += [(score, clip, True) for score in rng.normal(1, 1, correct.sum())]
            rows += [(score, clip, False) for score in rng.normal(-0.5, 1, rng.integers(5, 25))]
        rows.sort(reverse=True)
        columns = [0 if as_one_clip else clip for _, clip, _ in rows]
        one_hot = np.eye(1 if as_one_clip else clip_count)[columns]
        right = np.array([each for *_, each in rows])
        boxes, correct = one_hot.cumsum(axis=0)[right], one_hot[right].cumsum(axis=0)
        true_counts = truth.sum(keepdims=True) if as_one_clip else truth
        models.append(MatchCounts(boxes, correct, true_counts.astype(float)))
    return models


def difference(counts, weights):
    before, after = (each.average_precision(weights) for each in counts)
    return after - before


@pytest.mark.parametrize("clip_count", [8, 20])
def test_the_paired_interval_covers_the_true_difference(clip_count):
    rng = np.random.default_rng(5)
    [true_difference] = difference(simulated_counts(rng, 5000, as_one_clip=True), np.ones((1, 1)))
    covered = 0
    for draw in range(100):
        counts = simulated_counts(rng, clip_count)
        values = difference(counts, bootstrap.resample_clips(clip_count, 400, seed=draw))
        low, high = bootstrap.percentile_interval(values, clip_count)
        covered += low <= true_difference <= high
    assert 90 <= covered <= 98


def test_no_interval_for_too_few_clips_and_the_same_draws_for_the_same_seed():
    assert bootstrap.percentile_interval(np.zeros(9), 4) is None
    assert bootstrap.percentile_interval(np.full(9, np.nan), 9) is None
    assert bootstrap.percentile_interval(np.arange(101.0), 5) == pytest.approx((0, 100), abs=0.2)
    weights = bootstrap.resample_clips(7, 30)
    assert (weights == bootstrap.resample_clips(7, 30)).all() and (weights.sum(axis=1) == 7).all()

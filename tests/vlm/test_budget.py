"""The meter of requests and its budget."""

import threading

import pytest

from annotate.errors import BudgetExceeded
from annotate.vlm.budget import Prices, Usage, UsageMeter, UsageTotal

MOST = Usage(1000, 500)  # 0.0015 at a price of 1.0 for a million


def test_a_request_is_begun_only_if_the_most_that_it_costs_is_left():
    meter = UsageMeter(Prices(1.0, 1.0), budget=0.0040)
    one = meter.begin(MOST)
    meter.end(one, MOST, Usage(1000, 500), answered=True)
    meter.begin(MOST)
    says = r"0.0015 for 1 answered, up to 0.0015 for 1 under way, and the next .* up to 0.0035"
    with pytest.raises(BudgetExceeded, match=says):
        meter.begin(Usage(1000, 2500))


@pytest.mark.parametrize("budget", [0.0, 0.0014])
def test_a_budget_below_one_question_asks_nothing(budget):
    meter = UsageMeter(Prices(1.0, 1.0), budget)
    with pytest.raises(BudgetExceeded, match=r"allows no question: one may cost up to 0.0015"):
        meter.begin(MOST)


def test_the_estimate_of_pictures_is_corrected_by_the_counts_of_the_server():
    meter = UsageMeter(Prices(1.0, 0.0), budget=0.007)
    meter.end(meter.begin(MOST), MOST, Usage(4000, 100), answered=True)
    with pytest.raises(BudgetExceeded, match=r"may cost up to 0.0040"):
        meter.begin(MOST)


def test_answers_without_counts_are_counted_at_the_most_and_reported():
    meter = UsageMeter(Prices(1.0, 1.0), budget=0.0031)
    for _ in range(2):
        meter.end(meter.begin(MOST), MOST, None, answered=True)
    assert meter.total == UsageTotal(2, 0, 0, 0, pytest.approx(0.003), 2)
    assert "no token counts for 2 of them, which are counted at the most" in meter.total.summary(
        2, 1
    )
    with pytest.raises(BudgetExceeded):
        meter.begin(MOST)


def test_a_request_without_an_answer_costs_nothing():
    meter = UsageMeter(Prices(1.0, 1.0), budget=0.0015)
    for _ in range(3):
        meter.end(meter.begin(MOST), MOST, None, answered=False)
    assert meter.total == UsageTotal()


def test_with_a_budget_the_first_request_ends_before_the_others_begin():
    meter = UsageMeter(Prices(1.0, 0.0), budget=0.005)
    first = meter.begin(MOST)
    begun = threading.Event()

    def second():
        with pytest.raises(BudgetExceeded):
            meter.begin(MOST)
        begun.set()

    thread = threading.Thread(target=second)
    thread.start()
    meter.end(first, MOST, Usage(4900, 0), answered=True)
    thread.join()
    assert begun.is_set(), "the second was judged by the count of the first"


def test_a_request_waits_for_those_under_way_which_cost_less_than_is_reserved():
    meter = UsageMeter(Prices(1.0, 1.0), budget=0.004)
    meter.end(meter.begin(MOST), MOST, Usage(1000, 100), answered=True)
    second = meter.begin(MOST)
    third = threading.Thread(target=meter.begin, args=(MOST,))
    third.start()
    meter.end(second, MOST, Usage(1000, 100), answered=True)
    third.join(timeout=60)
    assert not third.is_alive() and meter.total.cost == pytest.approx(0.0022)


def test_one_question_is_not_questions():
    assert UsageTotal(1).summary(1, 0).startswith("1 question, 0 more answered by the cache")

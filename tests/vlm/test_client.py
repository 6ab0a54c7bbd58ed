"""A chat with a server that refuses parameters, counts no tokens, or cannot be cached."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from vlm_server import serving, truth

from annotate.detectors.run import DETECTORS, Job, detect_frames, run_to_file
from annotate.errors import AnswerError, BudgetExceeded, OutputError, UnreadableAnswer
from annotate.items import journal
from annotate.items.records import Vocabulary
from annotate.video import reader
from annotate.video.reader import FrameSelection
from annotate.vlm import answer_cache, endpoint
from annotate.vlm.budget import UsageTotal
from annotate.vlm.client import Chat
from annotate.vlm.coordinates import calibrate

WORDS = Vocabulary(
    "demo.v1", {"plate": {}, "monster": {"vlm": ["Demon"]}, "mark": {"vlm": "designator"}}, "5e1f"
)
PRICES = {"price_in": 1.0, "price_out": 8.0}


@pytest.fixture
def frames(demo):
    return list(reader.frames_at(demo, [0, 30, 60])) * 2


def load(server, **options):
    known = {"model": "sees", "url": server.url, "box_format": "relative 1000 xyxy"}
    return DETECTORS.load("vlm", WORDS, **{**known, "wait_seconds": 0.01, **options})


def write_vocabulary(folder):
    (folder / "v.toml").write_text('[classes.mark]\nvlm = "designator"\n')
    return folder / "v.toml"


# --- parameters that a server refuses


@pytest.mark.parametrize("mode", ["auto", "tool"])
def test_new_names_of_parameters_are_learnt_in_parallel_and_remembered(mode, frames):
    with serving(always="renamed, no temperature") as model:
        first = load(model, parallel=6, cache=False, mode=mode)
        assert all(len(found) == 2 for found in first.propose(frames))
        assert all("tools" in body for body in model.requests), "the mode is not given up"
        notes = answer_cache.read_model_notes(model.url, "sees")
        assert notes["limit"] == "max_completion_tokens" and notes["temperature"] == "refused"
        assert notes.get("way", "tool") == "tool"
        model.requests.clear()
        later = load(model, parallel=6, cache=False, mode=mode)
        later.propose(frames)
        assert len(model.requests) == len(frames), "nothing is tried again"
        for body in model.requests:
            assert body["max_completion_tokens"] == 2048
            assert "max_tokens" not in body and "temperature" not in body
    [line] = later.notes.lines()
    assert line.startswith("6 questions were asked without a temperature")
    assert later.notes.failures == 0


def test_a_model_that_refuses_a_temperature_is_calibrated(annotate):
    with serving(always="renamed, no temperature") as model:
        command = ("calibrate", "--model", "sees", "--url", model.url)
        code, out, err = annotate(*command)
        assert code == 0 and "relative 1000 xyxy" in out, err
        assert "without a temperature" in err
        model.requests.clear()
        code, _, err = annotate(*command, "--temperature", "none")
        assert code == 0 and "temperature" not in err
        assert annotate(*command, "--temperature", "warm")[0] == 1


@pytest.mark.parametrize(
    "status, message, sent, fact",
    [
        (
            400,
            "Use 'max_completion_tokens' instead.",
            "max_tokens",
            {"limit": "max_completion_tokens"},
        ),
        (
            400,
            "Unrecognized argument: max_completion_tokens",
            "max_completion_tokens",
            {"limit": "max_tokens"},
        ),
        (422, "temperature is not supported", "temperature", {"temperature": "refused"}),
        (400, "temperature must be at most 2", "temperature", {}),
        (400, "temperature is not supported", "max_tokens", {}),
        (400, "max_tokens is too large: 9. This model supports at most 8", "max_tokens", {}),
        (500, "temperature is not supported", "temperature", {}),
    ],
)
def test_an_error_says_what_a_server_does_not_take(status, message, sent, fact):
    assert endpoint.learn_from_error(status, message, {sent: 1}) == fact


# --- errors that a retry does not cure


@pytest.mark.parametrize(
    "fault, says, count",
    [("quota", "HTTP 429: You exceeded your quota", 1), ("error in body", "503: no provider", 3)],
)
def test_an_error_gives_its_text_and_is_retried_only_if_that_helps(fault, says, count, frames):
    with serving(always=fault) as model:
        with pytest.raises(AnswerError, match=says):
            load(model, tries=3, mode="tool").propose(frames[:1])
        assert len(model.requests) == count


def test_calibrating_does_not_multiply_the_tries_of_a_server_out_of_order():
    with serving(always="500") as model:
        with pytest.raises(AnswerError, match="HTTP 500"):
            calibrate(Chat(model.url, "sees", retry_policy=endpoint_policy(2)))
        assert len(model.requests) == 2


def endpoint_policy(tries):
    from annotate.vlm.retry import RetryPolicy

    return RetryPolicy(tries, 0.01)


def test_a_server_out_of_order_is_asked_once_by_each_worker(frames):
    with serving(always="500") as model:
        with pytest.raises(AnswerError, match="asked 2 times"):
            load(model, tries=2, parallel=3, cache=False).propose(frames)
        assert len(model.requests) <= 6


# --- budgets


def test_a_budget_of_nothing_asks_nothing(demo, tmp_path, annotate):
    vocabulary = write_vocabulary(tmp_path)
    with serving() as model:
        for budget in ("0", "0.01"):
            sets = {"model": "sees", "url": model.url, "box_format": "sent 1", "budget": budget}
            words = [f"{key}={value}" for key, value in {**sets, **PRICES}.items()]
            options = [each for word in words for each in ("--set", word)]
            out = tmp_path / "x.jsonl"
            code, _, err = annotate(
                "detect", demo, "-d", "vlm", "-v", vocabulary, "-o", out, *options
            )
            assert code == 1 and f"the budget of {budget} allows no question" in err
            assert "--set max_tokens" in err and not out.exists()
        assert not model.requests


@pytest.mark.parametrize("parallel", [1, 4])
def test_a_budget_is_kept_by_answers_as_long_as_they_may_be(parallel, demo, tmp_path):
    """The server counts 1,000 tokens in and 100 out: 0.0018 each; 2,048 out would be 0.0174."""
    selection = FrameSelection(stop=40)
    with serving() as model:
        asked = load(model, budget=0.025, parallel=parallel, **PRICES)
        with pytest.raises(BudgetExceeded, match="is used up"):
            run_to_file(Job(asked, "vlm", demo, selection), tmp_path / "x.jsonl")
        spent = len(model.requests) * 0.0018
    assert asked.usage.cost == pytest.approx(spent)
    assert spent > 0.004 and spent - 0.0018 + 0.0174 <= 0.025, "the last could have been long"


@pytest.mark.parametrize("budget", [None, 0.04])
def test_a_server_that_counts_no_tokens_is_reported_and_does_not_escape_the_budget(budget, frames):
    with serving(always="no usage") as model:
        asked = load(model, budget=budget, parallel=1, **PRICES)
        if budget is None:
            asked.propose(frames[:3])
        else:
            with pytest.raises(BudgetExceeded):
                asked.propose(frames)
        count = len(model.requests)
    assert count == (3 if budget is None else 2)
    assert asked.usage == UsageTotal(count, 0, 0, 0, asked.usage.cost, count)
    assert 0.017 * count < asked.usage.cost < 0.02 * count
    assert f"sent no token counts for {count} of them" in asked.usage.summary(3, 0)


def test_without_a_cache_nothing_false_is_promised(frames):
    with serving() as model:
        for cache, says in ((True, "answers are kept"), (False, "answers are not kept")):
            with pytest.raises(BudgetExceeded, match=says):
                load(model, budget=0.0195, cache=cache, parallel=1, **PRICES).propose(frames)


def test_a_run_that_ends_at_its_budget_reports_its_cost(demo, tmp_path, annotate):
    vocabulary = write_vocabulary(tmp_path)
    with serving() as model:
        sets = {"model": "sees", "url": model.url, "box_format": "sent 1", "budget": "0.025"}
        words = [f"{key}={value}" for key, value in {**sets, **PRICES}.items()]
        options = [each for word in words for each in ("--set", word)]
        out = tmp_path / "x.jsonl"
        code, _, err = annotate("detect", demo, "-d", "vlm", "-v", vocabulary, "-o", out, *options)
        count = len(model.requests)
    assert code == 1 and f"{count} questions" in err and f"{0.0018 * count:.4f} in all" in err


# --- answers that cannot be kept


def test_a_cache_that_cannot_be_written_is_reported_before_a_question_is_paid_for(frames, tmp_path):
    cache = Path(os.environ["HOME"]) / ".cache" / "annotate"
    cache.mkdir(parents=True)
    (cache / "answers").write_text("a file, where the folder would be")
    with serving() as model:
        with pytest.raises(OutputError, match="answers cannot be kept: .*`cache=no`"):
            load(model).propose(frames)
        assert not model.requests
        assert len(load(model, cache=False).propose(frames[:1])[0]) == 2


def test_a_cache_that_fails_later_does_not_lose_the_answer(frames, monkeypatch):
    def fail(*_):
        raise OutputError("disk full")

    with serving() as model:
        asked = load(model)
        monkeypatch.setattr(answer_cache, "write_json", fail)
        assert len(asked.propose(frames[:1])[0]) == 2
    [line] = asked.notes.lines()
    assert line.startswith("1 answers could not be kept") and "disk full" in line


def test_calibration_that_could_not_be_written_down_asks_nothing():
    cache = Path(os.environ["HOME"]) / ".cache" / "annotate"
    cache.mkdir(parents=True)
    (cache / "models").write_text("a file, where the folder would be")
    with serving() as model:
        with pytest.raises(OutputError, match="cannot write there"):
            calibrate(Chat(model.url, "sees"))
        assert not model.requests


# --- no usable answer is not "nothing there"


def test_frames_without_a_usable_answer_are_left_out_and_counted(demo, tmp_path, annotate):
    vocabulary = write_vocabulary(tmp_path)
    with serving(faults=["", "sorry", "sorry"]) as model:
        sets = {"model": "sees", "url": model.url, "box_format": "relative 1000 xyxy"}
        sets |= {"unreadable": "skip", "parallel": "1"}
        options = [each for key, value in sets.items() for each in ("--set", f"{key}={value}")]
        command = ("detect", demo, "-d", "vlm", "-v", vocabulary, "-o", "x.jsonl", "--every", 30)
        code, _, err = annotate(*command, *options, "--stop", 90)
        assert code == 1 and "1 frame without a usable answer" in err and "sorry" in err
        assert [item.frame for item in journal.read("x.jsonl")] == [0, 60]
        before = len(model.requests)
        for _ in range(2):  # the file is complete, and still says what is not in it
            code, _, err = annotate(*command, *options, "--stop", 90)
            assert code == 1 and "1 frame still without a usable answer" in err and "--force" in err
        assert len(model.requests) == before
        code, _, err = annotate(*command, *options, "--stop", 90, "--force")
        assert code == 0 and len(model.requests) == before + 1
        code, _, err = annotate(*command, *options, "--stop", 90)
        assert code == 0 and "without a usable answer" not in err
    assert [item.frame for item in journal.read("x.jsonl")] == [0, 30, 60]


def test_a_member_of_an_ensemble_without_an_answer_leaves_the_frame_open(demo):
    words = Vocabulary("d.v1", {"mark": {"vlm": "designator"}}, "5e1f")
    with serving(always="sorry") as model:
        options = f"vlm.model=sees vlm.url={model.url} vlm.unreadable=skip vlm.box_format='sent 1'"
        both = DETECTORS.load("ensemble", words, members="vlm", options=options)
        assert not list(detect_frames(both, reader.frames(demo, stop=2), "ensemble"))


def test_compare_does_not_count_a_frame_without_an_answer_as_empty(demo, tmp_path, annotate):
    vocabulary = write_vocabulary(tmp_path)
    with serving(always="sorry") as model:
        spec = f"vlm:model=sees,url={model.url},unreadable=skip,box_format=sent 1 xyxy"
        command = ("compare", demo, "-d", spec, "-v", vocabulary, "--stop", 2, "-o", "c")
        code, _, err = annotate(*command)
    assert code == 1 and "failed" in err


def test_a_closer_look_that_is_refused_keeps_the_first_box(demo):
    [frame] = reader.frames_at(demo, [0])
    words = Vocabulary("d.v1", {"mark": {"vlm": "designator"}}, "5e1f")
    with serving(faults=["", "sorry", "sorry"]) as model:
        options = {"model": "m", "url": model.url, "box_format": "relative 1000 xyxy"}
        asked = DETECTORS.load("vlm", words, refine=True, unreadable="skip", **options)
        [found] = asked.propose([frame])
    np.testing.assert_allclose(found.xyxy, truth(0, "designator"), atol=1)
    assert not asked.notes.open_frames and "could not be refined" in asked.notes.lines()[0]


def test_boxes_of_the_example_alone_are_no_answer(demo, tmp_path, monkeypatch):
    from PIL import Image

    Image.new("RGB", (30, 20), (214, 40, 40)).save(tmp_path / "look.png")
    [frame] = reader.frames_at(demo, [0])
    box = {"label": "designator", "box_2d": [1, 1, 90, 90]}
    with serving() as model:
        asked = load(model, reference="look.png")
        for name, count in (("A", 0), ("picture A", 0), ("B", 1), ("frame.png", 1)):
            text = json.dumps({"boxes": [{**box, "picture": name}]})
            if count:
                assert len(asked._parse(text, phrases(asked)).named_boxes) == count
                continue
            with pytest.raises(Exception, match="boxes of the example alone"):
                asked._parse(text, phrases(asked))
        asked.propose([frame])


def phrases(detector):
    from annotate.vocabulary import detector_phrases

    return detector_phrases(detector.vocabulary, "vlm")


@pytest.mark.parametrize(
    "text, is_refusal",
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I am unable to describe this image.", True),
        ("Sorry, I cannot assist with that request.", True),
        ("I’m sorry, I can’t identify people.", True),
        ("A man who says: I'm sorry, I can't help.", False),
        ("I can see a monster in a hall.", False),
        ("I cannot see a monster in it: it is a plain grey wall.", False),
    ],
)
def test_a_refusal_in_words_is_no_description(text, is_refusal, monkeypatch):
    chat = Chat("http://127.0.0.1:9/v1", "sees", cached=False)
    reply = endpoint.Reply(text, None)
    monkeypatch.setattr(Chat, "_send_once", lambda *_: reply)
    if is_refusal:
        with pytest.raises(UnreadableAnswer, match="sees says"):
            chat.ask_text([], "a picture")
    else:
        assert chat.ask_text([], "a picture") == text


# --- pictures of whole patches


@pytest.mark.parametrize("side", [1024, 640, 0])
def test_a_model_that_counts_in_pixels_of_whole_patches_is_exact(side, demo, annotate):
    frames = list(reader.frames_at(demo, [0, 30, 60]))
    with serving(scale="patches") as model:
        command = ("calibrate", "--model", "sees", "--url", model.url, "--side", side or 800)
        code, out, err = annotate(*command)
        assert code == 0 and "sent 1 xyxy" in out, err
        found = load(model, box_format="calibrated", side=side).propose(frames)
    for frame, detections in zip(frames, found, strict=True):
        expected = truth(frame.index, "Demon") + truth(frame.index, "designator")
        np.testing.assert_allclose(
            detections.xyxy, expected, atol=0.7 * 800 / min(side or 800, 800)
        )

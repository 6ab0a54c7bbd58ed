"""The detector `vlm`, against a server that counts, speaks and fails in every way seen so far."""

import json
import time

import numpy as np
import pytest
from sample_data import picture
from vlm_server import KEY, serving, truth

from annotate.detectors.run import DETECTORS, Job, detector_settings, run_to_file
from annotate.errors import AnswerError, BudgetExceeded, PromptError, UnreadableAnswer
from annotate.items.records import Vocabulary
from annotate.video import reader
from annotate.video.reader import FrameSelection
from annotate.vlm import budget
from annotate.vlm.answer_cache import read_model_notes
from annotate.vlm.client import Chat
from annotate.vlm.coordinates import calibrate

WORDS = Vocabulary(
    "demo.v1", {"plate": {}, "monster": {"vlm": ["Demon"]}, "mark": {"vlm": "designator"}}, "5e1f"
)
PIXELS = 1.0  # a thousandth of the picture, twice rounded


@pytest.fixture
def frame(demo):
    return next(reader.frames_at(demo, [0]))


def load(server, **options):
    known = {
        "model": "sees",
        "url": server.url,
        "box_format": "relative 1000 xyxy",
        "wait_seconds": 0.01,
    }
    return DETECTORS.load("vlm", WORDS, **{**known, **options})


def assert_right(found, frame=0):
    """The one Demon and the one designator of a frame, where they are."""
    expected = {1: truth(frame, "Demon"), 2: truth(frame, "designator")}
    assert sorted(found.class_id.tolist()) == [1, 2]
    for box, class_id in zip(found.xyxy, found.class_id, strict=True):
        np.testing.assert_allclose(box, expected[class_id][0], atol=PIXELS)
    names = {1: "Demon", 2: "designator"}
    assert found.data["phrase"].tolist() == [names[n] for n in found.class_id]


@pytest.mark.parametrize(
    "counts, order", [("unit", "xyxy"), ("999", "yxyx"), ("longest", "xyxy"), ("area", "xywh")]
)
def test_calibrated_once_it_counts_as_the_model_does(counts, order, frame, annotate):
    with serving(scale=counts, box_order=order) as model:
        code, out, err = annotate("calibrate", "--model", "sees", "--url", model.url)
        assert code == 0, err
        assert f" {order}" in out
        [found] = load(model, box_format="calibrated").propose([frame])
    assert_right(found)
    assert np.isnan(found.confidence).all()


def test_without_calibration_it_refuses_before_a_file_is_begun(demo, tmp_path):
    with serving() as model:
        job = Job(load(model, box_format="calibrated"), "vlm", demo)
        with pytest.raises(
            AnswerError, match="box format of sees at http.* is not known: run annotate calibrate"
        ):
            run_to_file(job, tmp_path / "boxes.jsonl")
    assert not (tmp_path / "boxes.jsonl").exists() and not model.requests
    with pytest.raises(AnswerError, match="no model is named"):
        DETECTORS.load("vlm", WORDS).ready()
    with pytest.raises(PromptError, match="has no phrase for vlm"):
        DETECTORS.load("vlm", Vocabulary("a", {"mug": {}}, ""), model="m").ready()


@pytest.mark.parametrize("ways", [("schema", "json"), ("json",)])
def test_a_server_that_lacks_tools_is_asked_otherwise_and_that_is_remembered(ways, frame):
    with serving(modes=ways) as model:
        [found] = load(model).propose([frame])
        assert_right(found)
        assert read_model_notes(model.url, "sees")["way"] == ways[0]
        before = len(model.requests)
        load(model, cache=False).propose([frame])
        assert len(model.requests) == before + 1


def test_tools_that_make_a_model_blind_are_found_out_by_calibrating():
    with serving(empty_modes=("tool", "schema")) as model:
        found = calibrate(Chat(model.url, "sees"))
    assert found.mode == "json" and found.fit.iou > 0.98


def test_a_model_that_cannot_be_calibrated_says_what_was_wrong_in_each_way():
    with serving(modes=("json",), always="sorry") as model:
        with pytest.raises(AnswerError, match="tool: .*tools; asked by schema: .*; asked by json"):
            calibrate(Chat(model.url, "sees"))
        assert not read_model_notes(model.url, "sees")
    with pytest.raises(AnswerError, match="^a drawn picture: no server answers .* as `url`"):
        calibrate(Chat(model.url, "sees"))


def test_it_captions_and_answers_in_its_own_words_once(frame):
    with serving() as model:
        asked = load(model, box_format="calibrated")
        assert asked.caption(frame.image) == "A monster in a hall."
        assert (
            load(model).caption(frame.image) == "A monster in a hall." and model.requests[1:] == []
        )
        assert asked.query(frame.image, "What?") == "A monster in a hall."
        told = model.requests[1]["messages"][0]["content"]
        assert told[-1]["text"] == "What?" and "tools" not in model.requests[1]
        for fault, says in {"refusal": "sees says 'I cannot.'", "empty": "says 'nothing'"}.items():
            model.always = fault
            with pytest.raises(UnreadableAnswer, match=f"a picture: .*{says}"):
                load(model, cache=False).caption(frame.image)
    with pytest.raises(AnswerError, match="a picture: no server answers"):
        load(model, cache=False).caption(frame.image)
    with pytest.raises(AnswerError, match="no model is named"):
        DETECTORS.load("vlm", WORDS).caption(frame.image)


HARMLESS = [
    "prose",
    "thought",
    "single quotes",
    "no quotes",
    "bare list",
    "one without",
    "strange label",
    "twice",
    "cut",
]


@pytest.mark.parametrize("fault", HARMLESS)
def test_what_is_said_badly_is_understood_at_once(fault, frame):
    with serving(always=fault) as model:
        [found] = load(model).propose([frame])
        assert len(model.requests) == 1
    assert_right(found)


@pytest.mark.parametrize(
    "fault",
    [
        *("refusal", "sorry", "empty", "missing keys", "code", "other labels", "no labels"),
        *("filter", "policy", "null", "no arguments", "empty object", "null boxes"),
    ],
)
def test_what_gives_no_boxes_is_asked_anew_and_is_not_nothing_there(fault, frame, tmp_path):
    with serving(faults=[fault]) as model:
        [found] = load(model).propose([frame])
        assert_right(found)
        assert "could not be read" in json.dumps(model.requests[1]["messages"][-1])
    with serving(always=fault) as model:
        with pytest.raises(UnreadableAnswer, match="demo.mp4#0: sees gives no boxes") as caught:
            load(model).propose([frame])
        assert fault != "refusal" or "I can't help with that" in str(caught.value)
        asked = load(model, unreadable="skip")
        asked.propose([frame])
        assert asked.notes.open_frames == {("demo.mp4", 0)}
    assert not (tmp_path / "owned").exists()


def test_an_answer_that_is_cut_at_its_limit_is_not_used(frame, demo, tmp_path, annotate):
    with serving(always="limit") as model:
        with pytest.raises(UnreadableAnswer, match=r"cut at 2048 tokens.*`max_tokens=8192`"):
            load(model).propose([frame])
        assert len(model.requests) == 1  # the same question would be cut again
        vocabulary = tmp_path / "v.toml"
        vocabulary.write_text('[classes.mark]\nvlm = "designator"\n')
        sets = {"model": "sees", "url": model.url, "box_format": "sent 1"}
        words = [word for key, value in sets.items() for word in ("--set", f"{key}={value}")]
        command = ["detect", demo, "-d", "vlm", "-v", vocabulary, "-o", tmp_path / "x.jsonl"]
        code, _, err = annotate(*map(str, command), *words)
    assert code == 1 and "--set max_tokens=8192" in err and "Traceback" not in err


def test_boxes_of_other_labels_are_counted(frame):
    with serving(always="strange label") as model:
        asked = load(model)
        asked.propose([frame])
    [line] = asked.notes.lines()
    assert line.startswith("1 boxes were left out") and "'spaceship' on demo.mp4#0" in line
    assert asked.notes.failures == 0


def test_frames_without_a_usable_answer_are_counted_as_failures(frame):
    with serving(always="other labels") as model:
        asked = load(model, unreadable="skip")
        asked.propose([frame])
    assert asked.notes.failures == 1 and "Tank" in asked.notes.lines()[0]


def test_boxes_without_labels_are_of_the_only_class(frame):
    words = Vocabulary("demo.v1", {"mark": {"vlm": ["designator", "red brackets"]}}, "5e1f")
    with serving(always="no labels") as model:
        options = {"model": "sees", "url": model.url, "box_format": "relative 1000 xyxy"}
        [found] = DETECTORS.load("vlm", words, **options).propose([frame])
    assert found.class_id.tolist() == [0] and found.data["phrase"].tolist() == [""]


def test_sides_with_names_go_before_the_convention(frame):
    with serving(always="named sides") as model:
        [found] = load(model, box_format="relative 1000 yxyx").propose([frame])
    assert_right(found)


def test_a_score_is_what_the_model_gave(frame):
    with serving(always="scores") as model:
        [found] = load(model).propose([frame])
    assert found.confidence.tolist() == [0.75, 0.75]


def test_boxes_outside_the_picture_say_that_it_counts_otherwise(frame):
    said = "outside the picture.*annotate calibrate"
    with serving(always="outside") as model, pytest.raises(UnreadableAnswer, match=said):
        load(model).propose([frame])


def test_nothing_there_is_a_frame_without_boxes(frame):
    with serving(always="none") as model:
        [found] = load(model).propose([frame])
        assert len(found) == 0 and found.data["phrase"].tolist() == [] and len(model.requests) == 1


@pytest.mark.parametrize("fault", ["500", "503", "html", "no choices", "408"])
def test_a_server_out_of_order_is_asked_again(fault, frame):
    with serving(faults=[fault, fault]) as model:
        [found] = load(model).propose([frame])
        assert_right(found)
        assert len(model.requests) == 3
        model.always = fault
        with pytest.raises(AnswerError, match="demo.mp4#0: .*asked 3 times"):
            load(model, tries=3, cache=False).propose([frame])


def test_all_threads_wait_as_long_as_the_server_asks(demo):
    frames = list(reader.frames_at(demo, [0, 30, 60]))
    with serving(faults=["429"], retry_after="0.6") as model:
        start = time.monotonic()
        found = load(model, parallel=1).propose(frames)
        assert time.monotonic() - start > 0.6
        assert [len(each) > 0 for each in found] == [True] * 3
        model.always, model.retry_after = "429", "86400"
        with pytest.raises(AnswerError, match="asks to come back in 86400 s"):
            load(model, cache=False).propose(frames[:1])


def test_a_slow_server_is_given_up(frame):
    with serving(faults=["slow"]) as model:
        [found] = load(model, timeout_seconds=1.5).propose([frame])
        assert_right(found)
        model.always = "slow"
        with pytest.raises(AnswerError, match=r"no answer within 0.5 s; asked 2 times"):
            load(model, timeout_seconds=0.5, tries=2, cache=False).propose([frame])


def test_a_server_that_is_not_there_is_not_waited_for(frame):
    with serving() as model:
        pass
    with pytest.raises(AnswerError, match="demo.mp4#0: no server answers at http://127.0.0.1"):
        load(model, wait_seconds=30.0).propose([frame])


@pytest.mark.parametrize("status, said", [("401", "key is not accepted"), ("404", "HTTP 404")])
def test_what_asking_again_does_not_mend_is_said_at_once_without_the_key(
    status, said, frame, monkeypatch
):
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(always=status) as model:
        with pytest.raises(AnswerError, match=said) as caught:
            load(model, key="MY_KEY", mode="tool").propose([frame])
        assert len(model.requests) == 1
        assert model.headers[0]["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(caught.value)


def test_keys_stay_in_the_environment(demo, frame, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "of-another-server")
    with serving() as model:
        run_to_file(
            Job(load(model, key="MY_KEY"), "vlm", demo, FrameSelection(stop=2)),
            tmp_path / "a.jsonl",
        )
        load(model, cache=False).propose([frame])
        assert "of-another-server" not in str(model.headers)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path
    with pytest.raises(AnswerError, match="the environment has no MY_OTHER_KEY"):
        load(model, key="MY_OTHER_KEY", cache=False).propose([frame])


def test_asked_again_it_costs_nothing(demo):
    frames = list(reader.frames_at(demo, [0, 30]))
    with serving() as model:
        first = load(model, price_in=10.0, price_out=100.0)
        found = first.propose(frames)
        assert len(model.requests) == 2
        assert first.usage == budget.UsageTotal(2, 0, 2000, 200, pytest.approx(0.04))
        again = load(model)
        for one, other in zip(found, again.propose(frames), strict=True):
            np.testing.assert_array_equal(one.xyxy, other.xyxy)
        assert len(model.requests) == 2 and again.usage == budget.UsageTotal(cached=2)
        for change in ({"side": 800}, {"temperature": 0.5}, {"model": "other"}, {"detail": None}):
            load(model, **change).propose(frames[:1])
        assert len(model.requests) == 6


def test_a_budget_stops_cleanly_and_goes_on(demo, tmp_path):
    choice = FrameSelection(every=10, stop=100)
    costs = {"price_in": 1000.0, "parallel": 1}  # 1.00 a question
    with serving() as model:
        out = tmp_path / "boxes.jsonl"
        with pytest.raises(
            BudgetExceeded, match="the budget of 4.5 is used up: 4.0000 for 4 answered.*are kept"
        ):
            run_to_file(Job(load(model, budget=4.5, **costs), "vlm", demo, choice), out)
        assert len(model.requests) == 4
        run_to_file(Job(load(model, budget=20.0, **costs), "vlm", demo, choice), out)
        assert len(model.requests) == 10, "what was answered is not asked again"
        run_to_file(Job(load(model), "vlm", demo, choice), tmp_path / "whole.jsonl")
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    with pytest.raises(AnswerError, match="a budget needs prices"):
        load(model, budget=1.0)


def test_the_command_says_what_it_cost(demo, tmp_path, annotate):
    (tmp_path / "my.v1.toml").write_text('[classes.monster]\nvlm = ["Demon"]\n')
    told = {"model": "sees", "box_format": "relative 1000 xyxy", "price_in": 10, "budget": 9}
    with serving() as model:
        words = [f"{key}={value}" for key, value in {**told, "url": model.url}.items()]
        options = [each for word in words for each in ("--set", word)]
        command = ("detect", demo, "-d", "vlm", "-v", "my.v1.toml", *options, "--stop", 2)
        code, out, err = annotate(*command, "-o", "-")
    assert code == 0 and '"phrase":"Demon"' in out and '"score":null' in out
    assert "2 questions, 0 more answered by the cache; 2,000 tokens in, 200 out; 0.0200" in err
    assert "0.0100 a picture, 0.0100 a box" in err


def test_no_more_at_once_than_wanted(demo):
    frames = list(reader.frames_at(demo, [0, 30, 60])) * 2
    with serving() as model:
        load(model, parallel=2, cache=False).propose(frames)
        assert model.max_active_requests <= 2


def test_a_second_look_is_closer():
    """A small picture is coarse; a crop of it round the first answer is not."""
    drawn = picture(1, (800, 600))
    drawn.image[:], drawn.image[211:243, 307:352] = 200, (214, 40, 40)
    true = np.array([307, 211, 352, 243], float)
    words = Vocabulary("red.v1", {"red": {"vlm": "red rectangle"}}, "")
    with serving(scale="unit") as model:
        how = {"model": "m", "url": model.url, "box_format": "relative 1 xyxy", "side": 100}
        errors = [
            np.abs(found.xyxy[0] - true).max()
            for refine in (False, True)
            for found in DETECTORS.load("vlm", words, refine=refine, **how).propose([drawn])
        ]
        assert len(model.requests) == 2, "the first answer is known the second time"
    assert errors[1] < errors[0] / 2 and errors[1] < 2


def test_a_reference_is_shown_first_and_is_not_searched(frame, tmp_path):
    from PIL import Image

    Image.new("RGB", (30, 20), (214, 40, 40)).save(tmp_path / "look.png")
    with serving(always="wrong picture") as model:
        detector = load(model, reference="look.png")
        [found] = detector.propose([frame])
        parts = [part["type"] for part in model.requests[0]["messages"][0]["content"]]
    assert_right(found)
    assert parts[:4] == ["text", "image_url", "text", "image_url"]
    assert len(detector_settings(detector)["reference_sha256"]) == 64
    with pytest.raises(AnswerError, match="no.png: not an image"):
        load(model, reference="no.png")


def test_the_header_says_what_was_asked_and_not_what_it_may_cost():
    with serving() as model:
        told = detector_settings(load(model, price_in=3.0, budget=2.0))
    assert told["coordinates"] == "relative 1000 xyxy" and len(told["prompt_sha256"]) == 64
    assert told["side"] == 1024 and told["detail"] == "high"
    assert not {"budget", "price_in", "parallel", "timeout_seconds", "cache"} & set(told)

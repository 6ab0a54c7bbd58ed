import numpy as np
import pytest
from PIL import Image
from search_fixtures import EPISODES

from annotate.errors import AnswerError, UnreadableAnswer
from annotate.search import judge
from annotate.search.judge import Judgement
from annotate.vlm import messages
from annotate.vlm.answers import AnswerParseError
from annotate.vlm.client import Chat
from annotate.vlm.retry import RetryPolicy


def make_judge(search_clips, model, **options):
    chat = Chat(model.url, "knows", retry_policy=RetryPolicy(5, 0.01))
    reference = judge.read_reference(search_clips / "reference.png")
    clips = {name: search_clips / name for name in EPISODES}
    return judge.VlmJudge(chat, "the robot", [reference], clips, **options)


def test_question_has_the_reference_first_and_numbered_pictures(search_clips, search_model):
    frame_refs = [("ep1.mp4", n) for n in (5, 35, 65)]
    answers = make_judge(search_clips, search_model).ask(frame_refs, lambda answers: None)
    assert [answers[frame_ref].shown for frame_ref in frame_refs] == [False, True, False]
    [request] = search_model.requests
    content = request["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 4 + ["text"]
    assert '- "the robot"' in content[-1]["text"] and "Pictures 1 to 3" in content[-1]["text"]
    assert request["tool_choice"]["function"]["name"] == "judge_pictures"
    ids = request["tools"][0]["function"]["parameters"]["properties"]["pictures"]["items"]
    assert ids["properties"]["id"]["enum"] == [1, 2, 3]


def test_number_is_large_and_red_with_a_white_outline():
    grey = Image.new("RGB", (480, 270), (90, 90, 90))
    one, ten = (np.asarray(judge.draw_number(grey, n)).astype(int) for n in (1, 10))
    for image in (one, ten):
        red = (image[..., 0] > 200) & (image[..., 1:].max(-1) < 60)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        assert rows[-1] - rows[0] > 270 / 10 and rows[-1] < 270 / 3 and columns[-1] < 480 / 4
        assert ((image > 240).all(-1)).sum() > 50
    assert (one != ten).any()


@pytest.mark.parametrize("fault", ["skip", "repeat", "invent", "prose", "429"])
def test_faulty_answer_is_asked_for_again(fault, search_clips, search_model):
    search_model.faults = [fault]
    frame_refs = [("ep1.mp4", n) for n in (5, 35, 65)]
    answers = make_judge(search_clips, search_model).ask(frame_refs, lambda answers: None)
    assert [answers[frame_ref].shown for frame_ref in frame_refs] == [False, True, False]
    assert len(search_model.requests) == 2
    if fault != "429":
        retry = search_model.requests[1]["messages"][2]["content"][0]["text"]
        assert "left out" in retry


def test_batch_is_split_until_answers_can_be_read(search_clips, search_model):
    search_model.faults = ["skip"] * 2 + ["repeat"] * 2
    frame_refs = [("ep1.mp4", n) for n in (5, 35)]
    answers = make_judge(search_clips, search_model).ask(frame_refs, lambda answers: None)
    assert answers == {frame_refs[0]: None, frame_refs[1]: Judgement(True, 0.9)}


def test_batches_are_asked_in_parallel_by_at_most_the_given_workers(search_clips, search_model):
    frame_refs = [("ep1.mp4", n) for n in range(0, 120, 4)]
    counts = []
    parallel = make_judge(search_clips, search_model, batch_size=4, workers=3)
    parallel.ask(frame_refs, lambda answers: counts.append(len(answers)))
    assert sorted(counts) == [2] + [4] * 7
    assert 2 <= search_model.max_active_requests <= 3


@pytest.mark.parametrize(
    "text, expected",
    [
        ('{"pictures": [{"id": "2", "shown": "yes"}, {"id": 1, "shown": false}]}', [False, True]),
        ('```json\n[{"id": 1, "shown": true}, {"id": "#2", "shown": 0}]\n```', [True, False]),
        ('{"pictures": [{"id": 1, "shown": true}]}', "left out: 2"),
        ('{"pictures": [{"id": 1, "shown": true}, {"id": 1, "shown": false}]}', "named twice: 1"),
        ('[{"id": 1, "shown": true}, {"id": 2, "shown": true}, {"id": 3, "shown": 1}]', "made up"),
        ("I see it in picture 1.", "I see it in picture 1"),
    ],
)
def test_answer_must_name_every_picture_once(text, expected):
    if isinstance(expected, str):
        with pytest.raises(AnswerParseError, match=expected):
            judge.parse_judgements(text, [1, 2])
    else:
        judgements = judge.parse_judgements(text, [1, 2])
        assert [judgements[n].shown for n in (1, 2)] == expected


def test_response_format_suits_strict_servers():
    fields = messages.verdicts_format([1, 2]).request_fields("schema")
    json_schema = fields["response_format"]["json_schema"]
    assert json_schema["strict"] and json_schema["schema"]["additionalProperties"] is False


@pytest.mark.parametrize("fault", ["prose", "empty", "null", "limit"])
def test_halving_ends_when_no_half_can_be_read(fault, search_clips, search_model):
    search_model.always = fault
    frame_refs = [("ep1.mp4", n) for n in range(0, 80, 4)]
    impatient = make_judge(search_clips, search_model, max_unreadable=2)
    answers = {}
    with pytest.raises(UnreadableAnswer, match=r"knows gives no answer .*: \d questions asked"):
        impatient.ask(frame_refs, answers.update)
    assert answers == dict.fromkeys(frame_refs[:10])
    # one batch: asked (and again, unless it would be cut again), then its two halves, once each
    assert len(search_model.requests) == (3 if fault == "limit" else 4)
    [line] = impatient.chat.notes.lines()
    assert line.startswith("10 pictures got no answer that can be read: they are open")
    assert fault != "limit" or "`max_tokens=8192`" in line


def test_one_picture_that_is_refused_does_not_take_the_others_with_it(search_clips, search_model):
    search_model.refuses_target = True
    frame_refs = [("ep1.mp4", n) for n in (0, 5, 10, 35, 65, 70, 75, 80, 95, 100)]
    answers = make_judge(search_clips, search_model).ask(frame_refs, lambda answers: None)
    assert [ref for ref, answer in answers.items() if answer is None] == [("ep1.mp4", 35)]
    assert all(answer is None or not answer.shown for answer in answers.values())


def test_reference_is_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: turn by 90 degrees
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    assert judge.read_reference(tmp_path / "turned.jpg").shape == (60, 40, 3)


def test_judge_needs_a_model():
    with pytest.raises(AnswerError, match="give the option `model`"):
        judge.vlm_judge("the robot", [], {})

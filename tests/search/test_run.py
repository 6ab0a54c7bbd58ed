"""Finding what is rare: the right question, few of them, wrong answers survived, kept by key."""

import json
import urllib.error
import urllib.request
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image
from sample_data import SHARED
from search_server import serving

from annotate.dataset.folder import load_dataset
from annotate.errors import BudgetExceeded, ItemsError
from annotate.items import journal
from annotate.search import judge, results
from annotate.search.judge import Judgement
from annotate.search.run import cut_into_shots
from annotate.search.shot_query import QueriedShot, query_shot
from annotate.video import reader
from annotate.video.writer import VideoWriter
from annotate.vlm import messages
from annotate.vlm.budget import Prices, UsageMeter
from annotate.vlm.client import Chat
from annotate.vlm.messages import AnswerParseError
from annotate.vlm.retry import RetryPolicy
from annotate.web import gallery

MARK = (250, 220, 40)


def scene(seed, rare, count=30, size_wh=(160, 96)):
    """Frames of a shot: patches of the seed's own, and a yellow diamond on the frames `rare`."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 200, (6, 10, 3)).astype(np.uint8)
    base = np.asarray(Image.fromarray(small).resize(size_wh, Image.Resampling.NEAREST))
    y, x = np.mgrid[: size_wh[1], : size_wh[0]]
    for n in range(count):
        image = base.copy()
        image[(abs(y - 90) < 3) & (abs(x - 5 * n) < 4)] = 255
        if n in rare:
            image[abs(x - 90) + abs(y - 50) < 18] = MARK
        yield image


EPISODES = {  # clip -> the rare frames of each of its shots
    "ep1.mp4": [(), range(30), (), ()],
    "ep2.mp4": [(), (), range(16, 30), ()],
}
RARE = {
    "ep1.mp4": set(range(30, 60)),
    "ep2.mp4": set(range(76, 90)),
}


@pytest.fixture(scope="module")
def show(tmp_path_factory):
    """Two clips of four shots of 30 frames; a reference; truth as JSON."""
    place = tmp_path_factory.mktemp("show")
    for seed, (name, shots) in enumerate(EPISODES.items()):
        with VideoWriter(place / name, Fraction(10), (160, 96)) as writer:
            for number, rare in enumerate(shots):
                for image in scene(10 * seed + number, rare):
                    writer.write(image)
        spans = [
            {"start": 30 * n, "end": 30 * n + 30, "rare_frames": len(rare)}
            for n, rare in enumerate(shots)
        ]
        (place / f"{name[:3]}.gt.json").write_text(json.dumps({"shots": spans}))
    image = next(scene(3, range(1)))
    Image.fromarray(image[28:72, 68:112]).save(place / "raine.png")
    return place


@pytest.fixture
def knowing(show):
    with serving() as model:
        for name, rare in RARE.items():
            model.learn(show / name, rare)
        yield model


def command(show, model, *more):
    clips = [show / name for name in EPISODES]
    told = ["--reference", show / "raine.png", "--name", "the robot", "-o", "found", "-d", "vlm"]
    where = ["--set", f"url={model.url}", "--set", "model=knows", "--set", "wait=0.01"]
    return ["find", *clips, *told, *where, *more]


def asker(show, model, **how):
    chat = Chat(model.url, "knows", retry_policy=RetryPolicy(5, 0.01))
    reference = judge.read_reference(show / "raine.png")
    clips = {name: show / name for name in EPISODES}
    return judge.VlmJudge(chat, "the robot", [reference], clips, **how)


# --- the question


def test_the_example_comes_first_and_every_picture_has_its_number(show, knowing):
    looks = [("ep1.mp4", n) for n in (5, 35, 65)]
    said = asker(show, knowing).ask(looks, lambda answers: None)
    assert [said[look].shown for look in looks] == [False, True, False]
    [request] = knowing.requests
    content = request["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 4 + ["text"]
    assert '- "the robot"' in content[-1]["text"] and "Pictures 1 to 3" in content[-1]["text"]
    assert request["tool_choice"]["function"]["name"] == "judge_pictures"
    ids = request["tools"][0]["function"]["parameters"]["properties"]["pictures"]["items"]
    assert ids["properties"]["id"]["enum"] == [1, 2, 3]


def test_the_number_is_large_red_and_edged():
    grey = Image.new("RGB", (480, 270), (90, 90, 90))
    one, ten = (np.asarray(judge.draw_number(grey, n)).astype(int) for n in (1, 10))
    for image in (one, ten):
        red = (image[..., 0] > 200) & (image[..., 1:].max(-1) < 60)
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        assert rows[-1] - rows[0] > 270 / 10 and rows[-1] < 270 / 3 and columns[-1] < 480 / 4
        assert ((image > 240).all(-1)).sum() > 50
    assert (one != ten).any()


@pytest.mark.parametrize("fault", ["skip", "repeat", "invent", "prose", "429"])
def test_an_answer_that_is_not_one_is_asked_for_again(fault, show, knowing):
    knowing.faults = [fault]
    looks = [("ep1.mp4", n) for n in (5, 35, 65)]
    said = asker(show, knowing).ask(looks, lambda answers: None)
    assert [said[look].shown for look in looks] == [False, True, False]
    assert len(knowing.requests) == 2
    if fault != "429":
        assert "left out" in knowing.requests[1]["messages"][2]["content"][0]["text"]


def test_who_never_answers_well_is_asked_less_at_a_time_and_then_not_believed(show, knowing):
    knowing.faults = ["skip"] * 2 + ["repeat"] * 2
    looks = [("ep1.mp4", n) for n in (5, 35)]
    said = asker(show, knowing).ask(looks, lambda answers: None)
    assert said == {looks[0]: None, looks[1]: Judgement(True, 0.9)}


def test_batches_are_asked_side_by_side_and_no_more_of_them_than_said(show, knowing):
    looks = [("ep1.mp4", n) for n in range(0, 120, 4)]
    told = []
    asker(show, knowing, chunk=4, workers=3).ask(looks, lambda answers: told.append(len(answers)))
    assert sorted(told) == [2] + [4] * 7
    assert 2 <= knowing.busiest <= 3


@pytest.mark.parametrize(
    "text, said",
    [
        ('{"pictures": [{"id": "2", "shown": "yes"}, {"id": 1, "shown": false}]}', [False, True]),
        ('```json\n[{"id": 1, "shown": true}, {"id": "#2", "shown": 0}]\n```', [True, False]),
        ('{"pictures": [{"id": 1, "shown": true}]}', "left out: 2"),
        ('{"pictures": [{"id": 1, "shown": true}, {"id": 1, "shown": false}]}', "named twice: 1"),
        ('[{"id": 1, "shown": true}, {"id": 2, "shown": true}, {"id": 3, "shown": 1}]', "made up"),
        ("I see it in picture 1.", "left out: 1, 2"),
    ],
)
def test_what_a_model_says_is_read_strictly(text, said):
    if isinstance(said, str):
        with pytest.raises(AnswerParseError, match=said):
            judge.parse_judgements(text, [1, 2])
    else:
        found = judge.parse_judgements(text, [1, 2])
        assert [found[n].shown for n in (1, 2)] == said


def test_the_form_is_one_that_strict_servers_take():
    told = messages.verdicts_format([1, 2]).request_fields("schema")["response_format"][
        "json_schema"
    ]
    assert told["strict"] and told["schema"]["additionalProperties"] is False


# --- settling


def ended(shot, truth, looks=2, errors=0.0, rng=None):
    """What is settled of a shot whose rare frames are `truth`, and how many frames were asked."""
    asking_, asked = query_shot(shot, shot.places(looks)), 0
    want = next(asking_)
    while True:
        asked += len(want)
        flips = rng.random(len(want)) < errors if rng else [False] * len(want)
        said = {f: Judgement((f in truth) ^ bool(w)) for f, w in zip(want, flips, strict=True)}
        try:
            want = asking_.send(said)
        except StopIteration as end:
            return end.value, asked


def test_a_shot_without_it_is_asked_twice_and_one_full_of_it_three_times():
    assert ended(QueriedShot("a", 100, 190, 3), set()) == (None, 2)
    shown, asked = ended(QueriedShot("a", 100, 190, 3), set(range(100, 190)))
    assert (shown.start, shown.stop, asked) == (100, 190, 3)


@pytest.mark.parametrize("start, stop", [(100, 140), (151, 190), (100, 131), (160, 190)])
def test_where_it_comes_or_goes_is_found_by_bisection(start, stop):
    shown, asked = ended(QueriedShot("a", 100, 190, 2), set(range(start, stop)))
    assert abs(shown.start - start) <= 8 and abs(shown.stop - stop) <= 8
    assert asked < 20


def test_one_answer_in_twenty_may_be_wrong():
    rng = np.random.default_rng(1)
    missed = made_up = asked = 0
    for n in range(1000):
        rare = set(range(42)) if n % 5 == 0 else set()
        shown, count = ended(QueriedShot("a", 0, 42, 3), rare, errors=0.05, rng=rng)
        asked += count
        missed += bool(rare) and shown is None
        made_up += not rare and shown is not None
    assert missed <= 4  # of 200
    assert made_up <= 5  # of 800
    assert asked < 2800


def test_the_surest_frame_is_one_of_those_that_are_said_to_show_it():
    shot = QueriedShot("a", 0, 42, 3)
    asking_ = query_shot(shot, shot.spread_frames(2))
    want, shown = next(asking_), None
    while shown is None:  # of those around the far no, one says yes, and is surer than all
        said = {f: Judgement(f < 20 or f == 34, 0.99 if f == 34 else 0.7) for f in want}
        try:
            want = asking_.send(said)
        except StopIteration as end:
            shown = end.value
    assert shot.answers[34].shown
    assert shown.start <= shown.surest < shown.stop < 34


def test_what_is_never_answered_settles_nothing_and_ends():
    shot = QueriedShot("a", 0, 10, 1)
    asking_ = query_shot(shot, shot.spread_frames(2))
    want = next(asking_)
    with pytest.raises(StopIteration) as end:
        asking_.send(dict.fromkeys(want))
    assert end.value.value is None


# --- finding


def truths(show):
    return [word for name in ("ep1", "ep2") for word in ("--truth", show / f"{name}.gt.json")]


def test_every_shot_is_found_and_written(show, knowing, annotate, tmp_path):
    code, _, err = annotate(*command(show, knowing, *truths(show)))
    assert code == 0, err
    assert "recall 1.000 (2 of 2 shots), precision 1.000" in err
    assert "8 shots" in err and "questions" in err
    first, second = results.read_hits(tmp_path / "found")
    assert (first.video, first.start, first.stop) == ("ep1.mp4", 30, 60)
    assert second.video == "ep2.mp4" and abs(second.start - 76) <= 4 and second.stop == 90
    book = journal.read(tmp_path / "found" / "items.jsonl")
    shown = {(item.video, item.frame) for item in book if item.objects}
    assert len(shown) == 30 + second.stop - second.start
    assert any(not item.objects for item in book)
    [png, _] = sorted((tmp_path / "found" / "frames").iterdir())
    frame = reader.seek(show / "ep1.mp4", first.best_frame)
    np.testing.assert_array_equal(np.asarray(Image.open(png)), frame.image)
    code, _, err = annotate("build", "found/items.jsonl", "-o", "dataset", "--rate", 2)
    assert code == 0, err
    assert load_dataset(tmp_path / "dataset").classes == ("the robot",)


@pytest.mark.parametrize("first", [3, 9, 17])
def test_wrong_answers_are_outvoted_and_faults_survived(first, show, annotate, tmp_path):
    lies = tuple(range(first, 1000, 20))
    with serving(lies=lies, faults=["skip", "429", "prose"]) as model:
        for name, rare in RARE.items():
            model.learn(show / name, rare)
        # one at a time, so that it is the same verdicts that are wrong each time
        code, _, err = annotate(*command(show, model, "--workers", 1, *truths(show)))
    assert code == 0, err
    assert model.wrong >= 1 and not model.faults
    assert "recall 1.000" in err


def test_what_was_asked_is_not_asked_again(show, knowing, annotate, tmp_path):
    assert annotate(*command(show, knowing))[0] == 0
    before = len(knowing.requests)
    code, _, err = annotate(*command(show, knowing))
    assert code == 1 and "every shot in it is settled" in err
    code, _, err = annotate(*command(show, knowing, "--force"))
    assert code == 0 and len(knowing.requests) == before
    assert "0 questions" in err
    code, _, err = annotate(*command(show, knowing, "--looks", 1))
    assert code == 1 and "looks: 2 in the file, 1 now" in err


PRICES = ("--set", "price_in=10", "--set", "price_out=10")


def test_a_forecast_asks_nothing_and_a_budget_is_kept_and_gone_on_from(
    show, knowing, annotate, tmp_path
):
    code, _, err = annotate(*command(show, knowing, *PRICES, "--forecast"))
    assert code == 0 and "19 pictures in 2 questions" in err and not knowing.requests
    code, _, err = annotate(*command(show, knowing, *PRICES, "--budget", 0.016, "--chunk", 2))
    assert code == 1 and "shots are open" in err
    spent = sum((350 + 85 * 3) + 22 * 2 for _ in knowing.requests)
    assert 0 < spent * 10 / 1e6 <= 0.016
    code, _, err = annotate(*command(show, knowing, *PRICES, "--chunk", 2, *truths(show)))
    assert code == 0 and "recall 1.000" in err


def test_a_first_question_that_may_pass_the_budget_is_not_begun():
    meter = UsageMeter(Prices(1.0, 1.0), budget=0.01)
    meter.expect_cost(0.006)
    meter.begin()
    with pytest.raises(BudgetExceeded):
        meter.begin()


def test_with_few_pictures_the_likeliest_shots_are_asked(show, knowing, annotate):
    code, _, err = annotate(*command(show, knowing, "--max", 12, *truths(show)))
    assert code == 1 and "no more may be" in err
    assert "recall 1.000" in err
    sent = sum(
        part["type"] == "image_url"
        for request in knowing.requests
        for part in request["messages"][0]["content"]
    ) - len(knowing.requests)
    assert sent <= 12


def test_without_a_model_shots_are_ranked_by_likeness(show, annotate, tmp_path):
    clips = [show / name for name in EPISODES]
    told = ["--reference", show / "raine.png", "--name", "the robot", "-o", "found", "--max", 2]
    code, _, err = annotate("find", *clips, *told, *truths(show))
    assert code == 0, err
    assert "recall 1.000 (2 of 2 shots), precision 1.000" in err
    assert all(0 < hit.confidence <= 1 for hit in results.read_hits(tmp_path / "found"))


def test_cutting_is_remembered_and_a_clip_that_breaks_off_is_used(show, tmp_path):
    count = []
    first = cut_into_shots([show / "ep1.mp4"], lambda: count.append(1))
    assert [(s.start, s.stop) for s in first.shots] == [(0, 30), (30, 60), (60, 90), (90, 120)]
    again = cut_into_shots([show / "ep1.mp4"])
    assert [(s.start, s.stop) for s in again.shots] == [(s.start, s.stop) for s in first.shots]
    assert len(count) == 120
    images = tmp_path / "images"
    images.mkdir()
    for n, image in enumerate(scene(1, ())):
        Image.fromarray(image).save(images / f"{n:02}.png")
    (images / "20.png").write_bytes((images / "20.png").read_bytes()[:-40])
    broken = cut_into_shots([images])
    assert "20.png" in broken.decode_errors[0] and broken.shots[-1].stop == 20


def test_what_cannot_be_is_said(show, knowing, annotate):
    told = ["--reference", show / "ep1.mp4", "--name", "x", "-o", "x"]
    code, _, err = annotate("find", show / "ep1.mp4", *told)
    assert code == 1 and "not an image that can be read" in err
    code, _, err = annotate(*command(show, knowing), "-d", "yolo")
    assert code == 1 and "There are: local, vlm" in err
    (show / "bad.json").write_text("{}")
    code, _, err = annotate(*command(show, knowing, "--truth", show / "bad.json"))
    assert code == 1 and "rare_frames" in err


@pytest.mark.shared
@pytest.mark.slow
def test_the_rare_character_of_the_show(annotate, tmp_path):
    dev = SHARED / "gameplay" / "dev"
    from search_server import rare_frames

    clips = [dev / f"show_ep{n}.mp4" for n in (1, 2, 3)]
    frame = reader.seek(clips[0], 119)
    Image.fromarray(frame.image[:117, 242:340]).save(tmp_path / "raine.png")
    told = ["--reference", tmp_path / "raine.png", "--name", "robot", "-o", "found", "-d", "vlm"]
    truth = [word for n in (1, 2, 3) for word in ("--truth", dev / f"show_ep{n}.gt.json")]
    with serving(errors=0.05) as model:
        for clip in clips:
            model.learn(clip, rare_frames(json.loads((dev / f"{clip.stem}.gt.json").read_text())))
        where = ["--set", f"url={model.url}", "--set", "model=knows"]
        code, _, err = annotate("find", *clips, *told, *where, *truth)
    assert code == 0, err
    assert "recall 1.000 (3 of 3 shots), precision 1.000" in err
    assert len(model.requests) <= 1134 / 40


# --- the gallery


@pytest.fixture
def found(show, knowing, annotate, tmp_path):
    assert annotate(*command(show, knowing))[0] == 0
    return tmp_path / "found"


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    return page


def test_a_person_keeps_and_rejects_by_key_and_the_items_follow(found, page):
    with gallery.serving(found) as address:
        page.goto(address)
        page.wait_for_selector("figure")
        assert page.locator("h2").all_inner_texts() == ["ep1.mp4 · 1", "ep2.mp4 · 1"]
        page.wait_for_function("[...document.images].slice(0, 2).every((i) => i.complete)")
        assert page.evaluate(
            "[...document.images].slice(0, 2).every((i) => i.naturalWidth === 160)"
        )
        page.keyboard.press("k")
        page.keyboard.press("r")
        page.wait_for_selector("figure.rejected")
        page.wait_for_timeout(200)
        assert "1 kept, 1 rejected, 0 open" in page.inner_text("#tally")
        first, second = results.read_hits(found)
        assert results.read_decisions(found) == {first.name: True, second.name: False}
        book = list(journal.read(found / "items.jsonl"))
        assert {item.video for item in book if item.objects} == {"ep1.mp4"}
        assert len(book) == len(list(journal.read(found / "found.jsonl")))
        page.reload()
        page.wait_for_selector("figure.rejected")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("u")
        page.wait_for_timeout(200)
        assert results.read_decisions(found) == {first.name: True}
        assert {i.video for i in journal.read(found / "items.jsonl") if i.objects} == set(EPISODES)
        page.keyboard.press("Enter")
        assert page.locator("dialog[open]").count() == 1
    assert page.errors == []


def test_what_cannot_be_saved_is_said_on_the_page(found, page):
    with gallery.serving(found) as address:
        page.goto(address)
        page.wait_for_selector("figure")
        (found / "decisions.jsonl").mkdir()
        page.keyboard.press("r")
        page.get_by_text("was not saved").wait_for()
        assert page.locator(".rejected").count() == 0


def asked(address, path="", host=None, origin=None, body=None, kind="application/json"):
    request = urllib.request.Request(address + path, data=body)
    for name, value in (("Host", host), ("Origin", origin), ("Content-Type", body and kind)):
        if value:
            request.add_header(name, value)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_only_its_own_page_may_ask_and_write(found):
    first, _ = results.read_hits(found)
    body = json.dumps({"hit": first.name, "keep": False}).encode()
    with gallery.serving(found) as address:
        base = address.rsplit("/", 2)[0]
        assert asked(address) == 200
        assert asked(base + "/") == asked(base + "/guess/") == 404
        assert asked(address, host="evil.example:80") == 404
        assert asked(address, "frames/../found.jsonl") == 404
        assert asked(address, "frames/%2e%2e%2ffound.jsonl") == 404
        assert asked(address, "decide", origin="http://evil.example", body=body) == 403
        assert asked(address, "decide", origin=base, body=body, kind="text/plain") == 403
        assert asked(base + "/guess/decide", origin=base, body=body) == 403
        assert results.read_decisions(found) == {}
        assert asked(address, "decide", origin=base, body=b'{"hit": "x", "keep": true}') == 400
        assert asked(address, "decide", origin=base, body=body) == 200
    assert results.read_decisions(found) == {first.name: False}


def test_a_decision_that_a_crash_cut_off_is_none(found):
    first, second = results.read_hits(found)
    results.record_decision(found, first.name, True)
    with (found / "decisions.jsonl").open("a") as file:
        file.write('{"hit": "' + second.name)
    assert results.read_decisions(found) == {first.name: True}
    results.record_decision(found, second.name, False)
    assert results.read_decisions(found) == {first.name: True, second.name: False}
    with pytest.raises(ItemsError, match="no hit"):
        results.record_decision(found, "ep9.mp4#0", True)


def test_a_folder_without_findings_has_no_gallery(annotate, tmp_path):
    code, _, err = annotate("gallery", tmp_path)
    assert code == 1 and "annotate find" in err

"""The detector `moondream`, through the official client, against a server of its protocol."""

import numpy as np
import pytest
from vlm_server import KEY, decode_image, serving, truth

from annotate.detectors.run import DETECTORS
from annotate.errors import AnswerError, MissingWeights, PromptError, WeightsError
from annotate.items.records import Vocabulary
from annotate.video import reader
from annotate.vlm import answer_cache, moondream
from annotate.vlm.moondream import Moondream
from annotate.vlm.retry import RetryPolicy

WORDS = Vocabulary(
    "demo.v1",
    {
        "plate": {},
        "monster": {"moondream": ["Demon", "HellKnight"]},
        "mark": {"moondream": "designator"},
    },
    "5e1f",
)


@pytest.fixture
def frame(demo):
    return next(reader.frames_at(demo, [0]))


def load(server, **options):
    return DETECTORS.load(
        "moondream", WORDS, **{"endpoint": server.url, "wait_seconds": 0.01, **options}
    )


def client(server, **options):
    return Moondream(server.url, retry_policy=RetryPolicy(3, 0.01), **options)


def test_boxes_of_each_phrase_with_no_score(frame):
    with serving() as model:
        [found] = load(model).propose([frame])
        asked = [(body["object"], body["settings"]) for body in model.requests]
    expected = [truth(0, name)[0] for name in ("Demon", "HellKnight", "designator")]
    np.testing.assert_allclose(found.xyxy, expected, atol=1e-9)
    assert found.class_id.tolist() == [1, 1, 2] and np.isnan(found.confidence).all()
    assert found.data["phrase"].tolist() == ["Demon", "HellKnight", "designator"]
    assert asked == [(p, {"max_objects": 50}) for p in ("Demon", "HellKnight", "designator")]


def test_the_phrase_stands_in_the_item(demo, tmp_path, annotate):
    (tmp_path / "my.v1.toml").write_text('[classes.monster]\nmoondream = ["Demon"]\n')
    with serving() as model:
        words = ("-d", "moondream", "-v", "my.v1.toml", "--set", f"endpoint={model.url}")
        code, out, err = annotate("detect", demo, *words, "-o", "-", "--stop", 1)
    assert code == 0, err
    assert '"score":null,"source":"moondream","phrase":"Demon"' in out


def test_the_picture_arrives_as_it_is(frame):
    with serving() as model:
        client(model).encode_image(frame.image).caption()
        sent = decode_image(model.requests[0]["image_url"])
    assert np.abs(sent.astype(int) - frame.image).mean() < 2


def test_a_little_outside_is_the_edge(frame):
    with serving(always="outside") as model:
        boxes = client(model).encode_image(frame.image).boxes("Demon")
    np.testing.assert_allclose(boxes, [[0, 60, 400, 600], [160, 0, 800, 240]])


def test_points_captions_and_answers(frame):
    [(x1, y1, x2, y2)] = truth(0, "Demon")
    with serving() as model:
        seen = client(model).encode_image(frame.image)
        assert seen.points("Demon") == [pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2))]
        assert seen.caption("short") == "A monster in a hall."
        assert seen.query("What?") == "You asked: What?"
        assert model.requests[1]["length"] == "short"
        detector = load(model)
        assert detector.caption(frame.image, "short") == "A monster in a hall."
        assert detector.query(frame.image, "What?") == "You asked: What?"


def test_asked_again_it_costs_nothing(frame):
    with serving() as model:
        first = load(model).propose([frame])
        again = load(model)
        np.testing.assert_array_equal(again.propose([frame])[0].xyxy, first[0].xyxy)
        assert len(model.requests) == 3 and again.usage.cached == 3


def test_what_is_known_of_one_picture_is_not_said_of_another(demo):
    frames = list(reader.frames_at(demo, [0, 30]))
    with serving() as model:
        [[one], [other]] = [client(model).encode_image(f.image).boxes("designator") for f in frames]
    assert one == pytest.approx(truth(0, "designator")[0])
    assert other == pytest.approx(truth(30, "designator")[0]) and one != other


@pytest.mark.parametrize("fault", ["500", "html", "missing", "429", "no list"])
def test_a_server_out_of_order_is_asked_again(fault, frame):
    with serving(faults=[fault]) as model:
        assert len(client(model).encode_image(frame.image).boxes("Demon")) == 1
        assert len(model.requests) == 2
        model.always = fault
        with pytest.raises(AnswerError, match="moondream point: .*asked 3 times"):
            client(model).encode_image(frame.image).points("Demon")


def test_an_empty_text_is_no_description(frame):
    with serving(always="no words") as model:
        for ask in ("caption", "query"):
            with pytest.raises(AnswerError, match=f"moondream {ask}: .*asked 3 times"):
                seen = client(model).encode_image(frame.image)
                seen.caption() if ask == "caption" else seen.query("What?")


def test_an_answer_of_an_earlier_version_that_cannot_be_read_is_asked_for_again(frame, monkeypatch):
    with serving() as model:
        monkeypatch.setattr(answer_cache, "read_answer", lambda digest: {"objects": {}})
        assert len(client(model).encode_image(frame.image).boxes("Demon")) == 1
        assert len(model.requests) == 1


def test_as_many_objects_as_are_allowed_may_not_be_all(frame):
    with serving() as model:
        detector = load(model, max_objects=1)
        detector.propose([frame])
    [line] = detector.notes.lines()
    assert line.startswith("3 answers hold as many objects as `max_objects` allows")


def test_no_server_says_what_to_start(frame):
    with serving() as model:
        pass
    with pytest.raises(AnswerError, match="start Moondream Station there, or give .*`endpoint`"):
        client(model).encode_image(frame.image).caption()


def test_the_client_waits_for_ever_and_we_do_not(frame):
    with serving(faults=["slow"]) as model:
        assert len(client(model, timeout_seconds=1.5).encode_image(frame.image).boxes("Demon")) == 1


def test_what_asking_again_does_not_mend_is_said_at_once(frame, monkeypatch):
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(always="401") as model:
        with pytest.raises(AnswerError, match="HTTP 401: the key is not accepted") as caught:
            client(model, key="MY_KEY").encode_image(frame.image).caption()
        assert len(model.requests) == 1
        assert model.headers[0]["x-moondream-auth"] == KEY
    assert KEY not in str(caught.value)
    with pytest.raises(AnswerError, match="no server answers at http://127.0.0.1"):
        client(model).encode_image(frame.image).caption()


def test_a_vocabulary_that_tells_it_nothing():
    with pytest.raises(PromptError, match="has no phrase for moondream"):
        DETECTORS.load("moondream", Vocabulary("a", {"mug": {}}, "")).ready()


def test_code_that_comes_with_weights_runs_only_when_a_person_says_so():
    with pytest.raises(WeightsError, match="give `trust_remote_code`"):
        DETECTORS.load("moondream", WORDS, local="moondream2").ready()
    with pytest.raises(MissingWeights, match="annotate models fetch moondream2"):
        moondream.load_local(trust_remote_code=True)


class Speaker:
    """What the model of transformers gives: the same four methods, in this process."""

    def detect(self, image, **asked):
        assert image.size == (800, 600)
        assert asked == {"object": "Demon", "settings": {"max_objects": 50}}
        return {"objects": [{"x_min": 0.25, "y_min": 0.5, "x_max": 0.75, "y_max": 1.0}]}


def test_a_model_on_this_machine_is_asked_the_same(frame):
    seen = Moondream("transformers", model="moondream2", local_model=Speaker()).encode_image(
        frame.image
    )
    assert seen.boxes("Demon") == [(200, 300, 600, 600)]


def test_the_tokenizer_is_ours_whoever_asks_the_hub_for_it(tmp_path):
    import huggingface_hub

    ours = tmp_path / "tokenizer.json"
    before = huggingface_hub.hf_hub_download
    with moondream._pinned_tokenizer("moondream/starmie-v1", ours):
        told = huggingface_hub.hf_hub_download(repo_id="moondream/starmie-v1", filename="x")
        assert told == str(ours)
    assert huggingface_hub.hf_hub_download is before

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from annotate.errors import AnnotateError, SettingsDiffer
from annotate.evaluation import captions

BOX = (200.0, 120.0, 240.0, 160.0)
NEAR = "The image shows a close-up of a red target designator, a glowing square frame."
FAR = "A dark corridor with brown stone walls. A pistol is visible at the bottom."


@pytest.fixture
def clip(tmp_path):
    """Two frames of 480x320; on the second a red square stands at BOX."""
    folder = tmp_path / "clip"
    folder.mkdir()
    image = np.full((320, 480, 3), 70, np.uint8)
    Image.fromarray(image).save(folder / "0.png")
    image[120:160, 200:240] = (220, 20, 20)
    Image.fromarray(image).save(folder / "1.png")
    return folder


class RednessCaptioner:
    """Captions a picture with the share of red pixels; counts the calls."""

    def __init__(self, fails_at=None):
        self.call_count, self.fails_at = 0, fails_at

    def caption(self, image):
        self.call_count += 1
        if self.call_count == self.fails_at:
            raise KeyboardInterrupt
        return f"red {(image[..., 0] > 200).mean():.4f}"


def job(clip, captioner, **more):
    return captions.Job(captioner, "redness", {}, clip, 1, BOX, **({"count": 12} | more))


# --- crops ---


def test_crops_reach_from_the_box_to_the_whole_picture():
    crops = captions.make_crops(BOX, (480, 320), 200)
    assert crops[0].window == (198, 118, 242, 162) and crops[-1].window == (0, 0, 480, 320)
    offsets = [crop.offset for crop in crops]
    assert offsets[0] == min(offsets) == captions.MIN_OFFSET and offsets[-1] == max(offsets) == 240
    middle = np.median(offsets)
    assert 10 < middle < 50  # evenly drawn on a logarithmic scale: about sqrt(2 * 240)


def test_every_crop_contains_the_box_and_is_inside_the_picture():
    box = (3.5, 300.0, 12.0, 318.5)
    for crop in captions.make_crops(box, (480, 320), 100, seed=4):
        left, top, right, bottom = crop.window
        assert 0 <= left <= box[0] and box[2] <= right <= 480
        assert 0 <= top <= box[1] and box[3] <= bottom <= 320
        area = (right - left) * (bottom - top)
        assert crop.share == pytest.approx(8.5 * 18.5 / area, abs=1e-6)


def test_crops_of_a_thin_box_are_not_thin():
    for crop in captions.make_crops((100.0, 100.0, 104.0, 220.0), (480, 320), 50):
        left, top, right, bottom = crop.window
        assert (bottom - top) / (right - left) <= 2.05


def test_crops_are_repeatable_and_depend_on_the_seed():
    one = captions.make_crops(BOX, (480, 320), 20)
    assert (
        one
        == captions.make_crops(BOX, (480, 320), 20)
        != captions.make_crops(BOX, (480, 320), 20, seed=1)
    )


# --- descriptions ---


def test_each_caption_is_of_its_window(clip, tmp_path):
    descriptions = captions.describe_crops(job(clip, RednessCaptioner()), tmp_path / "d.jsonl")
    for each in descriptions:
        left, top, right, bottom = each.crop.window
        red = 40 * 40 / ((right - left) * (bottom - top))
        assert each.text == f"red {red:.4f}"


def test_a_stopped_run_is_resumed(clip, tmp_path):
    out = tmp_path / "d.jsonl"
    with pytest.raises(KeyboardInterrupt):
        captions.describe_crops(job(clip, RednessCaptioner(fails_at=6)), out)
    out.write_bytes(out.read_bytes() + b'{"crop": {"numb')  # killed in the middle of a line
    again = RednessCaptioner()
    descriptions = captions.describe_crops(job(clip, again), out)
    assert again.call_count == 12 - 5
    assert descriptions == captions.describe_crops(
        job(clip, RednessCaptioner()), tmp_path / "at_once.jsonl"
    )
    assert out.read_bytes() == (tmp_path / "at_once.jsonl").read_bytes()


def test_other_settings_are_refused(clip, tmp_path):
    out = tmp_path / "d.jsonl"
    captions.describe_crops(job(clip, RednessCaptioner()), out)
    with pytest.raises(SettingsDiffer, match="seed: 0 in the file, 1 now"):
        captions.describe_crops(job(clip, RednessCaptioner(), seed=1), out)
    assert (
        len(captions.describe_crops(job(clip, RednessCaptioner(), seed=1), out, force=True)) == 12
    )


def test_a_detector_without_captions_is_refused():
    with pytest.raises(AnnotateError, match="colour finds boxes, but describes nothing"):
        captions.load_captioner("colour", {})


# --- terms ---


@pytest.fixture(scope="module")
def spacy_model():
    pytest.importorskip("spacy")
    from annotate.errors import MissingPackage
    from annotate.evaluation import caption_terms

    try:
        return caption_terms.load_spacy_model()
    except MissingPackage as error:
        pytest.skip(str(error))


@pytest.fixture
def descriptions(spacy_model):
    """Twenty parsed captions: NEAR for the closer half of the crops, FAR for the wider half."""
    from annotate.evaluation import caption_terms

    crops = sorted(captions.make_crops(BOX, (480, 320), 20), key=lambda crop: crop.offset)
    texts = [NEAR] * 10 + [FAR] * 10
    pairs = zip(crops, texts, strict=True)
    return caption_terms.parse_descriptions(
        [captions.Description(*pair) for pair in pairs], spacy_model
    )


def test_contexts_are_two_words_on_each_side_without_stop_words(descriptions):
    assert descriptions[0].contexts("designator") == [
        ("red", "target", "designator", "glow", "square")
    ]
    assert descriptions[-1].contexts("designator") == [] and descriptions[-1].contexts("wall") == [
        ("brown", "stone", "wall")  # not beyond the sentence's end
    ]


def test_a_word_is_reduced_to_its_lemma(spacy_model):
    from annotate.errors import PromptError
    from annotate.evaluation import caption_terms

    assert caption_terms.lemmatize("walls", spacy_model) == "wall"
    with pytest.raises(PromptError, match="expected one word"):
        caption_terms.lemmatize("stone walls", spacy_model)


def test_the_chosen_noun_is_frequent_in_captions_of_close_crops(descriptions):
    from annotate.evaluation import caption_terms

    assert caption_terms.choose_noun(descriptions) in {
        "designator",
        "target",
        "frame",
        "square",
        "close",
    }
    assert caption_terms.choose_noun(descriptions[10:]) in {
        "corridor",
        "stone",
        "wall",
        "pistol",
        "bottom",
    }


def test_phrases_with_the_word_come_first(descriptions):
    from annotate.evaluation import caption_terms

    table = caption_terms.phrase_table(descriptions, "designator")
    first = table.iloc[0]
    assert (first["phrase"], first["count"], first["gain"]) == ("red target designator", 10, 1.0)
    assert first["median_offset"] < table.set_index("phrase").loc["pistol", "median_offset"]
    entry = caption_terms.vocabulary_entry("mark", "moondream", table)
    assert entry.startswith('[classes.mark]\nmoondream = ["red target designator"')
    assert "pistol" not in entry


def test_neighbours_are_grouped_with_counts_and_median_offsets(descriptions):
    from annotate.evaluation import caption_terms

    table = caption_terms.neighbour_table(descriptions, "designator").set_index("lemma")
    assert set(table.index) == {"red", "target", "glow", "square"}
    assert (table["count"] == 10).all()
    close = [each.offset for each in descriptions[:10]]
    assert table.loc["red", "median_offset"] == np.median(close)


# --- the command, and Moondream ---


class CaptionHandler(BaseHTTPRequestHandler):
    """Serves Moondream's /v1/caption: the caption depends on the share of red pixels."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/caption" and request["length"] == "normal"
        _, _, data = request["image_url"].partition("base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            pixels = np.asarray(picture.convert("RGB"), int)
        red = ((pixels[..., 0] - pixels[..., 1]) > 100).mean()
        answer = json.dumps({"caption": NEAR if red > 0.1 else FAR, "request_id": "1"}).encode()
        self.server.request_count += 1
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


@pytest.fixture
def caption_server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), CaptionHandler)
    server.request_count = 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_moondream_captions_close_and_wide_crops(
    annotate, clip, caption_server, spacy_model, tmp_path
):
    pytest.importorskip("moondream")
    endpoint = f"endpoint=http://127.0.0.1:{caption_server.server_port}/v1"
    command = ("study", clip, "--frame", 1, "--box", "200,120,240,160", "--describe", "moondream")
    more = ("--set", endpoint, "--count", 24, "--name", "mark", "-o", "out")
    code, out, err = annotate(*command, *more, "--word", "designator")
    assert code == 0, err
    request_count = caption_server.request_count
    assert 18 < request_count <= 24  # equal crops are asked once
    table = pd.read_csv("out/descriptions.csv")
    assert len(table) == 24 and table["has_word"].sum() == (table["text"] == NEAR).sum() > 3
    with_word, without = (table[table["has_word"] == has]["offset"] for has in (True, False))
    assert with_word.max() < without.min()  # the word is used for close crops only
    assert "[classes.mark]\nmoondream = [" in out and '"red target designator"' in out
    with Image.open("out/offsets.png") as picture:
        assert picture.size[0] > 500
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert annotate(*command, *more, "--word", "designator")[0] == 0
    assert caption_server.request_count == request_count
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_a_missing_model_is_reported_before_any_request(annotate, clip, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    command = ("study", clip, "--frame", 1, "--box", "200,120,240,160", "--describe", "moondream")
    code, _, err = annotate(*command, "-o", "out")
    assert code == 1 and "pip install 'annotate-local[study]'" in err

"""The `zero-shot` detector against the pipeline of transformers, on small random networks."""

import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import detector_contract
import numpy as np
import pytest
from PIL import Image
from random_networks import as_rows, assert_close, save_letter_tokenizer

from annotate.detectors.run import DETECTORS
from annotate.errors import AnnotateError, MissingWeights, PromptError, UnknownName, WeightsError
from annotate.items.records import Frame, Vocabulary

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own

TEXTS = ["red square", "health bar", "a b"]
HUD = Vocabulary(
    "hud.v1",
    {"plate": {}, "bar": {"zero-shot": "health bar"}, "mark": {"zero-shot": ["red square", "a b"]}},
    "5e" * 32,
)
LABELS = {"health bar": 1, "red square": 2, "a b": 2}


def noisy(seed, size_wh=(80, 48)):
    shape = (size_wh[1], size_wh[0], 3)
    image = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    return Frame("noise", seed, Fraction(seed), image)


def owlv2(folder, transformers):
    """An OWLv2 of 16 patches that reads letters, and sees something in noise."""
    import torch

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2}
    config = transformers.Owlv2Config(
        text_config={**small, "vocab_size": 600, "max_position_embeddings": 16},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    model = transformers.Owlv2ForObjectDetection(config)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and "embed" not in name:
            torch.nn.init.normal_(weight, std=0.15)  # weaker, it would say the same everywhere
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.Owlv2ImageProcessor(size=size).save_pretrained(folder)
    save_letter_tokenizer(transformers.CLIPTokenizer, folder, "<|startoftext|>", "<|endoftext|>")


def grounding_dino(folder, transformers):
    """A Grounding DINO of 20 queries, with a Swin and a BERT of one or two narrow layers."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 32, "vocab_size": 600}
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_indices=[2, 3, 4],
        ),
        text_config={"model_type": "bert", **text},
        num_queries=20,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        d_model=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
    )
    model = transformers.GroundingDinoForObjectDetection(config)
    model.save_pretrained(folder)
    size = {"shortest_edge": 64, "longest_edge": 96}
    transformers.GroundingDinoImageProcessor(size=size).save_pretrained(folder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    vocabulary = {word: number for number, word in enumerate(words)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder)


MAKERS = {"owlv2": owlv2, "grounding-dino": grounding_dino}


@pytest.fixture(scope="module", params=list(MAKERS))
def folder(request, tmp_path_factory):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp(request.param)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        MAKERS[request.param](path, transformers)
    return path


def theirs(folder, frame, min_score):
    """The boxes of the pipeline, as rows: whole pixels clipped to the picture, score, class."""
    import transformers

    texts = TEXTS if folder.name.startswith("owl") else [f"{text}." for text in TEXTS]
    run = transformers.pipeline("zero-shot-object-detection", model=str(folder), device="cpu")
    rows = []
    for each in run(Image.fromarray(frame.image), candidate_labels=texts, threshold=min_score):
        box = [each["box"][side] for side in ("xmin", "ymin", "xmax", "ymax")]
        box = np.clip(box, 0, [*frame.size_wh] * 2)
        rows.append([*box, each["score"], LABELS[each["label"].rstrip(".")]])
    return np.array([row for row in rows if row[0] < row[2] and row[1] < row[3]], float)


def ours(found):
    """The same of our detections."""
    rows = as_rows(found, found.class_id)
    rows[:, :4] = rows[:, :4].astype(int)
    return rows[(rows[:, 0] < rows[:, 2]) & (rows[:, 1] < rows[:, 3])]


def test_all_that_the_pipeline_finds(folder):
    """Ours runs three frames at once, the pipeline one: other last bits, see `random_networks`.

    A coordinate that is nearly whole may be cut to the next pixel. The boxes are fractions of 80
    pixels after a few narrow layers, so scores agree to 2e-4.
    """
    min_score = middling(folder)
    detector = DETECTORS.load("zero-shot", HUD, model=str(folder), min_score=min_score, nms_iou=1)
    frames, counts = [noisy(n) for n in range(3)], []
    for frame, found in zip(frames, detector.propose(frames), strict=True):
        expected = theirs(folder, frame, min_score)
        counts.append(len(expected))
        assert_close(ours(found), expected, min_score, pixel_atol=1, score_atol=2e-4)
        for text, class_id in zip(found.data["phrase"], found.class_id, strict=True):
            assert LABELS[text] == class_id
    assert min(counts) > 0 and sum(counts) > 20


def middling(folder):
    """A score that most, not all, of what it sees on noise is above."""
    detector = DETECTORS.load("zero-shot", HUD, model=str(folder), min_score=0, nms_iou=1)
    scores = [found.confidence for found in detector.propose([noisy(n) for n in range(3)])]
    return float(np.quantile(np.concatenate(scores), 0.25))


def test_it_keeps_to_the_contract_whole_and_in_squares(folder):
    frames = [noisy(n) for n in range(3)]
    min_score = middling(folder)
    whole = detector_contract.check(
        DETECTORS.load("zero-shot", HUD, model=str(folder), min_score=min_score), frames
    )
    assert all(len(each) for each in whole)
    detector_contract.check(
        DETECTORS.load(
            "zero-shot", HUD, model=str(folder), min_score=min_score, tile=40, batch_size=3
        ),
        frames,
    )


def test_of_what_overlaps_the_best_is_kept(folder):
    [every] = DETECTORS.load("zero-shot", HUD, model=str(folder), min_score=0, nms_iou=1).propose(
        [noisy(0)]
    )
    [best] = DETECTORS.load("zero-shot", HUD, model=str(folder), min_score=0).propose([noisy(0)])
    assert 0 < len(best) < len(every)
    assert best.confidence[0] == every.confidence.max()


ALONE = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("it reaches for the network")

class Refusing(socket.socket):
    __init__ = refuse

socket.socket, socket.create_connection, socket.getaddrinfo = Refusing, refuse, refuse
sys.path[:0] = {tests!r}
from test_zero_shot import HUD, noisy
from annotate.detectors.run import DETECTORS
[found] = DETECTORS.load("zero-shot", HUD, model={model!r}, min_score=0).propose([noisy(0)])
print(len(found))
"""


def test_with_the_network_cut_it_finds_the_same(folder):
    code = ALONE.format(
        tests=[str(Path(__file__).parents[1] / "support"), str(Path(__file__).parent)],
        model=str(folder),
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    [found] = DETECTORS.load("zero-shot", HUD, model=str(folder), min_score=0).propose([noisy(0)])
    assert (ran.returncode, ran.stdout) == (0, f"{len(found)}\n"), ran.stderr


def test_a_vocabulary_that_tells_it_nothing():
    with pytest.raises(PromptError, match="has no phrase for zero-shot: give a class a phrase"):
        DETECTORS.load("zero-shot", Vocabulary("mugs.v1", {"mug": {}}, "5e" * 32))


@pytest.mark.parametrize(
    "model, error, says",
    [
        ("owlv2-base-ensemble", MissingWeights, "annotate models fetch owlv2-base-ensemble"),
        ("grounding-dino-tiny", MissingWeights, "annotate models fetch grounding-dino-tiny"),
        ("owlv2-base", UnknownName, "did you mean 'owlv2-base-ensemble'"),
        (".", WeightsError, "is not a folder of a transformers model"),
    ],
)
def test_weights_that_are_not_there(model, error, says):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    with pytest.raises(error, match=says):
        DETECTORS.load("zero-shot", HUD, model=model).propose([noisy(0)])


def test_a_model_of_another_kind(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.DetrConfig().save_pretrained(tmp_path)
    with pytest.raises(AnnotateError, match="of the type detr; zero-shot runs owlv2"):
        DETECTORS.load("zero-shot", HUD, model=str(tmp_path)).propose([noisy(0)])


def test_a_folder_that_lacks_something(tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    transformers.Owlv2Config().save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="cannot be used by transformers: .") as said:
        DETECTORS.load("zero-shot", HUD, model=str(tmp_path)).propose([noisy(0)])
    assert "\n" not in str(said.value)

"""The `sam3` engine against the package's own session, on a small network that knows nothing."""

import json
from fractions import Fraction

import numpy as np
import pytest

from annotate.errors import MissingWeights, PromptError, WeightsError
from annotate.items.records import Frame, Prompt
from annotate.propagators import sam3

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own

SIDE, MAP = 56, 4
LETTERS = [chr(code) for code in range(33, 127)]


def config():
    layers = {"num_layers": 1, "intermediate_size": 64}
    backbone = transformers.Sam3ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        window_size=4,
        global_attn_indexes=[1],
        pretrain_image_size=SIDE,
    )
    vision = {
        "backbone_config": backbone,
        "backbone_feature_sizes": [[4 * MAP] * 2, [2 * MAP] * 2, [MAP] * 2],
    }
    text = transformers.CLIPTextConfig(
        vocab_size=600,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=32,
        projection_dim=32,
        bos_token_id=188,
        eos_token_id=189,
    )
    detector = transformers.Sam3Config(
        vision_config=transformers.Sam3VisionConfig(**vision),
        text_config=text,
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config=layers | {"num_queries": 2},
    )
    tracker = transformers.Sam3TrackerVideoConfig(
        vision_config=transformers.Sam3VisionConfig(**vision),
        image_size=SIDE,
        prompt_encoder_config={"image_size": SIDE, "patch_size": SIDE // MAP},
        memory_attention_num_layers=1,
        memory_attention_rope_feat_sizes=[MAP, MAP],
    )
    return transformers.Sam3VideoConfig(
        detector_config=detector,
        tracker_config=tracker,
        low_res_mask_size=4 * MAP,
        score_threshold_detection=0.01,  # it knows nothing, so let it find something
        new_det_thresh=0.01,
        high_conf_thresh=0.01,
        high_iou_thresh=0.01,
        recondition_every_nth_frame=4,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network as it lies on the disk, with a tokenizer that spells."""
    folder = tmp_path_factory.mktemp("sam3")
    pieces = (
        LETTERS + [f"{letter}</w>" for letter in LETTERS] + ["<|startoftext|>", "<|endoftext|>"]
    )
    (folder / "vocab.json").write_text(json.dumps({piece: at for at, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    size = {"height": SIDE, "width": SIDE}
    torch.manual_seed(0)
    model = transformers.Sam3VideoModel(config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(folder / "model")
    transformers.Sam3VideoProcessor(
        transformers.Sam3ImageProcessor(size=size),
        transformers.Sam2VideoVideoProcessor(size=size),
        transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")),
    ).save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def frames():
    """24 frames of a square that moves."""
    ground = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    frames = []
    for index in range(24):
        image = ground.copy()
        image[10 + index : 30 + index, 15 + index : 35 + index] = (200, 30, 30)
        frames.append(Frame("clip", index, Fraction(index, 25), image))
    return frames


def stock(folder, frames):
    """The package's own streaming loop: ids, scores and masks of every frame."""
    model = transformers.Sam3VideoModel.from_pretrained(folder)
    processor = transformers.Sam3VideoProcessor.from_pretrained(folder)
    session = processor.init_video_session()
    processor.add_text_prompt(session, "robot")
    for frame in frames:
        done = processor.video_processor(videos=[frame.image[None]], return_tensors="pt")
        with torch.inference_mode():
            found = model(session, frame=done.pixel_values_videos[0][0], frame_idx=frame.index)
            yield processor.postprocess_outputs(session, found, [[60, 80]])


def begin(folder):
    return sam3.Sam3Propagator("robot", str(folder), device="cpu").begin([])


@pytest.fixture(scope="module")
def whole_pass(folder, frames):
    """A session after all frames, and what it found on each."""
    session = begin(folder)
    return session, [session.step(frame, []) for frame in frames]


def test_it_finds_what_the_package_finds(folder, frames, whole_pass):
    most = 0
    for seen, theirs in zip(whole_pass[1], stock(folder, frames), strict=True):
        most = max(most, len(seen))
        there = theirs["masks"].any(dim=(1, 2))
        assert seen.mask.shape == (int(there.sum()), *frames[0].image.shape[:2])
        assert seen.tracker_id.tolist() == [int(of) + 1 for of in theirs["object_ids"][there]]
        # two loaded networks lie elsewhere in memory, and some CPUs then add up in another order:
        # logits differ by about 1e-6, which turns a pixel whose logit is that close to 0
        assert (seen.mask != theirs["masks"][there].numpy()).mean() <= 1e-3
        np.testing.assert_allclose(seen.confidence, theirs["scores"][there].numpy(), atol=1e-6)
    assert most > 1


def test_what_nothing_can_read_is_dropped(whole_pass):
    held = vars(whole_pass[0])["_session"]
    assert all(picture is None for picture in held.processed_frames.values())
    for outputs in held.output_dict_per_obj.values():
        assert len(outputs["non_cond_frame_outputs"]) < 16
        whole = [
            frame
            for kind in outputs.values()
            for frame, output in kind.items()
            if "maskmem_features" in output
        ]
        assert 0 < len(whole) <= 6 + 4  # the last memories, and the prompted frames that are read


def test_a_pass_goes_on_exactly_where_it_was_left(folder, frames):
    first, second = begin(folder), begin(folder)
    for frame in frames[:6]:
        first.step(frame, [])
    second.restore(first.state())
    for frame in frames[6:10]:
        one, other = first.step(frame, []), second.step(frame, [])
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.tracker_id, other.tracker_id)
        np.testing.assert_array_equal(one.confidence, other.confidence)


def test_a_phrase_is_needed_and_points_are_not(folder, frames):
    with pytest.raises(PromptError, match="by a phrase"):
        sam3.Sam3Propagator().begin([])
    with pytest.raises(PromptError, match="the points of clip#0 are not for it"):
        begin(folder).step(frames[0], [Prompt(0, 1, np.array([[1.0, 1.0]]), np.array([1]))])


def test_weights_that_are_not_there_are_said(tmp_path):
    with pytest.raises(MissingWeights, match="sam3-hf"):
        sam3.Sam3Propagator("robot").begin([])
    with pytest.raises(WeightsError, match="is not a Sam3VideoModel"):
        sam3.Sam3Propagator("robot", str(tmp_path)).begin([])

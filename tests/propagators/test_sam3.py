"""The engine `sam3`, compared with the session of transformers, on a small random network."""

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
        score_threshold_detection=0.01,  # low, because scores of random weights are low
        new_det_thresh=0.01,
        high_conf_thresh=0.01,
        high_iou_thresh=0.01,
        recondition_every_nth_frame=4,
    )


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """Save a random network, with a tokenizer of single letters."""
    model_dir = tmp_path_factory.mktemp("sam3")
    pieces = (
        LETTERS + [f"{letter}</w>" for letter in LETTERS] + ["<|startoftext|>", "<|endoftext|>"]
    )
    (model_dir / "vocab.json").write_text(
        json.dumps({piece: at for at, piece in enumerate(pieces)})
    )
    (model_dir / "merges.txt").write_text("#version: 0.2\n")
    size = {"height": SIDE, "width": SIDE}
    torch.manual_seed(0)
    model = transformers.Sam3VideoModel(config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    model.save_pretrained(model_dir / "model")
    transformers.Sam3VideoProcessor(
        transformers.Sam3ImageProcessor(size=size),
        transformers.Sam2VideoVideoProcessor(size=size),
        transformers.CLIPTokenizer(str(model_dir / "vocab.json"), str(model_dir / "merges.txt")),
    ).save_pretrained(model_dir / "model")
    return model_dir / "model"


@pytest.fixture(scope="module")
def frames():
    """Make 24 frames of a moving square."""
    ground = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    frames = []
    for index in range(24):
        image = ground.copy()
        image[10 + index : 30 + index, 15 + index : 35 + index] = (200, 30, 30)
        frames.append(Frame("clip", index, Fraction(index, 25), image))
    return frames


def package_results(model_dir, frames):
    """Yield ids, scores and masks of each frame by the streaming session of transformers."""
    model = transformers.Sam3VideoModel.from_pretrained(model_dir)
    processor = transformers.Sam3VideoProcessor.from_pretrained(model_dir)
    session = processor.init_video_session()
    processor.add_text_prompt(session, "robot")
    for frame in frames:
        processed = processor.video_processor(videos=[frame.image[None]], return_tensors="pt")
        with torch.inference_mode():
            outputs = model(
                session, frame=processed.pixel_values_videos[0][0], frame_idx=frame.index
            )
            yield processor.postprocess_outputs(session, outputs, [[60, 80]])


def begin(model_dir):
    return sam3.Sam3Propagator("robot", str(model_dir), device="cpu").begin([])


@pytest.fixture(scope="module")
def tracked_clip(model_dir, frames):
    """Track all frames; returns the session and the detections of each frame."""
    session = begin(model_dir)
    return session, [session.step(frame, []) for frame in frames]


def test_the_results_equal_those_of_the_package(model_dir, frames, tracked_clip):
    max_objects = 0
    for detections, expected in zip(
        tracked_clip[1], package_results(model_dir, frames), strict=True
    ):
        max_objects = max(max_objects, len(detections))
        visible = expected["masks"].any(dim=(1, 2))
        assert detections.mask.shape == (int(visible.sum()), *frames[0].image.shape[:2])
        assert detections.tracker_id.tolist() == [
            int(object_id) + 1 for object_id in expected["object_ids"][visible]
        ]
        # two loaded networks lie elsewhere in memory, and some CPUs then add up in another order:
        # logits differ by about 1e-6, which turns a pixel whose logit is that close to 0
        assert (detections.mask != expected["masks"][visible].numpy()).mean() <= 1e-3
        np.testing.assert_allclose(
            detections.confidence, expected["scores"][visible].numpy(), atol=1e-6
        )
    assert max_objects > 1


def test_memories_that_are_no_longer_read_are_dropped(tracked_clip):
    package_session = vars(tracked_clip[0])["_session"]
    assert all(picture is None for picture in package_session.processed_frames.values())
    for outputs in package_session.output_dict_per_obj.values():
        assert len(outputs["non_cond_frame_outputs"]) < 16
        with_features = [
            frame
            for kind in outputs.values()
            for frame, output in kind.items()
            if "maskmem_features" in output
        ]
        # the last six memories, and the four prompted frames that are read
        assert 0 < len(with_features) <= 6 + 4


def test_a_restored_session_gives_the_same_results(model_dir, frames):
    first, second = begin(model_dir), begin(model_dir)
    for frame in frames[:6]:
        first.step(frame, [])
    second.restore(first.state())
    for frame in frames[6:10]:
        one, other = first.step(frame, []), second.step(frame, [])
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_array_equal(one.tracker_id, other.tracker_id)
        np.testing.assert_array_equal(one.confidence, other.confidence)


def test_a_phrase_is_needed_and_points_are_refused(model_dir, frames):
    with pytest.raises(PromptError, match="by a phrase"):
        sam3.Sam3Propagator().begin([])
    with pytest.raises(PromptError, match="the points of clip#0 are not for it"):
        begin(model_dir).step(frames[0], [Prompt(0, 1, np.array([[1.0, 1.0]]), np.array([1]))])
    with pytest.raises(PromptError, match="the points of clip#0 are not for it"):  # outside only
        begin(model_dir).step(frames[0], [Prompt(0, 1, np.array([[1.0, 1.0]]), np.array([0]))])


def test_missing_weights_are_an_error(tmp_path):
    with pytest.raises(MissingWeights, match="sam3-hf"):
        sam3.Sam3Propagator("robot").begin([])
    with pytest.raises(WeightsError, match="is not a Sam3VideoModel"):
        sam3.Sam3Propagator("robot", str(tmp_path)).begin([])

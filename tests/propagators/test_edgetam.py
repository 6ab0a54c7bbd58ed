"""The engines on transformers, compared with its own session, on small random networks."""

import subprocess
import sys
import textwrap
from fractions import Fraction

import numpy as np
import pytest

from annotate.errors import MissingWeights, UnknownName, WeightsError
from annotate.items.records import Frame, Prompt
from annotate.propagators import sam2
from annotate.sam2.session import StreamingPredictor
from annotate.sam2.transformers import (
    TransformersNetwork,
    _random_config,
    bias_presence,
    build_random,
    with_input_size,
)

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages

SIZE_WH = (160, 120)
SIDE = 64


def make_prompt(frame, object_id, *points, **fields):
    """Make a prompt of points (x, y, label)."""
    table = np.array(points, float).reshape(-1, 3)
    return Prompt(frame, object_id, table[:, :2], table[:, 2].astype(int), **fields)


BLOB = np.zeros(SIZE_WH[::-1], bool)
BLOB[20:50, 30:60] = True
FIRST = make_prompt(0, 1, (40, 30, 1))
FLOWS = {
    "one object": [FIRST],
    "three objects": [FIRST, make_prompt(0, 2, (100, 60, 1)), make_prompt(0, 7, (80, 100, 1))],
    "several points": [make_prompt(0, 1, (40, 30, 1), (50, 40, 1), (10, 100, 0))],
    "a box": [make_prompt(0, 1, box=(30.0, 20.0, 60.0, 50.0))],
    "a mask": [make_prompt(0, 1, mask=BLOB)],
    "a correction": [FIRST, make_prompt(9, 1, (70, 40, 1))],
    "a negative correction": [
        FIRST,
        make_prompt(9, 1, (120, 100, 0)),
        make_prompt(20, 1, (90, 60, 1)),
    ],
}


def sam2_config():
    from transformers import Sam2HieraDetConfig, Sam2VideoConfig, Sam2VisionConfig

    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        global_attention_blocks=[3],
        image_size=[SIDE, SIDE],
    )
    vision = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=[128, 64, 32, 16])
    return Sam2VideoConfig(vision_config=vision, memory_attention_num_layers=2)


def edgetam_config():
    config = _random_config("edgetam-hf")
    config.perceiver_resampler_num_latents = config.perceiver_resampler_num_latents_2d = 16
    config.memory_attention_rope_k_sizes = [4, 4]
    return config


@pytest.fixture(scope="module", params=[sam2_config, edgetam_config], ids=["sam2", "edgetam"])
def model(request):
    """Build a small network, with weights so large that each input counts."""
    torch.manual_seed(0)
    model = build_random(with_input_size(request.param(), SIDE)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
        model.memory_temporal_positional_encoding.normal_(std=0.5)
        model.temporal_positional_encoding_projection_layer.weight *= 5
    bias_presence(model)
    return model


@pytest.fixture(scope="module")
def network(model):
    return TransformersNetwork(model, torch.float32)


@pytest.fixture(scope="module")
def frames():
    """Make 24 frames of a moving square."""
    ground = np.random.default_rng(0).integers(0, 255, (*SIZE_WH[::-1], 3), np.uint8)
    frames = []
    for index in range(24):
        image = ground.copy()
        image[20 + index : 50 + index, 30 + 3 * index : 60 + 3 * index] = (200, 30, 30)
        frames.append(Frame("clip", index, Fraction(index, 25), image))
    return frames


def package_logits(model, frames, prompts, reverse=False):
    """Compute the session's logits by frame and object, with each prompt given on its frame."""
    processor = transformers.Sam2VideoProcessor(
        image_processor=transformers.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}),
        video_processor=transformers.Sam2VideoVideoProcessor(size={"height": SIDE, "width": SIDE}),
        target_size=SIDE,
    )
    video = [frame.image for frame in frames]
    session = processor.init_video_session(video=video)
    logits = {}
    for index in range(23, -1, -1) if reverse else range(24):
        on_frame = [each for each in prompts if each.frame == index]
        if on_frame and session.obj_ids:
            model(session, frame_idx=index, reverse=reverse)
        if on_frame:
            give_prompts(processor, session, on_frame)
        outputs = model(session, frame_idx=index, reverse=reverse)
        logits[index] = dict(zip(outputs.object_ids, outputs.pred_masks[:, 0].clone(), strict=True))
    return logits


def give_prompts(processor, session, prompts):
    """Give all prompts of one frame, which are of the same kind."""
    ids = [each.object_id for each in prompts]
    inputs = {}
    if prompts[0].mask is not None:
        inputs["input_masks"] = [each.mask for each in prompts]
    if prompts[0].box is not None:
        inputs["input_boxes"] = [[list(each.box) for each in prompts]]
    if len(prompts[0].points_xy):
        inputs["input_points"] = [[each.points_xy.tolist() for each in prompts]]
        inputs["input_labels"] = [[each.point_labels.tolist() for each in prompts]]
    processor.add_inputs_to_inference_session(session, prompts[0].frame, ids, **inputs)


def our_logits(network, frames, prompts, batch=1):
    """Compute our logits by frame and object."""
    streaming = StreamingPredictor(network, 16, batch)
    return {frame.index: predict_logits(streaming, frame, prompts) for frame in frames}


def predict_logits(streaming, frame, prompts):
    on_frame = [each for each in prompts if each.frame == frame.index]
    return {
        object_id: prediction.logits[0, 0]
        for object_id, prediction in streaming.predict(frame, on_frame).items()
    }


def max_difference(one, other):
    """Compute the largest difference between logits by frame and object."""
    assert {frame: set(detections) for frame, detections in one.items()} == {
        frame: set(detections) for frame, detections in other.items()
    }
    return max(
        float((one[frame][object_id] - other[frame][object_id]).abs().max())
        for frame in one
        for object_id in one[frame]
    )


@pytest.mark.parametrize("prompts", FLOWS.values(), ids=FLOWS)
def test_the_logits_equal_those_of_the_session(model, network, frames, prompts):
    expected_logits = package_logits(model, frames, prompts)
    shares = [float((logits > 0).float().mean()) for logits in expected_logits[23].values()]
    assert all(0.001 < share < 0.999 for share in shares)
    assert max_difference(our_logits(network, frames, prompts, batch=8), expected_logits) < 1e-4


def test_backward_logits_equal_those_of_the_session(model, network, frames):
    prompts = [make_prompt(23, 1, (100, 60, 1)), make_prompt(12, 1, (60, 40, 1))]
    expected_logits = package_logits(model, frames, prompts, reverse=True)
    assert max_difference(our_logits(network, frames[::-1], prompts), expected_logits) < 1e-4


def test_later_objects_change_no_bit_of_the_first(network, frames):
    others = [
        make_prompt(index, object_id, (10 * object_id, 50, 1))
        for object_id, index in ((2, 0), (3, 4), (4, 9))
    ]
    alone, with_others = (
        our_logits(network, frames, [FIRST]),
        our_logits(network, frames, [FIRST, *others]),
    )
    assert all(torch.equal(with_others[index][1], alone[index][1]) for index in alone)


def test_memory_stays_flat_and_a_restored_session_gives_the_same_logits(network, frames):
    prompts = [FIRST, make_prompt(2, 2, (100, 60, 1)), make_prompt(15, 2, (10, 10, 0))]
    expected = our_logits(network, frames, prompts)
    first, second = StreamingPredictor(network, 16, 1), StreamingPredictor(network, 16, 1)
    for frame in frames[:20]:
        predict_logits(first, frame, prompts)
    assert len(first.state()["features"]) == 2 * 7
    assert len(first.state()["pointers"]) == 2 * 16
    second.restore(first.state())
    for frame in frames[20:]:
        again = predict_logits(second, frame, prompts)
        assert all(
            torch.equal(again[object_id], expected[frame.index][object_id]) for object_id in (1, 2)
        )


def test_detections_have_boxes_and_scores(network, frames):
    detections = StreamingPredictor(network, 16, 1).step(frames[0], FLOWS["three objects"])
    assert detections.tracker_id.tolist() == [1, 2, 7]
    assert detections.mask.shape == (3, 120, 160) and detections.mask.dtype == bool
    assert ((detections.confidence > 0) & (detections.confidence <= 1)).all()


OFFLINE_PROGRAM = """
    import socket, sys
    class Cut(socket.socket):
        def __init__(self, *args, **kwargs):
            raise OSError("offline")
    socket.socket = Cut
    socket.create_connection = socket.getaddrinfo = lambda *args, **kwargs: Cut()
    from annotate.propagators.sam2 import EdgeTamPropagator
    import numpy as np
    from fractions import Fraction
    from annotate.items.records import Frame, Prompt
    frame = Frame("clip", 0, Fraction(0), np.zeros((60, 80, 3), np.uint8))
    for folder in sys.argv[1:]:
        session = EdgeTamPropagator(folder, device="cpu").begin([])
        session.step(frame, [Prompt(0, 1, np.array([[40.0, 30.0]]), np.array([1]))])
        print("tracked", len(session.state()["pointers"]))
"""


def test_edgetam_loads_offline(tmp_path):
    """Both names of the backbone are tested; timm would download the weights of the second."""
    folders = []
    for backbone in ("repvit_m1", "repvit_m1.dist_in1k"):
        config = with_input_size(edgetam_config(), SIDE)
        config.vision_config.backbone_config.architecture = backbone
        build_random(config).save_pretrained(tmp_path / backbone)
        folders.append(str(tmp_path / backbone))
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(OFFLINE_PROGRAM), *folders]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.stdout == "tracked 1\n" * 2, done.stderr


def test_a_saved_network_is_loaded(tmp_path, model, network, frames):
    model.save_pretrained(tmp_path)
    loaded = sam2.TransformersPropagator(str(tmp_path), device="cpu").begin([])
    prediction = loaded.predict(frames[0], [FIRST])[1]
    # loaded weights lie elsewhere in memory, and some CPUs then add up in another order
    expected = our_logits(network, frames[:1], [FIRST])[0][1]
    torch.testing.assert_close(prediction.logits[0, 0], expected, rtol=0, atol=1e-6)


def test_the_true_edgetam_runs_at_half_size(frames):
    session = sam2.EdgeTamPropagator(device="cpu", size=256, random_weights=5).begin([])
    again = sam2.EdgeTamPropagator(device="cpu", size=256, random_weights=5).begin([])
    for frame in frames[:3]:
        given = [FIRST] if frame.index == 0 else []
        assert session.step(frame, given).tracker_id.tolist() == [1]
        again.step(frame, given)
    # two networks lie elsewhere in memory: sums of float32 in another order, as above
    for name, array in session.state().items():
        np.testing.assert_allclose(array, again.state()[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "model, cause",
    [
        ("edgetam-hf", MissingWeights),
        ("edgetam-xl", UnknownName),
        (".", WeightsError),
    ],
)
def test_missing_and_unknown_weights_are_errors(model, cause):
    with pytest.raises(cause):
        sam2.EdgeTamPropagator(model).begin([])


def test_random_weights_need_a_known_architecture():
    with pytest.raises(UnknownName, match="sam2.1-tiny-hf"):
        sam2.TransformersPropagator("sam2.1-tiny", random_weights=0).begin([])


def test_a_damaged_folder_is_one_line(tmp_path, model):
    model.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    for content in (b"hello\n", b"", whole[: len(whole) // 2]):
        weights.write_bytes(content)
        with pytest.raises(WeightsError, match="is not a network of Sam2Video.*; give") as refusal:
            sam2.EdgeTamPropagator(str(tmp_path)).begin([])
        assert str(tmp_path) in str(refusal.value) and len(str(refusal.value)) < 500


def test_weights_of_another_network_are_not_filled_with_random_numbers(tmp_path, model):
    model.save_pretrained(tmp_path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match="most weights of the network are not in its file"):
        sam2.EdgeTamPropagator(str(tmp_path)).begin([])


@pytest.mark.parametrize("correction", [(120, 100, 0), (40, 30, 0)], ids=["outside", "on it"])
def test_a_frame_with_only_an_outside_point_corrects(network, frames, correction):
    plain = our_logits(network, frames, [FIRST])
    corrected = our_logits(network, frames, [FIRST, make_prompt(9, 1, correction)])
    assert all(torch.equal(corrected[index][1], plain[index][1]) for index in range(9))
    for index in (9, 10):  # the frame itself, and one that reads its memory
        assert not torch.equal(corrected[index][1], plain[index][1])
    # it is corrected from its memories: the same point on an object that starts there differs
    alone = our_logits(network, frames, [make_prompt(9, 1, correction)])
    assert not torch.equal(corrected[9][1], alone[9][1])

"""The engines on `transformers` against its own session, on small networks that know nothing."""

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
pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own

SIZE_WH = (160, 120)
SIDE = 64


def prompt(frame, of, *points, **given):
    """A prompt by points (x, y, label)."""
    table = np.array(points, float).reshape(-1, 3)
    return Prompt(frame, of, table[:, :2], table[:, 2].astype(int), **given)


BLOB = np.zeros(SIZE_WH[::-1], bool)
BLOB[20:50, 30:60] = True
FIRST = prompt(0, 1, (40, 30, 1))
FLOWS = {
    "one object": [FIRST],
    "three objects": [FIRST, prompt(0, 2, (100, 60, 1)), prompt(0, 7, (80, 100, 1))],
    "several points": [prompt(0, 1, (40, 30, 1), (50, 40, 1), (10, 100, 0))],
    "a box": [prompt(0, 1, box=(30.0, 20.0, 60.0, 50.0))],
    "a mask": [prompt(0, 1, mask=BLOB)],
    "a correction": [FIRST, prompt(9, 1, (70, 40, 1))],
    "a negative correction": [FIRST, prompt(9, 1, (120, 100, 0)), prompt(20, 1, (90, 60, 1))],
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
    """A small network, its weights strong enough for every input to count."""
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
    """24 frames of a square that moves."""
    ground = np.random.default_rng(0).integers(0, 255, (*SIZE_WH[::-1], 3), np.uint8)
    frames = []
    for index in range(24):
        image = ground.copy()
        image[20 + index : 50 + index, 30 + 3 * index : 60 + 3 * index] = (200, 30, 30)
        frames.append(Frame("clip", index, Fraction(index, 25), image))
    return frames


def stock(model, frames, prompts, reverse=False):
    """The session's logits by frame and object: propagate up to a prompt, give it, go on."""
    processor = transformers.Sam2VideoProcessor(
        image_processor=transformers.Sam2ImageProcessor(size={"height": SIDE, "width": SIDE}),
        video_processor=transformers.Sam2VideoVideoProcessor(size={"height": SIDE, "width": SIDE}),
        target_size=SIDE,
    )
    video = [frame.image for frame in frames]
    session = processor.init_video_session(video=video)
    logits = {}
    for index in range(23, -1, -1) if reverse else range(24):
        given = [prompt for prompt in prompts if prompt.frame == index]
        if given and session.obj_ids:
            model(session, frame_idx=index, reverse=reverse)
        if given:
            give(processor, session, given)
        found = model(session, frame_idx=index, reverse=reverse)
        logits[index] = dict(zip(found.object_ids, found.pred_masks[:, 0].clone(), strict=True))
    return logits


def give(processor, session, prompts):
    """All prompts of one frame, of one kind."""
    ids = [prompt.object_id for prompt in prompts]
    given = {}
    if prompts[0].mask is not None:
        given["input_masks"] = [prompt.mask for prompt in prompts]
    if prompts[0].box is not None:
        given["input_boxes"] = [[list(prompt.box) for prompt in prompts]]
    if len(prompts[0].points_xy):
        given["input_points"] = [[prompt.points_xy.tolist() for prompt in prompts]]
        given["input_labels"] = [[prompt.point_labels.tolist() for prompt in prompts]]
    processor.add_inputs_to_inference_session(session, prompts[0].frame, ids, **given)


def ours(network, frames, prompts, batch=1):
    """Our logits by frame and object."""
    follower = StreamingPredictor(network, 16, batch)
    return {frame.index: look(follower, frame, prompts) for frame in frames}


def look(follower, frame, prompts):
    given = [prompt for prompt in prompts if prompt.frame == frame.index]
    return {of: sight.logits[0, 0] for of, sight in follower.predict(frame, given).items()}


def furthest(one, other):
    """The largest difference between logits by frame and object."""
    assert {frame: set(seen) for frame, seen in one.items()} == {
        frame: set(seen) for frame, seen in other.items()
    }
    return max(
        float((one[frame][of] - other[frame][of]).abs().max()) for frame in one for of in one[frame]
    )


@pytest.mark.parametrize("prompts", FLOWS.values(), ids=FLOWS)
def test_the_logits_are_the_sessions(model, network, frames, prompts):
    theirs = stock(model, frames, prompts)
    shown = [float((logits > 0).float().mean()) for logits in theirs[23].values()]
    assert all(0.001 < share < 0.999 for share in shown)
    assert furthest(ours(network, frames, prompts, batch=8), theirs) < 1e-4


def test_backwards_too(model, network, frames):
    prompts = [prompt(23, 1, (100, 60, 1)), prompt(12, 1, (60, 40, 1))]
    theirs = stock(model, frames, prompts, reverse=True)
    assert furthest(ours(network, frames[::-1], prompts), theirs) < 1e-4


def test_objects_that_come_later_change_no_bit_of_the_first(network, frames):
    others = [prompt(index, of, (10 * of, 50, 1)) for of, index in ((2, 0), (3, 4), (4, 9))]
    alone, among = ours(network, frames, [FIRST]), ours(network, frames, [FIRST, *others])
    assert all(torch.equal(among[index][1], alone[index][1]) for index in alone)


def test_memory_stays_flat_and_a_pass_goes_on_exactly(network, frames):
    prompts = [FIRST, prompt(2, 2, (100, 60, 1)), prompt(15, 2, (10, 10, 0))]
    whole = ours(network, frames, prompts)
    first, second = StreamingPredictor(network, 16, 1), StreamingPredictor(network, 16, 1)
    for frame in frames[:20]:
        look(first, frame, prompts)
    assert len(first.state()["features"]) == 2 * 7
    assert len(first.state()["pointers"]) == 2 * 16
    second.restore(first.state())
    for frame in frames[20:]:
        again = look(second, frame, prompts)
        assert all(torch.equal(again[of], whole[frame.index][of]) for of in (1, 2))


def test_what_is_seen_is_boxed_and_scored(network, frames):
    seen = StreamingPredictor(network, 16, 1).step(frames[0], FLOWS["three objects"])
    assert seen.tracker_id.tolist() == [1, 2, 7]
    assert seen.mask.shape == (3, 120, 160) and seen.mask.dtype == bool
    assert ((seen.confidence > 0) & (seen.confidence <= 1)).all()


UNPLUGGED = """
    import socket, sys
    class Cut(socket.socket):
        def __init__(self, *args, **kwargs):
            raise OSError("the network is cut")
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
        print("followed", len(session.state()["pointers"]))
"""


def test_edgetam_loads_with_the_network_cut(tmp_path):
    """By both names of its backbone: with the name of weights timm would download them."""
    folders = []
    for backbone in ("repvit_m1", "repvit_m1.dist_in1k"):
        config = with_input_size(edgetam_config(), SIDE)
        config.vision_config.backbone_config.architecture = backbone
        build_random(config).save_pretrained(tmp_path / backbone)
        folders.append(str(tmp_path / backbone))
    program = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(UNPLUGGED), *folders]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.stdout == "followed 1\n" * 2, done.stderr


def test_a_saved_network_is_the_one_that_is_loaded(tmp_path, model, network, frames):
    model.save_pretrained(tmp_path)
    loaded = sam2.TransformersPropagator(str(tmp_path), device="cpu").begin([])
    sight = loaded.predict(frames[0], [FIRST])[1]
    # loaded weights lie elsewhere in memory, and some CPUs then add up in another order
    expected = ours(network, frames[:1], [FIRST])[0][1]
    torch.testing.assert_close(sight.logits[0, 0], expected, rtol=0, atol=1e-6)


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
def test_what_is_not_there_is_said(model, cause):
    with pytest.raises(cause):
        sam2.EdgeTamPropagator(model).begin([])


def test_random_weights_are_for_architectures_that_are_known():
    with pytest.raises(UnknownName, match="sam2.1-tiny-hf"):
        sam2.TransformersPropagator("sam2.1-tiny", random_weights=0).begin([])

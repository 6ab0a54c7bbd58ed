"""The engine `sam2`, compared with the predictor of the package, on small random networks."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from annotate.errors import AnnotateError, MissingWeights, UnknownName, WeightsError
from annotate.items.records import Frame, Prompt
from annotate.propagators import sam2
from annotate.sam2 import official
from annotate.sam2.official import Sam2Network
from annotate.sam2.session import StreamingPredictor

torch = pytest.importorskip("torch")
pytest.importorskip("sam2")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the package

SIZE_WH = (160, 120)
SMALL = [
    "++model.image_size=64",
    "++model.image_encoder.trunk.embed_dim=16",
    "++model.image_encoder.trunk.stages=[1,1,2,1]",
    "++model.image_encoder.trunk.global_att_blocks=[3]",
    "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
    "++model.memory_attention.num_layers=2",
]
STOCK = ["++model.add_all_frames_to_correct_as_cond=true"]
CONFIG = official.CONFIGS["sam2.1-tiny"]


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
    "a negative point": [make_prompt(0, 1, (40, 30, 1), (100, 100, 0))],
    "a box": [make_prompt(0, 1, box=(30.0, 20.0, 60.0, 50.0))],
    "a box and a point": [make_prompt(0, 1, (40, 30, 1), box=(30.0, 20.0, 60.0, 50.0))],
    "a mask": [make_prompt(0, 1, mask=BLOB)],
    "a correction": [FIRST, make_prompt(9, 1, (70, 40, 1))],
    "a negative correction": [
        FIRST,
        make_prompt(9, 1, (120, 100, 0)),
        make_prompt(20, 1, (90, 60, 1)),
    ],
    "a mask later": [FIRST, make_prompt(5, 1, mask=BLOB)],
    "another object later": [FIRST, make_prompt(6, 2, (100, 60, 1))],
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Make 24 pictures of a moving square, as a folder and as frames."""
    folder = tmp_path_factory.mktemp("clip")
    ground = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)
    frames = []
    for index in range(24):
        image = np.array(Image.fromarray(ground).resize(SIZE_WH))
        image[20 + index : 50 + index, 30 + 3 * index : 60 + 3 * index] = (200, 30, 30)
        path = folder / f"{index:05d}.jpg"
        Image.fromarray(image).save(path, quality=95)
        picture = np.array(Image.open(path))
        frames.append(Frame("clip", index, Fraction(index, 25), picture))
    return folder, frames


@pytest.fixture(scope="module")
def predictor():
    """Build a small predictor of the package, with weights so large that each input counts."""
    return stock_predictor(SMALL + STOCK)


def stock_predictor(overrides, checkpoint=None):
    from sam2.build_sam import build_sam2_video_predictor

    torch.manual_seed(0)
    predictor = build_sam2_video_predictor(
        CONFIG, checkpoint, "cpu", hydra_overrides_extra=overrides
    )
    if checkpoint is None:
        enlarge_weights(predictor)
    return predictor


def enlarge_weights(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
        model.maskmem_tpos_enc *= 20
        model.obj_ptr_tpos_proj.weight *= 5
    official.bias_presence(model)


@pytest.fixture(scope="module")
def network(predictor):
    return Sam2Network(predictor, torch.float32)


def package_logits(predictor, folder, prompts, reverse=False, last=23):
    """Compute the predictor's logits by frame and object, with each prompt given on its frame.

    The folder needs 16 frames or more: for a shorter clip the predictor scales the positions of
    object pointers by the number of frames, which a streaming engine does not know.
    """
    state = predictor.init_state(str(folder))
    last = 0 if reverse else last
    stops = sorted({each.frame for each in prompts}, reverse=reverse)
    logits = {}
    for stop, until in pairwise([*stops, last]):
        for each in prompts:
            if each.frame == stop:
                give_prompt(predictor, state, each)
        results = predictor.propagate_in_video(state, stop, abs(until - stop), reverse=reverse)
        for frame, ids, outputs in results:
            logits[frame] = dict(zip(ids, outputs[:, 0].clone(), strict=True))
    return logits


def give_prompt(predictor, state, item):
    if item.mask is not None:
        predictor.add_new_mask(state, item.frame, item.object_id, item.mask)
        return
    predictor.add_new_points_or_box(
        state,
        item.frame,
        item.object_id,
        points=item.points_xy.astype(np.float32) if len(item.points_xy) else None,
        labels=item.point_labels.astype(np.int32) if len(item.points_xy) else None,
        box=item.box,
    )


def our_logits(network, frames, prompts, batch=1, lost_after=16):
    """Compute our logits by frame and object, at the size of the picture."""
    streaming = StreamingPredictor(network, lost_after, batch)
    return {frame.index: predict_logits(streaming, frame, prompts) for frame in frames}


def predict_logits(streaming, frame, prompts):
    on_frame = [each for each in prompts if each.frame == frame.index]
    return {
        object_id: resize_logits(prediction, frame)
        for object_id, prediction in streaming.predict(frame, on_frame).items()
    }


def resize_logits(prediction, frame):
    shape = frame.image.shape[:2]
    return torch.nn.functional.interpolate(prediction.logits, size=shape, mode="bilinear")[0, 0]


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
def test_the_logits_equal_those_of_the_predictor(predictor, network, clip, prompts):
    folder, frames = clip
    expected = package_logits(predictor, folder, prompts)
    masks = [float((logits > 0).float().mean()) for logits in expected[23].values()]
    assert all(0.01 < mask < 0.99 for mask in masks)
    assert max_difference(our_logits(network, frames, prompts, batch=8), expected) < 1e-4


def test_backward_logits_equal_those_of_the_predictor(predictor, network, clip):
    folder, frames = clip
    prompts = [make_prompt(23, 1, (100, 60, 1)), make_prompt(12, 1, (60, 40, 1))]
    expected = package_logits(predictor, folder, prompts, reverse=True)
    assert max_difference(our_logits(network, frames[::-1], prompts), expected) < 1e-4


def test_later_objects_change_no_bit_of_the_first(network, clip):
    _, frames = clip
    others = [
        make_prompt(index, object_id, (10 * object_id, 50, 1))
        for object_id, index in ((2, 0), (3, 4), (4, 4), (5, 9))
    ]
    alone, with_others = (
        our_logits(network, frames, [FIRST]),
        our_logits(network, frames, [FIRST, *others]),
    )
    assert all(torch.equal(with_others[index][1], alone[index][1]) for index in alone)


def test_a_batch_of_objects_gives_the_same_as_single_objects(network, clip):
    _, frames = clip
    prompts = [
        make_prompt(object_id // 2, object_id, (25 * object_id, 20 * object_id, 1))
        for object_id in range(1, 6)
    ]
    one_by_one, together = (
        our_logits(network, frames, prompts, 1),
        our_logits(network, frames, prompts, 4),
    )
    assert max_difference(one_by_one, together) < 1e-4


@pytest.mark.parametrize("direction", [1, -1], ids=["forward", "backward"])
def test_memory_stays_flat(network, clip, direction):
    _, frames = clip
    streaming = StreamingPredictor(network, 16, 8)
    sizes = []
    for index in range(40):
        frame = replace(frames[index % 24], index=100 + direction * index)
        first = (
            [make_prompt(0, object_id, (20 * object_id, 40, 1)) for object_id in (1, 2, 3)]
            if index == 0
            else []
        )
        streaming.step(frame, first)
        sizes.append(sum(array.nbytes for array in streaming.state().values()))
    assert sizes[5] < sizes[20] == sizes[39]
    assert len(streaming.state()["features"]) == 3 * 7  # the prompted frame and the last six
    assert len(streaming.state()["pointers"]) == 3 * 16


def test_a_restored_session_gives_the_same_logits(network, clip):
    _, frames = clip
    prompts = [FIRST, make_prompt(2, 2, (100, 60, 1)), make_prompt(15, 2, (10, 10, 0))]
    whole = our_logits(network, frames, prompts)
    first, second = StreamingPredictor(network, 16, 1), StreamingPredictor(network, 16, 1)
    for frame in frames[:11]:
        predict_logits(first, frame, prompts)
    second.restore(first.state())
    for frame in frames[11:]:
        again = predict_logits(second, frame, prompts)
        assert all(
            torch.equal(again[object_id], whole[frame.index][object_id]) for object_id in (1, 2)
        )


@pytest.fixture
def hide_objects(predictor):
    """Make the network predict that no object is present, and undo it."""
    bias = predictor.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    shift = 1000.0

    def hide(hidden):
        with torch.no_grad():
            bias.add_(-shift if hidden else shift)

    yield hide
    with torch.no_grad():
        if bias < -shift / 2:
            bias.add_(shift)


def test_an_absent_object_has_no_mask_and_keeps_its_memory(network, clip, hide_objects):
    _, frames = clip
    streaming = StreamingPredictor(network, 4, 1)
    for frame in frames[:10]:
        detections = streaming.step(frame, [FIRST] if frame.index == 0 else [])
        assert detections.tracker_id.tolist() == [1]
    before = streaming.state()
    hide_objects(True)
    for frame in frames[10:20]:
        assert len(streaming.step(frame, [])) == 0
    lost = streaming.state()
    assert lost["clocks"].tolist() == [[1, before["clocks"][0][1], 10]]
    np.testing.assert_array_equal(lost["features"], before["features"])
    np.testing.assert_array_equal(lost["pointers"], before["pointers"])
    hide_objects(False)
    assert streaming.step(frames[20], []).tracker_id.tolist() == [1]
    assert streaming.state()["clocks"].tolist() == [[1, 11, 0]]


def test_a_prompt_restarts_a_lost_object(network, clip, hide_objects):
    _, frames = clip
    streaming = StreamingPredictor(network, 2, 1)
    streaming.step(frames[0], [FIRST])
    hide_objects(True)
    for frame in frames[1:6]:
        streaming.step(frame, [])
    streaming.step(frames[6], [make_prompt(6, 1, mask=BLOB)])
    assert streaming.state()["clocks"].tolist() == [[1, 2, 0]]


def test_detections_have_boxes_and_scores(network, clip):
    _, frames = clip
    detections = StreamingPredictor(network, 16, 1).step(frames[0], FLOWS["three objects"])
    assert detections.tracker_id.tolist() == [1, 2, 7]
    assert detections.mask.shape == (3, 120, 160) and detections.mask.dtype == bool
    assert ((detections.confidence > 0) & (detections.confidence < 1)).all()
    for (left, top, right, bottom), mask in zip(
        detections.xyxy.astype(int), detections.mask, strict=True
    ):
        assert mask[top:bottom, left:right].sum() == mask.sum() > 0


def test_a_prompted_mask_is_kept(network, clip):
    _, frames = clip
    detections = StreamingPredictor(network, 16, 1).step(frames[0], [make_prompt(0, 1, mask=BLOB)])
    overlap = (detections.mask[0] & BLOB).sum() / (detections.mask[0] | BLOB).sum()
    assert overlap > 0.8 and detections.confidence[0] > 0.99


def test_the_network_is_not_used_before_the_first_prompt(clip):
    assert len(StreamingPredictor(None, 16, 1).step(clip[1][0], [])) == 0


@pytest.mark.parametrize("name", official.CONFIGS)
def test_the_architecture_is_read_from_the_checkpoint(tmp_path, name):
    from hydra import compose
    from hydra.utils import instantiate

    model = compose(config_name=official.CONFIGS[name]).model
    trunk = instantiate(model.image_encoder.trunk).state_dict()
    weights = {f"image_encoder.trunk.{key}": value for key, value in trunk.items()}
    weights |= {"no_obj_embed_spatial": torch.zeros(1)} if "no_obj_embed_spatial" in model else {}
    weights_of_shape = {key: torch.zeros(1).expand(value.shape) for key, value in weights.items()}
    torch.save({"model": weights_of_shape}, tmp_path / "mine.pt")
    assert official._config_of_checkpoint(tmp_path / "mine.pt") == official.CONFIGS[name]


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    """Save a checkpoint of the true tiny architecture, with random weights."""
    path = tmp_path_factory.mktemp("tiny") / "mine.pt"
    torch.manual_seed(3)
    model = official.build(CONFIG, None, "cpu")
    enlarge_weights(model)
    torch.save({"model": model.state_dict()}, path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("size, count", [(256, 9), (None, 2)], ids=["256 px", "true size"])
def test_the_true_tiny_model_of_a_checkpoint_equals_the_predictor(
    size, count, tiny_checkpoint, clip
):
    """Nine frames at 256 px (the memory is full from the eighth on), two at the true size."""
    folder, frames = clip
    overrides = STOCK if size is None else [*STOCK, f"++model.image_size={size}"]
    predictor = stock_predictor(overrides, tiny_checkpoint)
    expected = package_logits(predictor, folder, [FIRST], last=count - 1)
    streaming = sam2.Sam2Propagator(tiny_checkpoint, device="cpu", size=size).begin([])
    outputs = {frame.index: predict_logits(streaming, frame, [FIRST]) for frame in frames[:count]}
    assert max_difference(outputs, expected) < 1e-4


def test_the_same_seed_gives_the_same_random_weights(clip):
    states = []
    for seed in (5, 5, 6):
        official.load.cache_clear()
        session = sam2.Sam2Propagator(device="cpu", size=128, random_weights=seed).begin([])
        assert session.step(clip[1][0], [FIRST]).tracker_id.tolist() == [1]
        states.append(session.state()["pointers"])
    assert (states[0] == states[1]).all() and (states[0] != states[2]).any()


@pytest.mark.parametrize(
    "options, cause, message",
    [
        ({"model": "sam2.1-tiny"}, MissingWeights, "annotate models fetch sam2.1-tiny"),
        ({"model": "sam2.1-tinny"}, UnknownName, "sam2.1-tiny"),
        ({"model": "text.pt"}, WeightsError, "text.pt is not a checkpoint of SAM 2"),
        ({"size": 500}, AnnotateError, "size must be a multiple of 32"),
        ({"batch": 0}, AnnotateError, "batch must be 1 or more"),
        ({"device": "abacus", "random_weights": 0}, AnnotateError, "cannot use the device"),
        ({"dtype": "float23", "random_weights": 0}, UnknownName, "float32"),
    ],
)
def test_invalid_options_are_errors(tmp_path, options, cause, message):
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(cause, match=message):
        sam2.Sam2Propagator(**options).begin([])


def test_a_checkpoint_of_another_network_or_a_cut_one_is_one_line(tmp_path):
    torch.save({"model": {"a": Fraction(1, 2)}}, tmp_path / "objects.pt")
    torch.save({"model": {"a": torch.zeros(3)}}, tmp_path / "other.pt")
    torch.save({"state": {"a": torch.zeros(3)}}, tmp_path / "state.pt")
    whole = (tmp_path / "other.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("objects.pt", "other.pt", "state.pt", "cut.pt", "."):
        with pytest.raises(
            WeightsError, match="is not a checkpoint of SAM 2: .*; give a"
        ) as refusal:
            sam2.Sam2Propagator(str(tmp_path / name)).begin([])
        message = str(refusal.value)
        assert str(tmp_path / name) in message and len(message) < 500
        assert "weights_only" not in message and "x1b" not in message and "mmap" not in message


def test_a_checkpoint_that_does_not_fit_its_configuration_is_one_line(tmp_path):
    torch.save({"model": {"a": torch.zeros(3)}}, tmp_path / "other.pt")
    with pytest.raises(WeightsError, match="other.pt cannot be loaded into .*; give a") as refusal:
        official.build(CONFIG, tmp_path / "other.pt", "cpu", SMALL)
    assert "\\n" not in str(refusal.value) and len(str(refusal.value)) < 600


@pytest.mark.parametrize("correction", [(120, 100, 0), (40, 30, 0)], ids=["outside", "on it"])
def test_a_frame_with_only_an_outside_point_corrects(network, clip, correction):
    _, frames = clip
    plain = our_logits(network, frames, [FIRST])
    corrected = our_logits(network, frames, [FIRST, make_prompt(9, 1, correction)])
    assert all(torch.equal(corrected[index][1], plain[index][1]) for index in range(9))
    for index in (9, 10, 23):  # the frame itself, and those that read its memory
        assert not torch.equal(corrected[index][1], plain[index][1])
    # it is corrected from its memories: the same point on an object that starts there differs
    alone = our_logits(network, frames, [make_prompt(9, 1, correction)])
    assert not torch.equal(corrected[9][1], alone[9][1])

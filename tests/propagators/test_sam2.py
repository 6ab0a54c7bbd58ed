"""The `sam2` engine against the package's own predictor, on small networks that know nothing."""

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
pytestmark = pytest.mark.filterwarnings("ignore")  # the package's, of what it could not build

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
    "a negative point": [prompt(0, 1, (40, 30, 1), (100, 100, 0))],
    "a box": [prompt(0, 1, box=(30.0, 20.0, 60.0, 50.0))],
    "a box and a point": [prompt(0, 1, (40, 30, 1), box=(30.0, 20.0, 60.0, 50.0))],
    "a mask": [prompt(0, 1, mask=BLOB)],
    "a correction": [FIRST, prompt(9, 1, (70, 40, 1))],
    "a negative correction": [FIRST, prompt(9, 1, (120, 100, 0)), prompt(20, 1, (90, 60, 1))],
    "a mask later": [FIRST, prompt(5, 1, mask=BLOB)],
    "another object later": [FIRST, prompt(6, 2, (100, 60, 1))],
}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """24 pictures of a square that moves: a folder, and the same as frames."""
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
    """The package's predictor, small, its weights strong enough for every input to count."""
    return stock_predictor(SMALL + STOCK)


def stock_predictor(overrides, checkpoint=None):
    from sam2.build_sam import build_sam2_video_predictor

    torch.manual_seed(0)
    predictor = build_sam2_video_predictor(
        CONFIG, checkpoint, "cpu", hydra_overrides_extra=overrides
    )
    if checkpoint is None:
        stir(predictor)
    return predictor


def stir(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * torch.randn_like(parameter)
        model.maskmem_tpos_enc *= 20
        model.obj_ptr_tpos_proj.weight *= 5
    official.bias_presence(model)


@pytest.fixture(scope="module")
def network(predictor):
    return Sam2Network(predictor, torch.float32)


def stock(predictor, folder, prompts, reverse=False, last=23):
    """The predictor's logits by frame and object: propagate up to a prompt, give it, go on.

    The folder needs 16 frames or more: of a shorter clip the predictor spreads the positions of
    object pointers over fewer frames, which no engine that streams can know.
    """
    state = predictor.init_state(str(folder))
    last = 0 if reverse else last
    stops = sorted({prompt.frame for prompt in prompts}, reverse=reverse)
    logits = {}
    for stop, until in pairwise([*stops, last]):
        for prompt in prompts:
            if prompt.frame == stop:
                give(predictor, state, prompt)
        way = predictor.propagate_in_video(state, stop, abs(until - stop), reverse=reverse)
        for frame, ids, found in way:
            logits[frame] = dict(zip(ids, found[:, 0].clone(), strict=True))
    return logits


def give(predictor, state, prompt):
    if prompt.mask is not None:
        predictor.add_new_mask(state, prompt.frame, prompt.object_id, prompt.mask)
        return
    predictor.add_new_points_or_box(
        state,
        prompt.frame,
        prompt.object_id,
        points=prompt.points_xy.astype(np.float32) if len(prompt.points_xy) else None,
        labels=prompt.point_labels.astype(np.int32) if len(prompt.points_xy) else None,
        box=prompt.box,
    )


def ours(network, frames, prompts, batch=1, patience=16):
    """Our logits by frame and object, at the size of the picture."""
    follower = StreamingPredictor(network, patience, batch)
    return {frame.index: look(follower, frame, prompts) for frame in frames}


def look(follower, frame, prompts):
    given = [prompt for prompt in prompts if prompt.frame == frame.index]
    return {of: enlarged(sight, frame) for of, sight in follower.predict(frame, given).items()}


def enlarged(sight, frame):
    shape = frame.image.shape[:2]
    return torch.nn.functional.interpolate(sight.logits, size=shape, mode="bilinear")[0, 0]


def furthest(one, other):
    """The largest difference between logits by frame and object."""
    assert {frame: set(seen) for frame, seen in one.items()} == {
        frame: set(seen) for frame, seen in other.items()
    }
    return max(
        float((one[frame][of] - other[frame][of]).abs().max()) for frame in one for of in one[frame]
    )


@pytest.mark.parametrize("prompts", FLOWS.values(), ids=FLOWS)
def test_the_logits_are_the_predictors(predictor, network, clip, prompts):
    folder, frames = clip
    theirs = stock(predictor, folder, prompts)
    masks = [float((logits > 0).float().mean()) for logits in theirs[23].values()]
    assert all(0.01 < mask < 0.99 for mask in masks)
    assert furthest(ours(network, frames, prompts, batch=8), theirs) < 1e-4


def test_backwards_too(predictor, network, clip):
    folder, frames = clip
    prompts = [prompt(23, 1, (100, 60, 1)), prompt(12, 1, (60, 40, 1))]
    theirs = stock(predictor, folder, prompts, reverse=True)
    assert furthest(ours(network, frames[::-1], prompts), theirs) < 1e-4


def test_objects_that_come_later_change_no_bit_of_the_first(network, clip):
    _, frames = clip
    others = [prompt(index, of, (10 * of, 50, 1)) for of, index in ((2, 0), (3, 4), (4, 4), (5, 9))]
    alone, among = ours(network, frames, [FIRST]), ours(network, frames, [FIRST, *others])
    assert all(torch.equal(among[index][1], alone[index][1]) for index in alone)


def test_together_or_one_by_one_is_the_same(network, clip):
    _, frames = clip
    prompts = [prompt(of // 2, of, (25 * of, 20 * of, 1)) for of in range(1, 6)]
    apart, together = ours(network, frames, prompts, 1), ours(network, frames, prompts, 4)
    assert furthest(apart, together) < 1e-4


@pytest.mark.parametrize("way", [1, -1], ids=["forward", "backward"])
def test_memory_stays_flat(network, clip, way):
    _, frames = clip
    follower = StreamingPredictor(network, 16, 8)
    held = []
    for index in range(40):
        frame = replace(frames[index % 24], index=100 + way * index)
        given = [prompt(0, of, (20 * of, 40, 1)) for of in (1, 2, 3)] if index == 0 else []
        follower.step(frame, given)
        held.append(sum(array.nbytes for array in follower.state().values()))
    assert held[5] < held[20] == held[39]
    assert len(follower.state()["features"]) == 3 * 7  # the prompted frame and the last six
    assert len(follower.state()["pointers"]) == 3 * 16


def test_a_pass_goes_on_exactly_where_it_was_left(network, clip):
    _, frames = clip
    prompts = [FIRST, prompt(2, 2, (100, 60, 1)), prompt(15, 2, (10, 10, 0))]
    whole = ours(network, frames, prompts)
    first, second = StreamingPredictor(network, 16, 1), StreamingPredictor(network, 16, 1)
    for frame in frames[:11]:
        look(first, frame, prompts)
    second.restore(first.state())
    for frame in frames[11:]:
        again = look(second, frame, prompts)
        assert all(torch.equal(again[of], whole[frame.index][of]) for of in (1, 2))


@pytest.fixture
def blindfold(predictor):
    """Turn the network's eyes to where nothing is present, and back."""
    bias = predictor.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    shift = 1000.0

    def turn(blind):
        with torch.no_grad():
            bias.add_(-shift if blind else shift)

    yield turn
    with torch.no_grad():
        if bias < -shift / 2:
            bias.add_(shift)


def test_an_absent_object_has_no_mask_and_is_found_as_it_was_last_seen(network, clip, blindfold):
    _, frames = clip
    follower = StreamingPredictor(network, 4, 1)
    for frame in frames[:10]:
        seen = follower.step(frame, [FIRST] if frame.index == 0 else [])
        assert seen.tracker_id.tolist() == [1]
    known = follower.state()
    blindfold(True)
    for frame in frames[10:20]:
        assert len(follower.step(frame, [])) == 0
    lost = follower.state()
    assert lost["clocks"].tolist() == [[1, known["clocks"][0][1], 10]]
    np.testing.assert_array_equal(lost["features"], known["features"])
    np.testing.assert_array_equal(lost["pointers"], known["pointers"])
    blindfold(False)
    assert follower.step(frames[20], []).tracker_id.tolist() == [1]
    assert follower.state()["clocks"].tolist() == [[1, 11, 0]]


def test_a_prompt_finds_an_object_that_is_lost(network, clip, blindfold):
    _, frames = clip
    follower = StreamingPredictor(network, 2, 1)
    follower.step(frames[0], [FIRST])
    blindfold(True)
    for frame in frames[1:6]:
        follower.step(frame, [])
    follower.step(frames[6], [prompt(6, 1, mask=BLOB)])
    assert follower.state()["clocks"].tolist() == [[1, 2, 0]]


def test_what_is_seen_is_boxed_and_scored(network, clip):
    _, frames = clip
    seen = StreamingPredictor(network, 16, 1).step(frames[0], FLOWS["three objects"])
    assert seen.tracker_id.tolist() == [1, 2, 7]
    assert seen.mask.shape == (3, 120, 160) and seen.mask.dtype == bool
    assert ((seen.confidence > 0) & (seen.confidence < 1)).all()
    for (left, top, right, bottom), mask in zip(seen.xyxy.astype(int), seen.mask, strict=True):
        assert mask[top:bottom, left:right].sum() == mask.sum() > 0


def test_a_given_mask_is_taken_as_it_is(network, clip):
    _, frames = clip
    seen = StreamingPredictor(network, 16, 1).step(frames[0], [prompt(0, 1, mask=BLOB)])
    overlap = (seen.mask[0] & BLOB).sum() / (seen.mask[0] | BLOB).sum()
    assert overlap > 0.8 and seen.confidence[0] > 0.99


def test_nothing_is_done_before_the_first_prompt(clip):
    assert len(StreamingPredictor(None, 16, 1).step(clip[1][0], [])) == 0


@pytest.mark.parametrize("name", official.CONFIGS)
def test_a_checkpoint_says_of_which_architecture_it_is(tmp_path, name):
    from hydra import compose
    from hydra.utils import instantiate

    model = compose(config_name=official.CONFIGS[name]).model
    trunk = instantiate(model.image_encoder.trunk).state_dict()
    held = {f"image_encoder.trunk.{key}": value for key, value in trunk.items()}
    held |= {"no_obj_embed_spatial": torch.zeros(1)} if "no_obj_embed_spatial" in model else {}
    hollow = {key: torch.zeros(1).expand(value.shape) for key, value in held.items()}
    torch.save({"model": hollow}, tmp_path / "mine.pt")
    assert official._config_of_checkpoint(tmp_path / "mine.pt") == official.CONFIGS[name]


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    """A checkpoint of the true tiny architecture, with random weights."""
    path = tmp_path_factory.mktemp("tiny") / "mine.pt"
    torch.manual_seed(3)
    model = official.build(CONFIG, None, "cpu")
    stir(model)
    torch.save({"model": model.state_dict()}, path)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("size, count", [(256, 9), (None, 2)], ids=["256 px", "true size"])
def test_the_true_tiny_from_its_checkpoint_is_the_predictor(size, count, tiny_checkpoint, clip):
    """On nine frames, as from the eighth on the memory is full; at the true size on two."""
    folder, frames = clip
    overrides = STOCK if size is None else [*STOCK, f"++model.image_size={size}"]
    predictor = stock_predictor(overrides, tiny_checkpoint)
    theirs = stock(predictor, folder, [FIRST], last=count - 1)
    follower = sam2.Sam2Propagator(tiny_checkpoint, device="cpu", size=size).begin([])
    found = {frame.index: look(follower, frame, [FIRST]) for frame in frames[:count]}
    assert furthest(found, theirs) < 1e-4


def test_random_weights_are_the_same_for_the_same_seed(clip):
    states = []
    for seed in (5, 5, 6):
        official.load.cache_clear()
        session = sam2.Sam2Propagator(device="cpu", size=128, random_weights=seed).begin([])
        assert session.step(clip[1][0], [FIRST]).tracker_id.tolist() == [1]
        states.append(session.state()["pointers"])
    assert (states[0] == states[1]).all() and (states[0] != states[2]).any()


@pytest.mark.parametrize(
    "given, cause, says",
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
def test_what_cannot_be_is_said(tmp_path, given, cause, says):
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(cause, match=says):
        sam2.Sam2Propagator(**given).begin([])

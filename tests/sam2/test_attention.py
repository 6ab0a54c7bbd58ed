"""The lean memory attention, compared with that of the package `sam2`, with random weights."""

import pytest

from annotate.sam2.attention import QUERY_BATCH, LeanAttention

torch = pytest.importorskip("torch")
pytest.importorskip("sam2")

SIDE, MEMORIES, POINTERS = 32, 3, 8
POSITIONS = SIDE * SIDE


@pytest.fixture(scope="module")
def attention():
    """Build the attention of the package, with weights large enough that each input counts."""
    from hydra import compose
    from hydra.utils import instantiate

    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = compose(config_name="configs/sam2.1/sam2.1_hiera_t.yaml").model.memory_attention
        attention = instantiate(config, _recursive_=True).eval()
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return attention


@pytest.fixture
def inputs():
    """Draw features of a frame, their positions, tokens of an object, and their positions."""
    draw = torch.Generator().manual_seed(1)
    tokens = MEMORIES * POSITIONS + POINTERS
    shapes = [(POSITIONS, 1, 256), (POSITIONS, 1, 256), (tokens, 1, 64), (tokens, 1, 64)]
    return [torch.randn(shape, generator=draw) for shape in shapes]


@torch.inference_mode()
def run_lean_attention(attention, features, position, tokens, token_positions):
    lean = LeanAttention(attention)
    return lean.attend_memory(
        lean.self_attend(features, position), position, tokens, token_positions, POINTERS
    )


@torch.inference_mode()
def test_the_output_equals_that_of_the_package(attention, inputs):
    features, position, tokens, token_positions = inputs
    expected = attention(
        [features], tokens, [position], token_positions, num_obj_ptr_tokens=POINTERS
    )
    actual = run_lean_attention(attention, *inputs)
    assert actual.shape == expected.shape and POSITIONS > QUERY_BATCH
    assert float(expected.std()) > 0.5
    assert float((actual - expected).abs().max()) < 1e-4
    assert (
        float(
            (
                run_lean_attention(attention, features, position, tokens.flip(0), token_positions)
                - expected
            )
            .abs()
            .max()
        )
        > 0.1
    )


@torch.inference_mode()
def test_the_first_self_attention_serves_every_object(attention, inputs):
    features, position, tokens, token_positions = inputs
    lean = LeanAttention(attention)
    self_attended = lean.self_attend(features, position)
    for object_tokens in (tokens, tokens.flip(0), tokens):
        actual = lean.attend_memory(
            self_attended, position, object_tokens, token_positions, POINTERS
        )
    assert torch.equal(actual, run_lean_attention(attention, *inputs))

"""The lean memory attention against that of the package, with random weights."""

import pytest

from annotate.sam2.attention import QUERY_BATCH, LeanAttention

torch = pytest.importorskip("torch")
pytest.importorskip("sam2")

SIDE, MEMORIES, POINTERS = 32, 3, 8
PLACES = SIDE * SIDE


@pytest.fixture(scope="module")
def attention():
    """The package's, as its video networks have it, its weights strong enough to count."""
    from hydra import compose
    from hydra.utils import instantiate

    with torch.random.fork_rng():
        torch.manual_seed(0)
        told = compose(config_name="configs/sam2.1/sam2.1_hiera_t.yaml").model.memory_attention
        attention = instantiate(told, _recursive_=True).eval()
        with torch.no_grad():
            for parameter in attention.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
    return attention


@pytest.fixture
def seen():
    """A frame's features and their places, an object's tokens and theirs."""
    draw = torch.Generator().manual_seed(1)
    tokens = MEMORIES * PLACES + POINTERS
    shapes = [(PLACES, 1, 256), (PLACES, 1, 256), (tokens, 1, 64), (tokens, 1, 64)]
    return [torch.randn(shape, generator=draw) for shape in shapes]


@torch.inference_mode()
def lean(attention, coarse, place, tokens, places):
    made = LeanAttention(attention)
    return made.attend_memory(made.self_attend(coarse, place), place, tokens, places, POINTERS)


@torch.inference_mode()
def test_the_output_equals_that_of_the_package(attention, seen):
    coarse, place, tokens, places = seen
    theirs = attention([coarse], tokens, [place], places, num_obj_ptr_tokens=POINTERS)
    ours = lean(attention, *seen)
    assert ours.shape == theirs.shape and PLACES > QUERY_BATCH
    assert float(theirs.std()) > 0.5
    assert float((ours - theirs).abs().max()) < 1e-4
    assert (
        float((lean(attention, coarse, place, tokens.flip(0), places) - theirs).abs().max()) > 0.1
    )


@torch.inference_mode()
def test_the_first_self_attention_serves_every_object(attention, seen):
    coarse, place, tokens, places = seen
    made = LeanAttention(attention)
    begun = made.self_attend(coarse, place)
    for of in (tokens, tokens.flip(0), tokens):
        ours = made.attend_memory(begun, place, of, places, POINTERS)
    assert torch.equal(ours, lean(attention, *seen))

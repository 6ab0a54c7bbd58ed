"""Embeddings: similar frames are near, wide pictures have two squares, vectors are cached."""

from fractions import Fraction

import numpy as np
import pytest

from annotate import embeddings, files
from annotate.errors import MissingWeights, UnknownName
from annotate.items.records import Frame
from annotate.video import reader


class Counting:
    """A network of three numbers that counts the pictures that it encodes."""

    name, width = "counting", 3

    def __init__(self):
        self.encoded = 0

    def encode(self, pictures):
        self.encoded += len(pictures)
        return np.stack([picture.mean((0, 1)) + 1 for picture in pictures])


def frame(index, colour=(10, 20, 30), size_wh=(64, 48)):
    image = np.full((*size_wh[::-1], 3), colour, np.uint8)
    return Frame("dock.mp4", index, Fraction(index, 30), image)


@pytest.mark.parametrize(
    "size_wh, parts",
    [((64, 48), (0, 64, 0, 64)), ((80, 45), (0, 45, 35, 80)), ((120, 50), (0, 60, 60, 120))],
    ids=["4:3 is whole", "16:9 two squares", "wider two halves"],
)
def test_a_wide_picture_is_split_into_two_squares(size_wh, parts):
    picture = np.zeros((*size_wh[::-1], 3), np.uint8)
    picture[..., 0] = np.arange(size_wh[0])
    left, right = embeddings.split_halves(picture)
    assert (left[0, 0, 0], left[0, -1, 0] + 1) == parts[:2]
    assert (right[0, 0, 0], right[0, -1, 0] + 1) == parts[2:]


def test_the_left_square_comes_before_the_right_one():
    picture = np.zeros((45, 80, 3), np.uint8)
    picture[:, :40], picture[:, 40:] = (200, 0, 0), (0, 200, 0)
    [row] = embeddings.embed([picture], Counting())
    assert row[0] > row[1] and row[4] > row[3]
    assert np.linalg.norm(row) == pytest.approx(1)


def test_frames_of_one_shot_are_more_similar_than_frames_of_two(demo):
    frames = list(reader.frames_at(demo, [0, 4, 100, 104]))
    rows = embeddings.embed([f.image for f in frames], embeddings.load())
    similarity = rows @ rows.T
    assert rows.shape == (4, 224)
    assert min(similarity[0, 1], similarity[2, 3]) > similarity[:2, 2:].max()


def test_cached_vectors_are_not_computed_again_and_are_the_same():
    network = Counting()
    frames = [frame(n, (n, 50, 200 - n)) for n in range(40)]
    first = embeddings.VectorCache(network, "ab" * 32, 40).for_frames(frames[:30])
    assert network.encoded == 30
    again = np.stack([v for _, v in embeddings.VectorCache(network, "ab" * 32, 40).stream(frames)])
    assert network.encoded == 40
    np.testing.assert_array_equal(again[:30], first)


def test_clips_and_networks_have_caches_of_their_own():
    one, other = Counting(), Counting()
    other.name = "another"
    embeddings.VectorCache(one, "ab" * 32, 5).for_frames([frame(3)])
    embeddings.VectorCache(one, "cd" * 32, 5).for_frames([frame(3)])
    embeddings.VectorCache(other, "ab" * 32, 5).for_frames([frame(3)])
    assert (one.encoded, other.encoded) == (2, 1)


def test_a_damaged_row_is_computed_again():
    network = Counting()
    made = embeddings.VectorCache(network, "ab" * 32, 5).for_frames([frame(3)])
    [path] = (files.cache_dir() / "embeddings" / "counting").glob("*.f16")
    data = bytearray(path.read_bytes())
    data[3 * 12 + 2 : 4 * 12] = bytes(10)
    path.write_bytes(data)
    np.testing.assert_array_equal(
        embeddings.VectorCache(network, "ab" * 32, 5).for_frames([frame(3)]), made
    )
    assert network.encoded == 2


def test_a_clip_that_grew_keeps_its_rows():
    network = Counting()
    embeddings.VectorCache(network, "ab" * 32, 5).for_frames([frame(3)])
    embeddings.VectorCache(network, "ab" * 32, 50).for_frames([frame(3), frame(49)])
    assert network.encoded == 2


def test_an_unwritable_cache_folder_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "blocked").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    assert embeddings.VectorCache(Counting(), "ab" * 32, 5).for_frames([frame(3)]).shape == (1, 6)


def test_an_unknown_name_is_refused_and_missing_weights_are_named():
    pytest.importorskip("torch")
    with pytest.raises(UnknownName, match="dinov2-small"):
        embeddings.load("dinov2-smal")
    with pytest.raises(MissingWeights, match="annotate models fetch dinov2-small"):
        embeddings.load("dinov2-small")


def _save_tiny(kind, folder, transformers):
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    small |= {"num_attention_heads": 2}
    vision = {**small, "image_size": 28, "patch_size": 14}
    text = {**small, "vocab_size": 99, "max_position_embeddings": 16}
    if kind == "dinov2":
        config = transformers.Dinov2Config(**small, image_size=28, patch_size=14)
        model = transformers.Dinov2Model(config)
    elif kind == "siglip":
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = transformers.SiglipModel(config)
    else:
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
        model = transformers.CLIPModel(config)
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)


@pytest.mark.filterwarnings("ignore")  # the packages' own
@pytest.mark.parametrize("kind, width", [("dinov2", 16), ("siglip", 16), ("clip", 24)])
def test_models_of_transformers_embed_pictures(kind, width, tmp_path):
    transformers = pytest.importorskip("transformers")
    random_networks = pytest.importorskip("random_networks")
    with random_networks.seeded():
        _save_tiny(kind, tmp_path / kind, transformers)
    network = embeddings.load(str(tmp_path / kind), "cpu")
    assert network.width == width
    noise = np.random.default_rng(0).integers(0, 256, (3, 45, 80, 3), dtype=np.uint8)
    rows = embeddings.embed([*noise, noise[0]], network)
    assert rows.shape == (4, 2 * width)
    np.testing.assert_allclose(rows[0], rows[3], atol=1e-6)
    assert (rows[0] @ rows[1:3].T < 0.99999).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the packages' own
def test_xception_is_loaded_from_a_file(tmp_path):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    from random_networks import seeded

    with seeded():
        model = timm.create_model("legacy_xception", pretrained=False)
    torch.save(model.state_dict(), tmp_path / "xception.pth")
    network = embeddings.load(str(tmp_path / "xception.pth"), "cpu")
    picture = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    assert embeddings.embed([picture], network).shape == (1, 4096)


@pytest.mark.filterwarnings("ignore")  # the packages' own
def test_the_whole_efficientnet_comes_as_a_python_package(demo):
    pytest.importorskip("efficientnet_lite_pytorch")
    frames = list(reader.frames_at(demo, [0, 4, 100]))
    rows = embeddings.embed([f.image for f in frames], embeddings.load("efficientnet-lite0", "cpu"))
    assert rows.shape == (3, 2560)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]

"""What reads phrases: CLIP and MobileCLIP of random weights, from files; and what is kept."""

import numpy as np
import pytest

from annotate.detectors import yolo_open_vocabulary
from annotate.errors import MissingPackage, MissingWeights, UnknownName, WeightsError
from annotate.weights.store import add_weights, weights_path

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own
# Components are below 1; 12 layers add up to 2,048 float32 products: 12 * sqrt(2048) * 2**-24.
VECTOR_ATOL = 3.3e-5
TEXTS = ["a red square", "corner brackets of a head-up display"]


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    """CLIP with the text tower of ViT-B/32, and a small one for pictures; random weights."""
    torch = pytest.importorskip("torch")
    model = pytest.importorskip("clip.model")
    path = tmp_path_factory.mktemp("clip") / "ViT-B-32.pt"
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = model.CLIP(512, 64, 1, 64, 32, 77, 49408, 512, 8, 12)
    torch.save(network.half().state_dict(), path)
    return path


def test_clip_is_read_from_the_file_that_the_manifest_names(clip_file):
    """And gives what Ultralytics' own text model gives."""
    add_weights(clip_file, "clip-random")
    assert weights_path("clip-random") == clip_file
    found = yolo_open_vocabulary.encode_phrases("clip-random", TEXTS)
    assert found.shape == (2, 512) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)

    pytest.importorskip("ultralytics")
    from ultralytics.nn.text_model import CLIP

    theirs = CLIP(str(clip_file), "cpu")
    expected = theirs.encode_text(theirs.tokenize(TEXTS)).numpy()
    np.testing.assert_allclose(found, expected, atol=VECTOR_ATOL, rtol=0)


def test_mobileclip_is_read_from_its_torchscript(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("clip")

    class Reader(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.EmbeddingBag(49408, 512)

        def forward(self, tokens):
            return torch.nn.functional.normalize(self.words(tokens), dim=-1)

    path = tmp_path / "mobileclip_blt.ts"
    torch.jit.trace(Reader().eval(), torch.zeros(2, 77, dtype=torch.long)).save(path)
    found = yolo_open_vocabulary.encode_phrases(str(path), TEXTS)

    pytest.importorskip("ultralytics")
    from ultralytics.nn.text_model import MobileCLIPTS

    theirs = MobileCLIPTS("cpu", weight=str(path))
    expected = theirs.encode_text(theirs.tokenize(TEXTS)).numpy()
    np.testing.assert_allclose(found, expected, atol=VECTOR_ATOL, rtol=0)


def vectors(texts):
    return np.random.default_rng(len(texts)).normal(size=(len(texts), 8)).astype(np.float32)


def test_a_vector_is_made_once_and_a_damaged_one_again(tmp_path, monkeypatch):
    path = tmp_path / "mine.ts"
    path.write_bytes(b"an encoder")
    asked = []

    def run(_, texts):
        asked.extend(texts)
        return vectors(texts)

    monkeypatch.setattr(yolo_open_vocabulary, "_run_encoder", run)
    first = yolo_open_vocabulary.encode_phrases(str(path), ["a", "b", "a"])
    np.testing.assert_array_equal(first[0], first[2])
    again = yolo_open_vocabulary.encode_phrases(str(path), ["b", "c"])
    assert asked == ["a", "b", "c"]
    np.testing.assert_array_equal(again[0], first[1])
    for kept in yolo_open_vocabulary.vector_cache_dir().glob("*/*.npy"):
        kept.write_bytes(kept.read_bytes()[:-9])
    yolo_open_vocabulary.encode_phrases(str(path), ["b"])
    assert asked == ["a", "b", "c", "b"]
    for kept in yolo_open_vocabulary.vector_cache_dir().glob("*/*.npy"):
        np.save(kept, np.full(8, np.nan, np.float32))
    yolo_open_vocabulary.encode_phrases(str(path), ["b"])
    assert asked == ["a", "b", "c", "b", "b"]
    path.write_bytes(b"another encoder")
    yolo_open_vocabulary.encode_phrases(str(path), ["b"])
    assert asked == ["a", "b", "c", "b", "b", "b"]
    assert not list(yolo_open_vocabulary.vector_cache_dir().glob("**/*.part"))


def test_where_nothing_can_be_kept_it_is_made_all_the_same(tmp_path, monkeypatch):
    path = tmp_path / "mine.ts"
    path.write_bytes(b"an encoder")
    yolo_open_vocabulary.vector_cache_dir().parent.mkdir(parents=True)
    yolo_open_vocabulary.vector_cache_dir().write_bytes(b"a file where the folder would be")
    monkeypatch.setattr(yolo_open_vocabulary, "_run_encoder", lambda _, texts: vectors(texts))
    assert yolo_open_vocabulary.encode_phrases(str(path), ["a"]).shape == (1, 8)


def test_missing_and_unknown_encoders():
    with pytest.raises(MissingWeights, match="annotate models fetch clip-vit-b-32"):
        yolo_open_vocabulary.encode_phrases("clip-vit-b-32", ["a"])
    with pytest.raises(UnknownName, match="no model 'clip-vit-b-33'; did you mean"):
        yolo_open_vocabulary.encode_phrases("clip-vit-b-33", ["a"])


def test_a_file_that_is_no_encoder(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("clip")
    for name in ("mine.ts", "mine.pt"):
        (tmp_path / name).write_bytes(b"no weights")
        with pytest.raises(WeightsError, match=f"{name} is not a text encoder"):
            yolo_open_vocabulary.encode_phrases(str(tmp_path / name), ["a"])


def test_the_clipboards_clip_is_not_taken_for_it(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "clip.py").write_text("def copy(text): ...\n")
    (tmp_path / "mine.pt").write_bytes(b"no weights")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.delitem(__import__("sys").modules, "clip", raising=False)
    with pytest.raises(MissingPackage, match="another one, for the clipboard: pip uninstall clip"):
        yolo_open_vocabulary.encode_phrases(str(tmp_path / "mine.pt"), ["a"])
    monkeypatch.delitem(__import__("sys").modules, "clip", raising=False)

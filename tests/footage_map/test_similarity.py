from fractions import Fraction

import numpy as np
import pytest
from map_fixtures import BLUE, GREEN, RED, gather_clips, write_clip
from PIL import Image

from annotate import embeddings
from annotate.dataset.folder import Dataset, create_dataset
from annotate.errors import UnknownName, VideoError
from annotate.footage_map import similarity
from annotate.items.records import Header, Item


def test_clips_with_the_same_shot_are_the_most_similar(map_clips, tmp_path):
    query = write_clip(tmp_path / "query.mp4", [RED])
    vectors = gather_clips([query, *map_clips])
    for method in similarity.SIMILARITY_METHODS:
        best, *_, last = similarity.similar_clips(vectors, "query.mp4", 3, method)
        assert best.clip in ("one.mp4", "two.mp4")
        assert best.similarity > 0.9 > last.similarity
        assert last.clip == "three.mp4"
    by_clip = {each.clip: each for each in similarity.similar_clips(vectors, "query.mp4", 3, "dtw")}
    assert (by_clip["one.mp4"].start_seconds, by_clip["one.mp4"].stop_seconds) < (0.5, 1.2)
    assert by_clip["two.mp4"].start_seconds == pytest.approx(1.2, abs=0.2)
    with pytest.raises(UnknownName, match="dtw"):
        similarity.similar_clips(vectors, "query.mp4", 3, "warp")


def test_dtw_agrees_with_the_textbook_algorithm():
    rng = np.random.default_rng(2)
    query, other = (embeddings.normalize_rows(rng.normal(size=(n, 5))) for n in (6, 11))
    cost = 1 - query @ other.T
    total = np.full(cost.shape, np.inf)
    total[0] = cost[0]
    for i in range(1, 6):
        for j in range(11):
            costs = [total[i - 1, j], *([total[i - 1, j - 1], total[i, j - 1]] if j else [])]
            total[i, j] = cost[i, j] + min(costs)
    value, start, stop = similarity.dtw_alignment(query, other)
    assert stop - 1 == total[-1].argmin() and 0 <= start < stop
    assert value == pytest.approx(1 - total[-1].min() / max(6, stop - start))
    again = similarity.dtw_alignment(other[3:8], other)
    assert again == (pytest.approx(1), 3, 8)


def test_of_equal_clips_one_is_chosen(map_clips, tmp_path):
    twins = [write_clip(tmp_path / f"twin{n}.mp4", [RED, GREEN]) for n in range(3)]
    chosen = similarity.diverse_clips(gather_clips([*twins, *map_clips]), 3)
    names = [name for name, _ in chosen]
    assert sum(name.startswith(("twin", "one")) for name in names) == 1
    assert np.isnan(chosen[0][1]) and chosen[1][1] >= chosen[2][1] > 0


def test_the_commands_print_tables(map_clips, annotate):
    code, out, err = annotate("similar", map_clips[0], *map_clips, "--every", 2, "--max-clips", 1)
    assert code == 0, err
    assert out.splitlines()[1].startswith("two.mp4\t")
    code, out, _ = annotate("unlike", *map_clips, "--every", 2, "--max-clips", 2)
    assert code == 0 and len(out.splitlines()) == 3


def imported(path, video, values, first=0):
    """A dataset as an import makes it: its clips have no fingerprint."""
    data = Dataset(path, ("cat",))
    with create_dataset(data, Header("import")) as writer:
        for frame, value in enumerate(values, start=first):
            image = np.full((48, 64, 3), value, np.uint8)
            Image.fromarray(image).save(writer.images / f"{frame}.png")
            writer.add(f"{frame}.png", Item(video, frame, Fraction(frame), 64, 48, ()))
    return path


def test_the_query_may_be_a_dataset(tmp_path):
    query = imported(tmp_path / "q", "q", [RED, GREEN])
    far = imported(tmp_path / "far", "far", [GREEN, RED], first=90_000_000)  # a sparse clip
    best, last = similarity.find_similar(query, [far, imported(tmp_path / "b", "blue", [BLUE] * 2)])
    assert (best.clip, last.clip) == ("far", "blue")


def test_a_query_of_several_clips_is_refused(tmp_path):
    data = Dataset(tmp_path / "d", ("cat",))
    with create_dataset(data, Header("import")) as writer:
        for name in ("one", "two"):
            Image.new("RGB", (64, 48)).save(writer.images / f"{name}.png")
            writer.add(f"{name}.png", Item(name, 0, Fraction(0), 64, 48, ()))
    with pytest.raises(VideoError, match=r"a dataset of 2 clips \(one, two\); give one clip"):
        similarity.find_similar(data.path, [data.path])

import numpy as np
import pytest
from map_fixtures import GREEN, RED, gather_clips, write_clip

from annotate import embeddings
from annotate.errors import UnknownName
from annotate.footage_map import similarity


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

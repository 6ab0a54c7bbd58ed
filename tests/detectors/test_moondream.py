"""Points on things that words name, from Moondream to `annotate propagate`."""

import pytest
from vlm_server import serving, truth

from annotate.detectors import moondream
from annotate.errors import AnswerError
from annotate.items import journal
from annotate.prompts import PromptScope, read_points

SCOPE = PromptScope((800, 600), 140)


def test_asked_for_there_and_then_they_start_an_object_each(demo, tmp_path, annotate):
    with serving() as model:
        words = ("--set", f"endpoint={model.url}", "-o", "points.csv")
        code, out, err = annotate(
            "propose-points", demo, "--phrase", "Demon", "--phrase", "designator", *words
        )
        assert code == 0 and out.strip() == "points.csv" and "2 points" in err
        assert annotate("propose-points", demo, "--phrase", "Demon", *words)[0] == 1, (
            "it is there already"
        )
        assert (
            annotate("propose-points", demo, "--phrase", "Demon", *words, "--force", "--frame", 30)[
                0
            ]
            == 0
        )
    table = read_points("points.csv", SCOPE)
    assert table["frame_id"].tolist() == [30] and table["class"].tolist() == ["Demon"]
    code, _, err = annotate("propagate", demo, "-p", "points.csv", "-o", "m.jsonl", "--stop", 32)
    assert code == 0, err
    [first, *_] = [item for item in journal.read("m.jsonl") if item.objects]
    assert first.frame == 30 and first.objects[0].label == "Demon"


def test_a_vocabulary_says_what_and_of_which_class(demo, tmp_path, annotate):
    (tmp_path / "my.v1.toml").write_text(
        '[classes.mark]\nmoondream = ["designator"]\n'
        '[classes.monster]\nmoondream = ["Demon", "HellKnight", "Demon "]\n'
    )
    with serving() as model:
        told = ("-v", "my.v1.toml", "--set", f"endpoint={model.url}", "--frame", 0, "--frame", 30)
        code, _, err = annotate("propose-points", demo, *told, "-o", "points.csv")
        assert code == 0 and "each point has an object_id of its own" in err
        assert "each point" not in annotate("propose-points", demo, *told[:-2], "-o", "q.csv")[2]
    table = read_points("points.csv", SCOPE)
    assert set(table["class"]) == {"mark", "monster"}
    assert table["object_id"].tolist() == list(range(1, len(table) + 1))
    [(x1, y1, x2, y2)] = truth(0, "designator")
    x, y = table[table["class"] == "mark"][["x", "y"]].iloc[0]
    assert x == pytest.approx((x1 + x2) / 2, abs=0.06) and y == pytest.approx(
        (y1 + y2) / 2, abs=0.06
    )


def test_two_phrases_for_one_thing_are_one_point(demo):
    words = moondream.make_vocabulary(["ShotgunGuy", "person"], "guard")
    with serving() as model:
        table = moondream.points_table(demo, words, [0], {"endpoint": model.url})
        assert len(model.requests) == 2
    assert len(table) == len(truth(0, "ShotgunGuy")) == 1


def test_a_class_for_all_that_is_asked():
    assert moondream.make_vocabulary(["a", "b"], "mech").classes == {
        "mech": {"moondream": ["a", "b"]}
    }
    assert moondream.make_vocabulary(["a", "b"]).labels == ("a", "b")


def test_nothing_seen_is_said_and_nothing_written(demo, tmp_path, annotate):
    with serving() as model:
        words = ("--phrase", "unicorn", "--set", f"endpoint={model.url}")
        code, _, err = annotate("propose-points", demo, *words, "-o", "p.csv")
        with pytest.raises(AnswerError, match="sees no 'unicorn' on frame 0, 30"):
            moondream.points_table(
                demo, moondream.make_vocabulary(["unicorn"]), [30, 0], {"endpoint": model.url}
            )
    assert code == 1 and "sees no 'unicorn' on frame 0" in err and not (tmp_path / "p.csv").exists()
    assert annotate("propose-points", demo, "-o", "p.csv")[0] == 2

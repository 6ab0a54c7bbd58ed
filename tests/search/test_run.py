import csv
import json

import numpy as np
import pytest
from PIL import Image
from sample_data import SHARED
from search_fixtures import EPISODES, TARGET_FRAMES, find_command
from search_server import rare_frames, serving

from annotate.dataset.folder import load_dataset
from annotate.errors import AnswerError, UnknownName
from annotate.items import journal
from annotate.search import results
from annotate.search.run import SearchOptions, estimate_search, find_shots
from annotate.video import reader

pytest.importorskip("scenedetect")

PRICES = ("--set", "price_in=10", "--set", "price_out=10")


def truth_options(search_clips):
    paths = [search_clips / f"{name}.gt.json" for name in ("ep1", "ep2")]
    return [word for path in paths for word in ("--truth", path)]


def test_every_shot_is_found_and_written(search_clips, search_model, annotate, tmp_path):
    command = find_command(search_clips, search_model, *truth_options(search_clips))
    code, _, err = annotate(*command)
    assert code == 0, err
    assert "recall 1.000 (2 of 2 shots), precision 1.000" in err
    assert "8 shots" in err and "questions" in err
    first, second = results.read_hits(tmp_path / "found")
    assert (first.video, first.start, first.stop) == ("ep1.mp4", 30, 60)
    assert second.video == "ep2.mp4" and abs(second.start - 76) <= 4 and second.stop == 90
    items = journal.read(tmp_path / "found" / "items.jsonl")
    with_objects = {(item.video, item.frame) for item in items if item.objects}
    assert len(with_objects) == 30 + second.stop - second.start
    assert any(not item.objects for item in items)
    [png, _] = sorted((tmp_path / "found" / "frames").iterdir())
    frame = reader.seek(search_clips / "ep1.mp4", first.best_frame)
    np.testing.assert_array_equal(np.asarray(Image.open(png)), frame.image)
    code, _, err = annotate("build", "found/items.jsonl", "-o", "dataset", "--rate", 2)
    assert code == 0, err
    assert load_dataset(tmp_path / "dataset").classes == ("the robot",)


@pytest.mark.parametrize("first", [3, 9, 17])
def test_wrong_and_faulty_answers_do_not_change_the_result(first, search_clips, annotate, tmp_path):
    lies = tuple(range(first, 1000, 20))
    with serving(lies=lies, faults=["skip", "429", "prose"]) as model:
        for name, target_frames in TARGET_FRAMES.items():
            model.learn(search_clips / name, target_frames)
        # one worker, so that the same answers are wrong in each run
        more = ("--workers", 1, *truth_options(search_clips))
        code, _, err = annotate(*find_command(search_clips, model, *more))
    assert code == 0, err
    assert model.wrong >= 1 and not model.faults
    assert "recall 1.000" in err


def test_cached_questions_are_not_asked_again(search_clips, search_model, annotate, tmp_path):
    command = find_command(search_clips, search_model)
    code, out, _ = annotate(*command)
    assert code == 0
    before = len(search_model.requests)
    code, again, err = annotate(*command)
    assert code == 0 and "was complete already; --force makes it again" in err
    assert again == out and "questions" not in err
    code, _, err = annotate(*command, "--force")
    assert code == 0 and len(search_model.requests) == before
    assert "0 questions" in err
    code, _, err = annotate(*command, "--frames-per-shot", 1)
    assert code == 1 and "looks: 2 in the file, 1 now" in err


def test_forecast_asks_nothing_and_a_search_continues_after_its_budget(
    search_clips, search_model, annotate, tmp_path
):
    command = find_command(search_clips, search_model, *PRICES)
    code, _, err = annotate(*command, "--forecast")
    assert code == 0 and "19 pictures in 2 questions" in err and not search_model.requests
    code, _, err = annotate(*command, "--budget", 0.036, "--batch-size", 2)
    assert code == 1 and "shots are open" in err
    spent = sum((350 + 85 * 3) + 22 * 2 for _ in search_model.requests)
    assert 0 < spent * 10 / 1e6 <= 0.036
    code, _, err = annotate(*command, "--batch-size", 2, *truth_options(search_clips))
    assert code == 0 and "recall 1.000" in err


def test_few_pictures_go_to_the_most_similar_shots(search_clips, search_model, annotate):
    more = ("--max-pictures", 12, *truth_options(search_clips))
    code, _, err = annotate(*find_command(search_clips, search_model, *more))
    assert code == 1 and "no more may be" in err
    assert "recall 1.000" in err
    parts = [
        part["type"]
        for request in search_model.requests
        for part in request["messages"][0]["content"]
    ]
    assert parts.count("image_url") - len(search_model.requests) <= 12


def test_shots_are_ranked_by_similarity_without_a_model(search_clips, annotate, tmp_path):
    clips = [search_clips / name for name in EPISODES]
    reference = search_clips / "reference.png"
    options = ["--reference", reference, "--name", "the robot", "-o", "found", "--max-shots", 2]
    code, _, err = annotate("find", *clips, *options, *truth_options(search_clips))
    assert code == 0, err
    assert "recall 1.000 (2 of 2 shots), precision 1.000" in err
    assert all(0 < hit.confidence <= 1 for hit in results.read_hits(tmp_path / "found"))


def test_python_call_gives_the_hits_and_writes_only_with_output(search_clips, tmp_path):
    clips = [search_clips / name for name in EPISODES]
    references, options = [str(search_clips / "reference.png")], SearchOptions(max_shots=2)
    found = find_shots(clips, references, "the robot", options)
    assert not (tmp_path / "found").exists()
    assert found.usage is None and found.results.open_count == 6
    written = find_shots(clips, references, "the robot", options, output=tmp_path / "found")
    rounded = [pytest.approx(hit.confidence, abs=1e-4) for hit in found.hits]
    assert [hit.confidence for hit in written.hits] == rounded
    assert [(h.name, h.best_frame, h.seconds) for h in found.hits] == [
        (h.name, h.best_frame, h.seconds) for h in results.read_hits(tmp_path / "found")
    ]


def test_python_call_asks_a_model(search_clips, search_model):
    settings = {"url": search_model.url, "model": "knows", "wait_seconds": "0.01"}
    options = SearchOptions("vlm", vlm_settings=settings)
    clips = [search_clips / name for name in EPISODES]
    estimates = []
    found = find_shots(
        clips,
        [search_clips / "reference.png"],
        "the robot",
        options,
        on_estimate=estimates.append,
    )
    assert [hit.video for hit in found.hits] == ["ep1.mp4", "ep2.mp4"]
    assert found.usage.questions == len(search_model.requests)
    [estimate] = estimates
    assert (estimate.frame_count, estimate.shot_count, estimate.picture_count) == (240, 8, 19)


def test_unusable_arguments_are_errors(search_clips, search_model, annotate, tmp_path):
    options = ["--reference", search_clips / "ep1.mp4", "--name", "x", "-o", "x"]
    code, _, err = annotate("find", search_clips / "ep1.mp4", *options)
    assert code == 1 and "not an image that can be read" in err
    command = find_command(search_clips, search_model)
    code, _, err = annotate(*[{"vlm": "yolo"}.get(word, word) for word in command])
    assert code == 1 and "There are: local, vlm" in err
    (tmp_path / "bad.json").write_text("{}")
    code, _, err = annotate(*command, "--truth", tmp_path / "bad.json")
    assert code == 1 and "rare_frames" in err
    with pytest.raises(UnknownName, match="search method"):
        find_shots([], [], "x", SearchOptions("yolo"))
    with pytest.raises(AnswerError, match="`references` is empty"):
        find_shots([], [], "x")
    with pytest.raises(AnswerError, match="nothing to estimate"):
        estimate_search([], [search_clips / "reference.png"], "x", SearchOptions())


def verdicts(folder):
    with (folder / "shots.csv").open(encoding="utf-8", newline="") as file:
        return [row["verdict"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("fault", ["prose", "empty", "null", "limit"])
def test_no_usable_answer_leaves_every_shot_open(
    fault, search_clips, search_model, annotate, tmp_path
):
    search_model.always = fault
    command = find_command(search_clips, search_model, *PRICES)
    code, _, err = annotate(*command)
    assert code == 1 and "8 of 8 shots are open" in err and "pictures got no answer" in err
    assert fault != "limit" or "--set max_tokens=8192" in err
    assert fault != "prose" or "I would rather not" in err
    assert len(search_model.requests) <= 4, "the forecast says 2 questions"
    assert verdicts(tmp_path / "found") == ["open"] * 8
    assert not list(journal.read(tmp_path / "found" / "items.jsonl"))
    search_model.always = ""
    code, _, err = annotate(*command, *truth_options(search_clips))
    assert code == 0 and "recall 1.000" in err
    assert sorted(verdicts(tmp_path / "found")) == ["not shown"] * 6 + ["shown"] * 2


def test_shots_whose_pictures_are_refused_stay_open(search_clips, search_model, annotate, tmp_path):
    search_model.refuses_target = True
    code, _, err = annotate(*find_command(search_clips, search_model))
    assert code == 1 and "of 8 shots are open" in err
    folder = tmp_path / "found"
    table = dict(zip(range(8), verdicts(folder), strict=True))
    assert table[1] == table[6] == "open" and "shown" not in table.values()
    assert "not shown" in table.values()
    negatives = {(item.video, item.frame) for item in journal.read(folder / "items.jsonl")}
    assert not negatives & {(v, n) for v, frames in TARGET_FRAMES.items() for n in frames}


def test_a_server_that_fails_half_way_leaves_the_rest_open(
    search_clips, search_model, annotate, tmp_path
):
    more = ("--batch-size", 2, "--workers", 1, "--set", "tries=1", "--set", "cache=no")
    command = find_command(search_clips, search_model, *more)
    search_model.always = "500"
    code, _, err = annotate(*command)
    assert code == 1 and "HTTP 500" in err and not (tmp_path / "found").exists()
    search_model.faults, search_model.always = ["", "", ""], "500"
    code, _, err = annotate(*command)
    assert code == 1 and "HTTP 500" in err and "of 8 shots are open" in err
    assert verdicts(tmp_path / "found").count("not shown") == 2


def test_decisions_are_kept_when_open_shots_are_asked_about(
    search_clips, search_model, annotate, tmp_path
):
    command = find_command(search_clips, search_model)
    folder = tmp_path / "found"
    assert annotate(*command, "--max-pictures", 12)[0] == 1
    [hit, *_] = results.read_hits(folder)
    results.record_decision(folder, hit.name, False)
    assert annotate(*command)[0] == 0
    assert results.read_decisions(folder) == {hit.name: False}
    assert annotate(*command, "--force")[0] == 0 and not results.read_decisions(folder)


def test_a_budget_of_nothing_asks_nothing(search_clips, search_model, annotate):
    for budget in (0, 0.0001):
        command = find_command(search_clips, search_model, *PRICES, "--budget", budget)
        code, _, err = annotate(*command)
        assert code == 1 and "8 of 8 shots are open" in err and not search_model.requests
        assert "0 pictures" in err


def test_other_settings_are_another_search(search_clips, search_model, annotate):
    command = find_command(search_clips, search_model)
    assert annotate(*command)[0] == 0
    code, _, err = annotate(*command, "--set", "side=256", "--batch-size", 4)
    assert code == 1 and "side: 512 in the file, 256 now" in err and "batch_size: 10" in err


@pytest.mark.shared
@pytest.mark.slow
def test_rare_character_of_the_show(annotate, tmp_path):
    folder = SHARED / "gameplay" / "dev"
    clips = [folder / f"show_ep{n}.mp4" for n in (1, 2, 3)]
    frame = reader.seek(clips[0], 119)
    reference = tmp_path / "reference.png"
    Image.fromarray(frame.image[:117, 242:340]).save(reference)
    options = ["--reference", reference, "--name", "robot", "-o", "found", "-d", "vlm"]
    truth = [word for clip in clips for word in ("--truth", clip.with_suffix(".gt.json"))]
    with serving(errors=0.05) as model:
        for clip in clips:
            model.learn(clip, rare_frames(json.loads(clip.with_suffix(".gt.json").read_text())))
        settings = ["--set", f"url={model.url}", "--set", "model=knows"]
        code, _, err = annotate("find", *clips, *options, *settings, *truth)
    assert code == 0, err
    assert "recall 1.000 (3 of 3 shots), precision 1.000" in err
    assert len(model.requests) <= 1134 / 40

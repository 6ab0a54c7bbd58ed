import av
import pytest
from PIL import Image

from annotate.errors import OutputError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The demo, run once."""
    from annotate.api import demo as demo_run

    out = tmp_path_factory.mktemp("demo") / "out"
    return out, dict(demo_run.run_demo(out)), demo_run


@pytest.mark.slow
def test_it_makes_all_that_it_says(made):
    out, measured, _ = made
    assert float(measured["designators: AP50"]) >= 0.9
    followed = [float(value) for name, value in measured.items() if "mean IoU" in name]
    assert len(followed) == 3 and max(followed) > 0.6
    with av.open(str(out / "overlay.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 140
    for name in ("sheet.png", "prompts.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300
    before = float(measured["boxes before training: AP50"])
    after = float(measured["boxes of the trained model: AP50"])
    assert after > before
    assert (out / "before-after/table.md").is_file() and (out / "model.mp4").is_file()
    assert (out / "coco/annotations").is_dir() and (out / "yolo/data.yaml").is_file()
    assert (out / "yolo-seg/data.yaml").is_file() and len(
        list((out / "dataset/images").iterdir())
    ) == 28


@pytest.mark.slow
def test_again_it_gives_the_same(made):
    out, measured, demo = made
    before = (out / "masks.jsonl").read_bytes()
    assert dict(demo.run_demo(out)) == measured
    assert (out / "masks.jsonl").read_bytes() == before


def test_it_leaves_a_strange_folder_alone(tmp_path):
    from annotate.api import demo as demo_run

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists already and is no demo"):
        demo_run.run_demo(tmp_path / "mine")

import av
import pytest
from PIL import Image

from annotate.api import demo
from annotate.errors import OutputError


@pytest.mark.slow
def test_it_makes_all_that_it_says(finished_demo):
    out, measured = finished_demo
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
def test_again_it_gives_the_same(finished_demo):
    out, measured = finished_demo
    files = ("boxes.jsonl", "masks.jsonl", "model.jsonl", "model/weights.onnx")
    before = [(out / name).read_bytes() for name in files]
    assert dict(demo.run_demo(out)) == measured
    assert [(out / name).read_bytes() for name in files] == before


def test_it_leaves_a_strange_folder_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists already and is no demo"):
        demo.run_demo(tmp_path / "mine")

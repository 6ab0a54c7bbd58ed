import json
from pathlib import Path

import pytest

OUTPUTS = {  # notebook -> files that it writes
    "fine_tune": ["fine-tune/model/lineage.json", "fine-tune/found.png"],
    "first_dataset": ["first-dataset/masks.png", "first-dataset/coco", "first-dataset/yolo-seg"],
    "footage_map": ["footage-map/map/index.html", "footage-map/map/poster.jpg"],
    "words_and_detectors": [
        "words-and-detectors/phrases.csv",
        "words-and-detectors/compare/table.md",
    ],
}
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_saved_notebooks_have_no_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") for cell in cells)
    assert all(cell.get("execution_count") is None for cell in cells)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Jupyter's own warnings are not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": tmp_path}}).execute()
    for name in OUTPUTS[path.stem]:
        assert (tmp_path / name).exists(), name

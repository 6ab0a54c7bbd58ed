import pytest

from annotate.errors import ItemsError
from annotate.search import results


def test_half_written_decision_is_ignored(search_folder):
    first, second = results.read_hits(search_folder)
    results.record_decision(search_folder, first.name, True)
    with (search_folder / "decisions.jsonl").open("a") as file:
        file.write('{"hit": "' + second.name)
    assert results.read_decisions(search_folder) == {first.name: True}
    results.record_decision(search_folder, second.name, False)
    assert results.read_decisions(search_folder) == {first.name: True, second.name: False}
    with pytest.raises(ItemsError, match="no hit"):
        results.record_decision(search_folder, "ep9.mp4#0", True)

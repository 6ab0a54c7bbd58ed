"""Tables of points, CSV files and DataFrames, that are changed at random.

A table is taken whole, a row for each row, or refused; every point is a finite number of pixels
inside the picture, on a frame of the clip, of a class that is known.
"""

import csv
import io

import pandas as pd
from hypothesis import assume, given
from hypothesis import strategies as st
from mutations import fuzz, mutated, mutated_text, outcome, text_bytes

from annotate.items.points import GONE
from annotate.prompts import PromptScope, prompt_table, read_points

ROWS = [
    {"frame_id": 0, "object_id": 1, "x": 10.5, "y": 20, "label": 1, "class": "mech"},
    {"frame_id": 0, "object_id": 2, "x": 40, "y": 30, "label": 1, "class": ""},
    {"frame_id": 5, "object_id": 1, "x": 12, "y": 21, "label": 0, "class": ""},
]
PLAIN = """\
frame_id,object_id,x,y,label,class
0,1,10.5,20,1,mech
0,2,40,30,1,
5,1,12,21,0,mech
7,2,,,-1,
"""
PAIRS = 'frame_id;object_id;point_xy;label\n0;1;"(10.5, 20)";1\n5;1;[12 21];0\n'
SCOPES = st.builds(
    PromptScope,
    st.just((64, 48)),
    st.sampled_from([9, None]),
    st.sampled_from([("mech", "plate"), None]),
)


def _read(source, scope):
    points = read_points(source, scope)
    return points, prompt_table(points, scope=scope)


def _check(points, table, row_count, scope):
    placed, gone = points[points["label"] >= 0], points[points["label"] == GONE]
    assert len(placed) + len(gone) == row_count
    assert len(placed) == sum(len(prompt.points_xy) for prompt in table.prompts)
    assert len(gone) == sum(prompt.gone for prompt in table.prompts)
    width, height = scope.size_wh
    assert placed["x"].between(0, width, inclusive="left").all()
    assert placed["y"].between(0, height, inclusive="left").all()
    assert points["frame_id"].between(0, (scope.frame_count or 2**63) - 1).all()
    assert set(points["class"]) <= set(scope.labels or points["class"]) | {"object"}


@fuzz
@given(st.sampled_from([PLAIN, PAIRS]).flatmap(mutated_text), SCOPES)
def test_csv_is_taken_whole_or_refused(tmp_path_factory, text, scope):
    source = tmp_path_factory.getbasetemp() / "points.csv"
    source.write_bytes(text_bytes(text))
    result = outcome(lambda: _read(source, scope))
    if result is not None:
        separator = next((each for each in ",;\t" if each in text.splitlines()[0]), ",")
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        _check(*result, sum(any(map(str.strip, row)) for row in rows) - 1, scope)


@fuzz
@given(mutated(ROWS), SCOPES)
def test_data_frames_are_taken_whole_or_refused(rows, scope):
    try:
        table = pd.DataFrame(rows)
    except Exception:  # these rows are no table: nothing of ours reads them
        assume(False)
    result = outcome(lambda: _read(table, scope))
    if result is not None:
        _check(*result, len(table), scope)

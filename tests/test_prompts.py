import numpy as np
import pandas as pd
import pytest

from annotate import prompts, vocabulary
from annotate.errors import PromptError, UnknownName
from annotate.prompts import PromptScope

SCOPE = PromptScope((64, 48), 100, ("mech", "raine"))
HEAD = "frame_id,object_id,x,y,label,class\n"


def points(tmp_path, text, scope=SCOPE):
    path = tmp_path / "points.csv"
    path.write_text(text)
    return prompts.read_points(path, scope)


def test_xy_columns_and_pairs_give_the_same_table(tmp_path):
    flat = points(tmp_path, HEAD + "0,3,12,34.5,1,mech\n7,3,1,2,0,mech\n")
    paired = points(
        tmp_path,
        'frame_id,object_id,point_xy,label,class\n0,3,"(12, 34.5)",1,mech\n7,3,[1 2],0,mech\n',
    )
    pd.testing.assert_frame_equal(flat, paired)
    table = pd.DataFrame(
        {
            "frame_id": [0, 7],
            "object_id": 3,
            "point_xy": [(12, 34.5), np.array([1, 2])],
            "label": [1, 0],
            "class": "mech",
        }
    )
    pd.testing.assert_frame_equal(prompts.read_points(table, SCOPE), flat)


def test_a_missing_class_means_the_only_class(tmp_path):
    text = "frame_id,object_id,x,y,label\n0,3,12,34,1\n"
    assert points(tmp_path, text, PromptScope((64, 48), labels=("mech",)))["class"].tolist() == [
        "mech"
    ]
    assert points(tmp_path, text)["class"].tolist() == ["object"]


BAD_ROWS = {
    "row 1, column x: expected a point inside the picture of 64x48, got '64'": "0,3,64,1,1,mech",
    "row 1, column y: expected a point inside the picture of 64x48, got '-1'": "0,3,1,-1,1,mech",
    "row 1, column x: expected a number of pixels, got 'nan'": "0,3,nan,1,1,mech",
    "row 1, column y: expected a number of pixels, got ''": "0,3,1,,1,mech",
    "row 1, column frame_id: expected a frame of the clip, 0 to 99": "100,3,1,1,1,mech",
    "row 1, column frame_id: expected a whole number from 0, got '1.5'": "1.5,3,1,1,1,mech",
    "row 1, column object_id: expected a whole number from 0, got '-3'": "1,-3,1,1,1,mech",
    r"row 1, column label: expected 1 \(inside the object\), 0": "1,3,1,1,5,mech",
    r"row 1, column label: expected 1 .* got '-2'": "1,3,,,-2,mech",
    r"row 1, column x: expected no value in a row with label -1 .* got '0'": "1,3,0,0,-1,mech",
    "row 3: the same point as row 2": "1,3,1,1,1,mech\n4,3,,,-1,mech\n4,3,,,-1,mech",
    "row 1, column class: no class 'mehc'; did you mean 'mech'": "1,3,1,1,1,mehc",
    "row 2: the same point as row 1": "1,3,1,1,1,mech\n1,3,1.0,1,0,mech",
}


@pytest.mark.parametrize("message", BAD_ROWS, ids=BAD_ROWS)
def test_a_bad_row_is_named(tmp_path, message):
    with pytest.raises(PromptError, match=f"points.csv, {message}"):
        points(tmp_path, HEAD + BAD_ROWS[message] + "\n")


def test_a_bad_pair_is_named(tmp_path):
    with pytest.raises(
        PromptError, match=r"row 1, column point_xy: expected a pair .* got '\(1\)'"
    ):
        points(tmp_path, "frame_id,object_id,point_xy,label\n0,1,(1),1\n")


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(PromptError, match="no column 'label'.*it has frame_id, object_id, x, y"):
        points(tmp_path, "frame_id,object_id,x,y\n0,1,1,1\n")


@pytest.mark.parametrize("text", ["", 'a,b\n"1,2\n3'], ids=["empty", "unclosed quote"])
def test_a_file_that_is_not_a_table_is_refused(tmp_path, text):
    with pytest.raises(PromptError, match=r"points.csv: (not a CSV table|no column)"):
        points(tmp_path, text)


def test_a_missing_file_of_points_is_named():
    with pytest.raises(PromptError, match=r"nowhere.csv: no such file of points"):
        prompts.read_points("nowhere.csv", SCOPE)


def test_prompts_are_joined_by_frame_and_object(tmp_path):
    rows = points(
        tmp_path, HEAD + "7,3,5,6,1,mech\n0,3,1,2,1,mech\n0,3,3,4,0,mech\n0,1,9,9,1,raine\n"
    )
    mask = np.zeros((48, 64), bool)
    table = prompts.prompt_table(rows, [(0, 1, (1, 1, 9, 9))], [(4, 8, mask)], scope=SCOPE)
    assert [(p.frame, p.object_id) for p in table.prompts] == [(0, 1), (0, 3), (4, 8), (7, 3)]
    assert table.prompts[0].box == (1, 1, 9, 9)
    np.testing.assert_array_equal(table.prompts[1].points_xy, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(table.prompts[1].point_labels, [1, 0])
    assert table.prompts[2].mask is mask
    assert table.labels == {1: "raine", 3: "mech", 8: "object"}


def test_an_object_with_two_classes_is_refused(tmp_path):
    text = HEAD + "0,3,1,1,1,mech\n1,3,1,1,1,raine\n"
    named = "points.csv, row 2, column class: object 3 has two classes, 'mech' and 'raine'"
    with pytest.raises(PromptError, match=named):
        points(tmp_path, text)
    rows = points(tmp_path, text.replace("raine", "mech"))
    rows["class"] = ["mech", "raine"]
    with pytest.raises(PromptError, match="object 3 has two classes, 'mech' and 'raine'"):
        prompts.prompt_table(rows, scope=SCOPE)


def test_a_class_on_one_row_of_an_object_is_its_class(tmp_path):
    rows = points(tmp_path, HEAD + "0,3,1,1,1,\n1,3,1,1,1,raine\n2,3,1,1,1,\n2,4,5,5,1,\n")
    assert rows["class"].tolist() == ["raine", "raine", "raine", "object"]


@pytest.mark.parametrize("row", ["0,3,0.5,0.25,1,mech", "0,3,1,0.9,1,mech\n4,3,0,0.1,0,mech"])
def test_shares_of_the_picture_are_not_taken_for_pixels(tmp_path, row):
    with pytest.raises(PromptError, match="points.csv: all x and y .* shares of the picture"):
        points(tmp_path, HEAD + row + "\n")
    with pytest.raises(PromptError, match="shares of the picture"):
        prompts.parse_xyxy("0.1,0.2,0.5,1", (64, 48), "`box`")


def test_one_point_beyond_1_says_that_points_are_pixels(tmp_path):
    rows = points(tmp_path, HEAD + "0,3,0.5,0.5,1,mech\n0,3,20,0.5,1,mech\n")
    assert rows["x"].tolist() == [0.5, 20]


def test_a_row_longer_than_the_header_is_refused(tmp_path):
    text = "frame_id,object_id,x,y,label\n0,1,1,2,1\n5,1,12,34,1,1\n"
    with pytest.raises(PromptError, match="points.csv, row 2: 6 values, but the header has 5"):
        points(tmp_path, text)
    assert len(points(tmp_path, text.replace(",1,1\n", ",1,,\n"))) == 2  # empty cells say nothing


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(PromptError, match="two columns are called 'x'"):
        points(tmp_path, "frame_id,object_id,x,y,x,label\n0,1,1,2,3,1\n")


def test_spreadsheets_write_semicolons_and_a_byte_order_mark(tmp_path):
    rows = points(tmp_path, "\ufeffframe_id;object_id;x;y;label\n0;1;12;34;1\n")
    assert rows[["x", "y"]].to_numpy().tolist() == [[12, 34]]


PRINTED_PAIRS = [
    "[np.float64(53.0), np.float64(8.5)]",
    "(np.int64(53), np.float32(8.5))",
    "array([53. ,  8.5])",
    "tensor([53.0000, 8.5])",
    "Point(x1=53, y1=8.5)",
]


@pytest.mark.parametrize("pair", PRINTED_PAIRS)
def test_digits_of_a_type_or_a_name_are_no_numbers(tmp_path, pair):
    rows = points(tmp_path, f'frame_id,object_id,point_xy,label\n0,1,"{pair}",1\n')
    assert rows[["x", "y"]].to_numpy().tolist() == [[53, 8.5]]


def test_an_object_must_start_with_a_positive_prompt(tmp_path):
    rows = points(tmp_path, HEAD + "4,3,1,1,0,mech\n9,3,1,1,1,mech\n")
    with pytest.raises(PromptError, match="object 3 starts on frame 4 with negative points only"):
        prompts.prompt_table(rows, scope=SCOPE)
    prompts.prompt_table(rows, [(4, 3, (0, 0, 9, 9))], scope=SCOPE)  # a box is a positive prompt


def test_different_prompts_have_different_digests(tmp_path):
    one = prompts.prompt_table(points(tmp_path, HEAD + "0,3,1,1,1,mech\n"), scope=SCOPE)
    same = prompts.prompt_table(points(tmp_path, HEAD + "0,3,1,1,1,mech\n"), scope=SCOPE)
    other = prompts.prompt_table(points(tmp_path, HEAD + "0,3,1,2,1,mech\n"), scope=SCOPE)
    assert one.digest() == same.digest() != other.digest()


def test_a_vocabulary_is_read_with_its_hash(tmp_path):
    path = tmp_path / "mugs.v1.toml"
    path.write_text('[classes.plate]\n[classes.mug]\nyolo-world = ["cup"]\n')
    words = vocabulary.read_vocabulary(path)
    assert words.name == "mugs.v1" and words.labels == ("plate", "mug")
    assert words.phrases("yolo-world") == {1: ["cup"]} and len(words.sha256) == 64


BAD_VOCABULARIES = {
    r"malformed TOML: .*line 2": "[classes.mug]\nhue = \n",
    "no classes": 'description = "none"\n',
    "no key 'clases'; did you mean 'classes'": "[clases.mug]\n",
    "classes.mug: expected a table, got 3": "[classes]\nmug = 3\n",
}


@pytest.mark.parametrize("message", BAD_VOCABULARIES, ids=BAD_VOCABULARIES)
def test_a_bad_vocabulary_is_named(tmp_path, message):
    path = tmp_path / "mugs.v1.toml"
    path.write_text(BAD_VOCABULARIES[message])
    with pytest.raises(PromptError, match=f"mugs.v1.toml: {message}"):
        vocabulary.read_vocabulary(path)


def test_an_unknown_vocabulary_names_the_nearest():
    with pytest.raises(
        UnknownName, match=r"no vocabulary 'desigator.v1'; did you mean 'designator"
    ):
        vocabulary.read_vocabulary("desigator.v1")


def test_a_row_says_from_which_frame_an_object_is_gone(tmp_path):
    csv = points(tmp_path, HEAD + "0,3,12,34.5,1,mech\n7,3,,,-1,\n9,3,,,-1,mech\n")
    pairs = points(
        tmp_path,
        'frame_id,object_id,point_xy,label,class\n0,3,"12,34.5",1,mech\n7,3,,-1,\n9,3, ,-1,mech\n',
    )
    table = pd.DataFrame(
        {"frame_id": [0, 7, 9], "object_id": 3, "x": [12, None, np.nan], "y": [34.5, None, None]}
    )
    frame = prompts.read_points(table.assign(label=[1, -1, -1], **{"class": "mech"}), SCOPE)
    pd.testing.assert_frame_equal(csv, pairs)
    pd.testing.assert_frame_equal(csv, frame)
    first, gone, _ = prompts.prompt_table(csv, scope=SCOPE).prompts
    assert first.is_positive and not first.gone
    assert gone.gone and not gone.is_positive and len(gone.points_xy) == len(gone.point_labels) == 0


def test_shares_of_the_picture_are_seen_beside_a_row_without_x_and_y(tmp_path):
    with pytest.raises(PromptError, match="shares of the picture"):
        points(tmp_path, HEAD + "0,3,0.5,0.25,1,mech\n5,3,,,-1,mech\n")


def test_an_object_that_is_gone_may_start_later_and_has_outside_points_at_most(tmp_path):
    rows = points(tmp_path, HEAD + "2,3,,,-1,mech\n2,3,5,5,0,mech\n7,3,5,6,1,mech\n")
    gone, start = prompts.prompt_table(rows, scope=SCOPE).prompts
    assert gone.gone and gone.point_labels.tolist() == [0] and start.is_positive
    rows = points(tmp_path, HEAD + "2,3,5,5,1,mech\n2,3,,,-1,mech\n")
    with pytest.raises(PromptError, match="object 3 is gone on frame 2 .* positive prompt there"):
        prompts.prompt_table(rows, scope=SCOPE)


def test_a_prompt_of_absence_is_part_of_the_digest(tmp_path):
    start = HEAD + "0,3,5,6,1,mech\n9,3,5,6,1,mech\n"
    digests = {
        prompts.prompt_table(points(tmp_path, start + row), scope=SCOPE).digest()
        for row in ("", "4,3,,,-1,\n", "5,3,,,-1,\n")
    }
    assert len(digests) == 3


def boxed(*rows):
    table = pd.DataFrame(rows, columns=["frame_id", "object_id", "x", "y", "label"])
    return prompts.prompt_table(prompts.read_points(table, SCOPE), scope=SCOPE)


def test_two_rows_are_the_corners_of_a_box():
    width, height = SCOPE.size_wh
    table = boxed(
        (0, 1, 20, 30, 3),
        (0, 1, 5, 6, 2),
        (0, 1, 5, 6, 1),
        (2, 1, 1, 1, 2),
        (2, 1, width, height, 3),
    )
    first, second = table.prompts
    assert first.box == (5, 6, 20, 30) and first.points_xy.tolist() == [[5, 6]]
    assert second.box == (1, 1, width, height) and second.is_positive
    by_option = prompts.prompt_table(
        boxes=[(2, 1, (1.0, 1.0, float(width), float(height)))], scope=SCOPE
    )
    assert second.box == by_option.prompts[0].box
    assert by_option.digest() == boxed((2, 1, 1, 1, 2), (2, 1, width, height, 3)).digest()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(0, 1, 5, 6, 2)], "row 1: frame 0, object 1: expected one row with label 2"),
        ([(0, 1, 5, 6, 3), (1, 1, 9, 9, 2)], "row 1: frame 0"),
        ([(0, 1, 5, 6, 2), (0, 1, 7, 6, 2), (0, 1, 9, 9, 3)], "expected one row with label 2"),
        ([(0, 1, 9, 9, 2), (0, 1, 5, 6, 3)], "must be the upper left corner"),
        ([(0, 1, 9, 9, 2), (0, 1, 9, 12, 3)], "must be the upper left corner"),
        ([(0, 1, 9, 9, 4)], "label"),
    ],
)
def test_a_box_needs_both_corners_in_order(rows, message):
    with pytest.raises(PromptError, match=message):
        boxed(*rows)

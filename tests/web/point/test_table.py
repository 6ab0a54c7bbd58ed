"""A table of points is written back with all that was not edited as it was."""

import pytest

from annotate.items.points import PromptScope, read_points
from annotate.web.point.table import PointRow, PointTable, read_point_table

SCOPE = PromptScope((640, 480), 100)


def read(path, content):
    path.write_bytes(content)
    return read_point_table(path, SCOPE)


@pytest.mark.parametrize(
    "content",
    [
        b"frame_id,object_id,x,y,label\n0,1,10,20,1\n",
        b"frame_id,object_id,x,y,label,class\r\n0,1,10.50,20.0,1,imp\r\n3,1,,,-1,\r\n",
        b"\xef\xbb\xbfnote;label;y;x;object_id;frame_id\nseen twice;1;20;10;1;0\n;0;2;1.5;1;4\n",
        b'frame_id,object_id,point_xy,label,class\n0,1,"(10.0, 20)",1,imp\n0,2,"[3, 4.5]",1,\n',
        "frame_id\tobject_id\tx\ty\tlabel\tclass\n0\t1\t10\t20\t1\tбес\n".encode(),
    ],
)
def test_an_unedited_table_keeps_its_bytes(tmp_path, content):
    assert read(tmp_path / "points.csv", content).to_csv() == content


def test_only_what_was_edited_is_written_anew(tmp_path):
    table = read(
        tmp_path / "points.csv",
        b'note,frame_id,object_id,point_xy,label\na,0,1,"(10.0, 20)",1\nb,3,1,"(3.0, 4)",0\n',
    )
    first, second = table.rows
    moved = PointTable(
        (first, second.moved(5, 6.25), PointRow(7, 2, 1, 2, 1, "imp")), table.columns
    )
    assert moved.to_csv() == (
        b"note,frame_id,object_id,point_xy,label,class\n"
        b'a,0,1,"(10.0, 20)",1,\nb,3,1,"(5, 6.25)",0,\n,7,2,"(1, 2)",1,imp\n'
    )


def test_written_rows_are_read_back_equal(tmp_path):
    rows = (
        PointRow(0, 1, 10.25, 20, 1, "imp"),
        PointRow(5, 1, None, None, -1, "imp"),
        PointRow(9, 3, 0, 479.99, 1, "red, target"),
    )
    PointTable(rows).write(tmp_path / "points.csv")
    back = read_point_table(tmp_path / "points.csv", SCOPE)
    assert [row.key for row in back.rows] == [row.key for row in rows]
    assert [row.label_class for row in back.rows] == ["imp", "imp", "red, target"]
    frame = read_points(tmp_path / "points.csv", SCOPE)
    assert frame["label"].tolist() == [1, -1, 1]


def test_no_file_is_an_empty_table(tmp_path):
    assert read_point_table(tmp_path / "points.csv", SCOPE) == PointTable()

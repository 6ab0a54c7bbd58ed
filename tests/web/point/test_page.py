"""The point page in a real browser: every key and pointer action does what the sheet says."""

import pytest
from point_page import square_editor

from annotate.active_learning.frame_list import ListedFrame
from annotate.web.point.app import serving
from annotate.web.point.table import read_point_table


@pytest.fixture
def editor(demo, tmp_path, request):
    with square_editor(demo, tmp_path / "points.csv", **getattr(request, "param", {})) as editor:
        yield editor


@pytest.fixture
def page(browser, editor):
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.set_default_timeout(120_000)  # a busy machine is no failure
    page = context.new_page()
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text))
    with serving(editor) as address:
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        yield page
        context.close()
    assert [each for each in page.errors if "favicon" not in each and "404" not in each] == []


def wait_until_shown(page, answer):
    """Wait until the page shows the state of an answer: a next click may depend on it."""
    page.wait_for_selector(f"body[data-rev='{answer.json()['rev']}']")


class Stage:
    """Clicks at pixels of the clip."""

    def __init__(self, page):
        self.page = page

    def at(self, x, y):
        """The place of the middle of a pixel of the clip on the screen."""
        return self.page.evaluate(
            """([x, y]) => {
                const view = document.getElementById("view");
                const matrix = new DOMMatrix(getComputedStyle(view).transform);
                const box = document.getElementById("stage").getBoundingClientRect();
                return [box.x + matrix.e + x * matrix.a, box.y + matrix.f + y * matrix.a];
            }""",
            [x, y],
        )

    def click(self, x, y, **options):
        with self.page.expect_response("**/act") as answer:
            self.page.mouse.click(*self.at(x, y), **options)
        wait_until_shown(self.page, answer.value)

    def drag(self, start, stop):
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*stop), steps=4)
        with self.page.expect_response("**/act") as answer:
            self.page.mouse.up()
        wait_until_shown(self.page, answer.value)


@pytest.fixture
def stage(page):
    return Stage(page)


def rounded(number):
    return None if number is None else round(number)


def rows(editor):
    """The rows of the file on disk, coordinates rounded to whole pixels."""
    table = read_point_table(editor.session.points, editor.session.scope)
    return [
        (row.frame, row.object_id, rounded(row.x), rounded(row.y), row.label) for row in table.rows
    ]


def press(page, key, path="act"):
    with page.expect_response(f"**/{path}") as answer:
        page.keyboard.press(key)
    wait_until_shown(page, answer.value)


def go_to(page, frame):
    page.keyboard.press("g")
    page.keyboard.type(str(frame))
    page.keyboard.press("Enter")
    page.wait_for_selector(f"body[data-masks^='{frame}:']")


def test_clicks_set_points_inside_and_outside(page, editor, stage):
    stage.click(300, 200)
    page.wait_for_selector("body[data-masks='0:1']")
    stage.click(340, 220, button="right")
    page.keyboard.down("Alt")
    stage.click(360, 240)
    page.keyboard.up("Alt")
    page.keyboard.press("n")
    stage.click(380, 260)
    page.keyboard.press("n")
    stage.click(310, 210)
    assert rows(editor) == [
        (0, 1, 300, 200, 1),
        (0, 1, 340, 220, 0),
        (0, 1, 360, 240, 0),
        (0, 1, 380, 260, 0),
        (0, 1, 310, 210, 1),
    ]


def test_points_are_moved_removed_and_undone(page, editor, stage):
    stage.click(300, 200)
    stage.click(340, 220)
    stage.drag((340, 220), (400, 300))
    assert rows(editor)[1] == (0, 1, 400, 300, 1)
    stage.click(400, 300)  # on a point: it is removed
    assert rows(editor) == [(0, 1, 300, 200, 1)]
    press(page, "Control+z")
    press(page, "Control+z")
    assert rows(editor)[1] == (0, 1, 340, 220, 1)
    press(page, "Control+Shift+z")
    press(page, "Control+y")
    assert rows(editor) == [(0, 1, 300, 200, 1)]
    press(page, "Delete")
    assert rows(editor) == []


def test_without_detectors_there_is_no_choice_of_them(page):
    assert page.locator("#detector-row").is_hidden()
    page.keyboard.press("d")
    page.get_by_text("no detector").wait_for()


def test_a_box_is_dragged_and_an_object_is_gone(page, editor, stage):
    page.keyboard.press("b")
    stage.drag((100, 100), (180, 160))
    assert rows(editor) == [(0, 1, 100, 100, 2), (0, 1, 180, 160, 3)]
    go_to(page, 30)
    press(page, "x")
    assert rows(editor)[2:] == [(30, 1, None, None, -1)]
    page.get_by_role("button", name="gone on 110").wait_for()
    press(page, "x")
    assert len(rows(editor)) == 2


def test_objects_classes_and_deletion(page, editor, stage):
    stage.click(300, 200)
    page.keyboard.press("o")
    stage.click(500, 200)
    page.keyboard.press("c")
    page.keyboard.type("cacodemon")
    press(page, "Enter")
    assert [each.label_class for each in editor.session.document.rows] == ["object", "cacodemon"]
    page.keyboard.press("1")
    stage.click(320, 200)
    page.keyboard.press("Tab")
    stage.click(520, 200)
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Delete")
    page.get_by_text("Delete object 1, object: 2 rows on 1 frames").wait_for()
    with page.expect_response("**/act"):
        page.get_by_role("button", name="Delete").click()
    assert [row[1] for row in rows(editor)] == [2, 2]


def test_keys_step_through_the_clip(page, stage):
    shown = page.locator("#frame")
    for key, frame in [
        ("ArrowRight", 1),
        ("Shift+ArrowRight", 11),
        ("ArrowLeft", 10),
        ("Shift+ArrowLeft", 0),
        ("ArrowLeft", 0),
        ("End", 139),
        ("ArrowRight", 139),
        ("Home", 0),
    ]:
        page.keyboard.press(key)
        page.wait_for_selector(f"body[data-masks^='{frame}:']")
        assert shown.input_value() == str(frame)
    go_to(page, 50)
    stage.click(300, 200)
    go_to(page, 80)
    stage.click(300, 200)
    page.keyboard.press("Control+ArrowLeft")
    page.wait_for_selector("body[data-masks^='50:']")
    page.keyboard.press("Control+ArrowRight")
    page.wait_for_selector("body[data-masks^='80:']")


def test_keys_work_again_after_the_number_of_the_frame_that_is_shown(page, stage):
    stage.click(300, 200)
    page.wait_for_selector("body[data-masks='0:1']")
    go_to(page, 0)
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("body[data-shown='1']")
    page.keyboard.press("g")
    page.keyboard.type("5")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("body[data-shown='2']")


def test_propagation_is_shown_and_stopped_by_the_same_key(page, editor, stage):
    stage.click(300, 200)
    editor.engine.gate.clear()
    press(page, "f", "run")
    page.wait_for_selector("#stop:not([disabled])")
    stage.page.keyboard.press("ArrowRight")
    editor.engine.gate.set()
    page.wait_for_selector("#stop[disabled]", state="attached")
    assert editor.tracks.lanes(1, editor.digests[1], "", [])["tracked"] == [(0, 140)]
    go_to(page, 70)
    page.wait_for_selector("body[data-masks='70:1']")
    page.get_by_text("1 object", exact=True).wait_for(state="attached")


def test_points_are_set_by_keys_alone(page, editor):
    page.keyboard.press("k")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    press(page, "Enter")
    page.keyboard.press("Shift+ArrowDown")
    press(page, "Alt+Enter")
    page.keyboard.press("Escape")
    assert rows(editor) == [(0, 1, 401, 310, 1), (0, 1, 401, 320, 0)]


def test_zoom_stays_and_clicks_are_exact_at_every_zoom(page, editor, stage):
    for number, (x, y) in enumerate([(100.5, 80.5), (640.5, 500.5), (780.5, 580.5)], 1):
        page.mouse.move(*stage.at(x, y))
        page.mouse.wheel(0, -900)
        page.wait_for_selector("#view.zoomed", state="attached")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector(f"body[data-masks^='{number}:']")
        stage.click(x, y)
        row = editor.session.document.rows[-1]
        assert abs(row.x - x) <= 0.5 and abs(row.y - y) <= 0.5
        page.keyboard.press("z")


def test_clicks_beside_the_picture_do_nothing(page, editor, stage):
    page.mouse.click(*stage.at(-5, 300))
    page.mouse.click(*stage.at(400, -5))
    stage.click(5, 5)
    assert [row[2:4] for row in rows(editor)] == [(5, 5)]


def test_a_preview_is_shown_while_shift_is_held(page, editor, stage):
    page.keyboard.down("Shift")
    with page.expect_response("**/preview"):
        page.mouse.move(*stage.at(300, 200))
    page.locator(".tag", has_text="preview").wait_for(state="attached")
    page.keyboard.up("Shift")
    page.mouse.move(*stage.at(310, 200))
    page.locator(".tag", has_text="preview").wait_for(state="detached")
    assert not editor.session.points.exists()


def test_a_reload_brings_everything_back(page, editor, stage):
    stage.click(300, 200)
    stage.click(340, 220)
    press(page, "Control+z")
    page.reload()
    page.wait_for_selector("body[data-ready]")
    press(page, "Control+Shift+z")
    assert len(rows(editor)) == 2


def test_a_second_tab_reads_until_it_takes_over(page, editor, stage):
    stage.click(300, 200)
    other = page.context.new_page()
    other.goto(page.url + f"#t={page.evaluate('sessionStorage.getItem(`annotate-token`)')}")
    other.get_by_text("Another tab edits this session").wait_for()
    other.get_by_role("button", name="Edit here").click()
    other.wait_for_selector("#notice", state="hidden")
    Stage(other).click(400, 300)
    assert len(rows(editor)) == 2
    page.get_by_text("Another tab edits this session").wait_for()
    other.close()


def test_the_sheet_lists_exactly_the_bound_keys(page):
    page.keyboard.press("?")
    page.wait_for_selector("#help[open]")
    listed = page.locator("#help td:last-child").all_inner_texts()
    bound = page.evaluate(
        "import('/static/keys.js').then((m) => [m.BINDINGS.map((b) => b.text), "
        "m.POINTER.map(([, text]) => text)])"
    )
    assert sorted(listed) == sorted([*bound[0], *bound[1]])
    names = page.evaluate(
        "import('/static/keys.js').then((m) => m.BINDINGS.flatMap((b) => b.keys))"
    )
    assert len(names) == len(set(names))


def test_nothing_acknowledged_is_lost_when_the_server_stops(page, editor, stage):
    stage.click(300, 200)
    page.route("**/act", lambda route: route.abort())
    page.mouse.click(*stage.at(340, 220))
    page.get_by_text("Not saved").wait_for()
    page.unroute("**/act")
    with page.expect_response("**/act"):
        page.get_by_role("button", name="Try again").click()
    assert len(rows(editor)) == 2
    page.errors.clear()


def test_fingers_set_points_and_zoom(browser, editor):
    context = browser.new_context(viewport={"width": 1200, "height": 800}, has_touch=True)
    page = context.new_page()
    page.clock.install()  # time stands still, but for what the test lets pass
    with serving(editor) as address:
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        stage, fingers = Stage(page), context.new_cdp_session(page)

        def touch(kind, *places):
            points = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(places)]
            record = {"type": f"touch{kind}", "touchPoints": points}
            fingers.send("Input.dispatchTouchEvent", record)

        for number, (x, y, pressed) in enumerate([(300, 200, 10), (340, 220, 900)], 1):
            touch("Start", stage.at(x, y))
            page.clock.run_for(pressed)  # milliseconds
            touch("End")
            page.wait_for_selector(f"body[data-rev='{number}']")
        assert rows(editor) == [(0, 1, 300, 200, 1), (0, 1, 340, 220, 0)]  # the long press: outside
        (x, y), scale = stage.at(400, 300), "document.getElementById('view').style.transform"
        before = page.evaluate(scale)
        touch("Start", (x - 20, y))
        touch("Start", (x - 20, y), (x + 20, y))
        touch("Move", (x - 90, y), (x + 90, y))
        touch("End")
        page.wait_for_selector("#view.zoomed", state="attached")
        assert page.evaluate(scale) != before and len(rows(editor)) == 2
        context.close()


def test_the_zoom_key_finds_an_object_whose_mask_is_rough(page, editor, stage):
    editor.engine.rough_side = 10
    editor.engine.gate.clear()
    stage.click(300, 200)
    page.wait_for_selector("body[data-masks='0:1']")
    page.keyboard.press("z")
    page.wait_for_selector("#view.zoomed", state="attached")


def test_frames_that_a_run_showed_do_not_count_as_looked_at(page, editor, stage):
    stage.click(300, 200)
    with page.expect_response("**/run"):
        page.keyboard.press("f")
    page.wait_for_selector("#stop[disabled]", state="attached")
    page.wait_for_selector("body[data-masks='139:1']")
    with page.expect_response("**/seen"):
        page.keyboard.press("Home")
    assert editor.session.seen <= {0}


def test_the_status_line_says_what_was_saved(page, editor, stage):
    stage.click(300, 200)
    with page.expect_response("**/save") as answer:
        page.get_by_role("button", name="Save items").click()
    message = answer.value.json()["message"]
    page.locator("#status").get_by_text(message, exact=True).wait_for()
    assert page.locator("#result").inner_text() == message


LISTED = [ListedFrame("demo.mp4", frame, 0, 1, f"why {frame}", rank) for rank, frame in
          enumerate((90, 15, 40), 1)]  # fmt: skip


@pytest.mark.parametrize("editor", [{"listed": LISTED}], indirect=True)
def test_a_key_goes_through_the_frames_to_label_by_their_rank(page, stage):
    status, left = page.locator("#status"), page.locator("#listed li")
    status.get_by_text("3 frames to label").wait_for()

    def is_shown(frame, rank):
        page.wait_for_selector(f"body[data-masks^='{frame}:']")
        status.get_by_text(f"frame {frame}, rank {rank} of 3 to label: why").wait_for()

    page.keyboard.press("l")
    is_shown(90, 1)
    stage.click(300, 200)
    page.locator("#labelled").get_by_text("1 of 3 labelled").wait_for()
    page.get_by_role("button", name="Next L").click()
    is_shown(15, 2)
    assert left.count() == 2
    press(page, "y")  # nothing to label here: on to the next
    is_shown(40, 3)
    page.keyboard.press("Shift+L")
    is_shown(15, 2)
    left.get_by_text("3: frame 40, why 40").click()
    is_shown(40, 3)
    page.keyboard.press("l")
    status.get_by_text("no other frame is left to label").wait_for()
    page.keyboard.press("Shift+L")
    page.keyboard.press("Shift+L")
    is_shown(90, 1)
    page.keyboard.press("l")
    is_shown(40, 3)


def test_without_a_list_there_is_none_to_label(page):
    assert page.locator("#to-label").is_hidden()
    page.keyboard.press("l")
    page.locator("#status").get_by_text("no list of frames to label").wait_for()

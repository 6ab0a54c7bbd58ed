import pytest
from local_server import Client
from search_fixtures import EPISODES

from annotate.items import journal
from annotate.search import results
from annotate.web import gallery


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(120_000)  # a busy machine is no failure
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    return page


def press_and_save(page, key):
    """Press a key of a decision, and wait until the server has written it."""
    with page.expect_response("**/decide") as answer:
        page.keyboard.press(key)
    assert answer.value.status == 200


def test_keys_keep_and_reject_hits_and_the_items_follow(search_folder, page):
    with gallery.serving(search_folder) as address:
        page.goto(address)
        page.wait_for_selector("figure")
        assert page.locator("h2").all_inner_texts() == ["ep1.mp4 · 1", "ep2.mp4 · 1"]
        # not wait_for_function: it polls by eval, which the page's own policy forbids
        page.evaluate(
            "Promise.all([...document.images].slice(0, 2).map((image) => image.naturalWidth"
            " || new Promise((done) => { image.onload = done; })))"
        )
        assert page.evaluate(
            "[...document.images].slice(0, 2).every((i) => i.naturalWidth === 160)"
        )
        press_and_save(page, "k")
        press_and_save(page, "r")
        page.wait_for_selector("figure.rejected")
        page.get_by_text("1 kept, 1 rejected, 0 open").wait_for()
        first, second = results.read_hits(search_folder)
        assert results.read_decisions(search_folder) == {first.name: True, second.name: False}
        items = list(journal.read(search_folder / "items.jsonl"))
        assert {item.video for item in items if item.objects} == {"ep1.mp4"}
        assert len(items) == len(list(journal.read(search_folder / "found.jsonl")))
        page.reload()
        page.wait_for_selector("figure.rejected")
        page.keyboard.press("ArrowRight")
        press_and_save(page, "u")
        assert results.read_decisions(search_folder) == {first.name: True}
        items = journal.read(search_folder / "items.jsonl")
        assert {item.video for item in items if item.objects} == set(EPISODES)
        page.keyboard.press("Enter")
        assert page.locator("dialog[open]").count() == 1
    assert page.errors == []


def test_failed_save_is_shown_on_the_page(search_folder, page):
    with gallery.serving(search_folder) as address:
        page.goto(address)
        page.wait_for_selector("figure")
        (search_folder / "decisions.jsonl").mkdir()
        page.keyboard.press("r")
        page.get_by_text("was not saved").wait_for()
        assert page.locator(".rejected").count() == 0


def test_only_the_page_itself_may_read_and_write(search_folder):
    first, _ = results.read_hits(search_folder)
    with gallery.serving(search_folder) as address:
        client = Client(address)
        assert client.status("hits") == 200
        assert client.status("hits", token="guess") == 401
        assert client.status("image/..%2ffound.jsonl") == 404
        assert client.status("image/%2e%2e%2ffound.jsonl") == 404
        decision = {"hit": first.name, "keep": False}
        assert client.status("decide", decision, token=None) == 401
        assert client.status("decide", decision, Origin="http://evil.example") == 403
        assert results.read_decisions(search_folder) == {}
        assert client.status("decide", {"hit": "x", "keep": True}) == 400
        assert client.status("decide", {"hit": first.name, "keep": 3}) == 400
        assert client.status("decide", decision) == 200
    assert results.read_decisions(search_folder) == {first.name: False}


def test_folder_without_search_results_has_no_gallery(annotate, tmp_path):
    code, _, err = annotate("gallery", tmp_path)
    assert code == 1 and "annotate find" in err

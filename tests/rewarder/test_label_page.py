from contextlib import ExitStack

import pytest

from rewarder.clip_set import open_set
from rewarder.label_desk import create_app
from rewarder.pairs import read_pairs
from tests.rewarder.label_sets import make_desk
from tests.rl.browser import Page, find_browser
from tests.rl.live import served

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here: apt-get install chromium, or CHROMIUM=path"
)


ITEM = "(document.body || {dataset: {}}).dataset.item"


class Served:
    """Serves one application after the other on one socket, so that a browser may stay."""

    def __init__(self):
        self.app, self.url = None, ""

    async def __call__(self, scope, receive, send):
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    service = Served()
    with ExitStack() as stack:
        service.url = stack.enter_context(served(service))
        page = Page(BROWSER, tmp_path_factory.mktemp("browser"), size=(1100, 800))
        stack.callback(page.close)
        yield page, service


@pytest.fixture
def page(browser, tmp_path):
    page, service = browser
    page.complaints.clear()
    service.app = create_app(make_desk(tmp_path))
    page.open(f"{service.url}/?rater=anna&test={tmp_path.name}")
    page.until(f"location.search.endsWith({tmp_path.name!r}) && !!{ITEM}")
    yield page
    assert page.complaints == []


def press(page, keys):
    """Press keys one after the other; an answer is waited for."""
    for key in keys:
        before = page.do("document.body.dataset.item")
        for kind in ("keyDown", "keyUp"):
            page.call("Input.dispatchKeyEvent", type=kind, key=key, text=key)
        if key in "ynabtsu":
            page.until(f"!state.busy && {ITEM} !== {before!r}")


def labels(tmp_path, number=1):
    return open_set(tmp_path / "set").labels("anna", pass_number=number)


def shown(page, selector):
    return page.do(f"document.querySelector({selector!r}).textContent")


def test_keys_become_labels_in_the_file(page, tmp_path):
    press(page, "4yn2n")
    found = {(label.success, label.stars) for label in labels(tmp_path).values()}
    assert found == {(True, 4), (False, None), (False, 2)}
    assert shown(page, "#count") == "3 of 8"
    assert shown(page, "#rater") == "anna"


def test_the_goal_and_the_moments_of_all_cameras_are_shown_as_a_loop(page):
    assert shown(page, "#goal") == "Lift the red cube."
    page.until(
        "[...document.querySelectorAll('#clips canvas')].map(c => c.width).join() === '48,48'"
    )
    drawn = "document.querySelector('canvas').toDataURL()"
    first = page.do(drawn)
    page.until(f"{drawn} !== {first!r}")
    page.until(f"{drawn} === {first!r}")


def test_the_space_bar_pauses_and_goes_on(page):
    press(page, " ")
    assert page.do("state.playing") is False
    press(page, " ")
    assert page.do("state.playing") is True


def test_a_reload_goes_on_with_the_same_item(page):
    press(page, "yn")
    before = page.do("document.body.dataset.item")
    page.do("document.body.dataset.item = 'stale'; location.reload(); 1")
    page.until(f"{ITEM} === {before!r}")
    assert shown(page, "#count") == "2 of 8"


def test_undo_brings_the_item_back_and_withdraws_its_label(page, tmp_path):
    first = page.do("document.body.dataset.item")
    press(page, "yu")
    assert page.do("document.body.dataset.item") == first
    assert [label.success for label in labels(tmp_path).values()] == [None]
    press(page, "n")
    assert [label.success for label in labels(tmp_path).values()] == [False]


def test_pairs_and_the_blind_second_look_end_with_thanks(page, tmp_path):
    press(page, "ynyny")
    assert page.do("document.querySelectorAll('#clips.pair .clip').length") == 2
    press(page, "at")
    assert shown(page, "#question").startswith("Is the goal reached")
    assert "pressed" not in page.do(
        "[...document.querySelectorAll('[aria-pressed=true]')].map(() => 'pressed').join()"
    )
    press(page, "s")
    assert page.do("!document.getElementById('done').hidden")
    assert len(labels(tmp_path, 2)) == 1
    said = [label.preferred for label in read_pairs(tmp_path / "pairs.jsonl")]
    assert said[0] in ("first", "second")
    assert said[1] == "tie"


def test_a_click_does_what_its_key_does(page, tmp_path):
    before = page.do("document.body.dataset.item")
    page.click("button[data-key=y]")
    page.until(f"{ITEM} !== {before!r}")
    assert [label.success for label in labels(tmp_path).values()] == [True]


def test_without_a_name_the_page_asks_who_is_looking(page):
    page.do("location.assign('/'); 1")
    page.until("location.search === '' && document.querySelectorAll('#names button').length === 2")
    page.click("#names button:last-child")
    page.until(f"location.search === '?rater=ben' && !!{ITEM}")
    assert shown(page, "#rater") == "ben"


def test_an_answer_that_is_not_kept_is_said_and_the_item_stays(page):
    before = page.do("document.body.dataset.item")
    page.do("state.asked.item = '1:0000000000000000'; 1")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="y", text="y")
    page.until("!document.getElementById('notice').hidden")
    assert shown(page, "#notice").startswith("Not kept: that is not what is asked")
    assert page.do("document.body.dataset.item") == before

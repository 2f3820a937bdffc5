import time
from contextlib import ExitStack

import pytest

from policy_server.host import Host
from policy_server.service import create_app
from rl.alarm import FROZEN, UNFROZEN, Alarm
from rl.audit import AUDITS
from rl.live_dashboard import Service
from tests.rl.browser import Page, find_browser
from tests.rl.live import TOKEN, FakeArm, dashboard, served
from tests.rl.test_live_runs import make_run

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here: apt-get install chromium, or CHROMIUM=path"
)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Show two arms, one of them silent, and a run, in a browser."""
    runs, arm = tmp_path_factory.mktemp("runs"), FakeArm()
    run = make_run(runs, episodes=12)
    told = [f'{{"number": {number}, "right": true}}\n' for number in range(9)]
    (run / AUDITS).write_text("".join(told))
    policies = Host(["null"])
    policies.open()
    for rows in (9, 5):
        policies.queues.note("arm01", rows_left=rows, underflows=2, now=time.monotonic())
    with ExitStack() as stack:
        stack.callback(policies.close)
        links = {"POLICY_SERVER": Service(stack.enter_context(served(create_app(policies))))}
        urls = {"arm01": stack.enter_context(served(arm.app)), "arm02": "http://127.0.0.1:9"}
        url = stack.enter_context(dashboard(urls, runs, links=links))
        page = Page(BROWSER, tmp_path_factory.mktemp("browser"))
        stack.callback(page.close)
        page.open(url)
        yield page, arm, run


@pytest.fixture
def arm(opened):
    opened[1].begin()
    return opened[1]


@pytest.fixture
def page(opened, arm):
    page = opened[0]
    page.until("text('[data-arm=arm01] .mode') === 'RUN'".replace("text", TEXT))
    return page


TEXT = "(s => (document.querySelector(s) || {}).textContent)"


def shown(selector):
    return f"{TEXT}({selector!r})"


def test_an_arm_shows_mode_reason_faults_and_where_it_stays_short(page):
    assert page.do(shown("[data-arm=arm01] .reason")) == "train-arm01 drives it"
    assert "elbow_flex stays 9° short" in page.do(shown("[data-arm=arm01] .faults"))
    assert "21.0° (9° short)" in page.do(shown("[data-arm=arm01] .joint.short"))


def test_a_silent_process_is_shown_with_the_command_that_starts_it(page):
    page.until(f"{shown('[data-arm=arm02] .reason')}.includes('make arm ARM_ID=arm02')")
    assert page.do(shown("[data-arm=arm02] .mode")) == "NO ANSWER"


def test_a_camera_shows_its_picture(page):
    page.until("document.querySelector('[data-arm=arm01] img').naturalWidth === 64")
    assert page.do("document.querySelector('[data-arm=arm01] img').naturalHeight") > 0


def test_joints_success_and_reward_are_drawn(page):
    page.until("document.querySelectorAll('[data-arm=arm01] .joint canvas').length === 6")
    page.until(
        "document.querySelectorAll('#success-plot canvas, #reward-plot canvas').length === 2"
    )
    assert page.do(shown("#rate")).startswith("50 %")
    # It plays: at one of its moments the model could not tell.
    page.until(f"/progress .*, reward /.test({shown('#moment')})")


def test_the_rows_that_an_arm_has_left_are_drawn_as_they_are(page):
    page.until("document.querySelectorAll('#queues canvas').length === 1")
    said = page.do(shown("#queues p"))
    assert said == "arm01: 5 rows left when it last asked; ran out 2 times"


def test_pressing_stop_stops_that_arm_and_shows_it_latched(page, arm):
    page.click("[data-arm=arm01] .stop")
    page.until(f"{shown('[data-arm=arm01] .mode')} === 'STOP'")
    assert arm.asked == [("stop", {"reason": "the dashboard's stop button"})]
    assert page.do("!document.querySelector('[data-arm=arm01] .reset').hidden")
    page.until(f"{shown('#notice')} === 'Stopped: arm01'")


def test_stop_all_says_what_it_stopped_and_which_arm_has_no_process(page, arm):
    page.click("#stop-all")
    page.until(f"{shown('#notice')} === 'Stopped: arm01. No process: arm02'")
    assert arm.mode == "STOP"


def test_an_arm_that_was_not_stopped_is_named_with_what_to_do(page):
    page.click("[data-arm=arm02] .stop")
    page.until(f"{shown('#notice')}.startsWith('NOT stopped: arm02')")
    assert "switch in the servo supply" in page.do(shown("#notice"))


def test_escape_stops_all_arms(page, arm):
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Escape", code="Escape")
    page.until(f"{shown('[data-arm=arm01] .mode')} === 'STOP'")
    assert arm.asked


def test_a_reset_takes_a_token_that_the_page_forgets(page, arm):
    page.click("[data-arm=arm01] .stop")
    page.until("!document.querySelector('[data-arm=arm01] .reset').hidden")
    page.do(f"document.querySelector('[data-arm=arm01] input').value = {TOKEN!r}")
    page.click("[data-arm=arm01] .reset button")
    page.until(f"{shown('[data-arm=arm01] .mode')} === 'HOLD'")
    assert page.do("document.querySelector('[data-arm=arm01] input').value") == ""


def test_the_page_complains_of_nothing(page):
    assert page.complaints == []


def test_audits_and_a_freeze_are_shown(page, opened):
    page.until(f"{shown('#audit')}.includes('9 of 9 rewarded successes confirmed')")
    alarm = Alarm(opened[2])
    alarm.add(FROZEN, why="the judge confirms 0 of 5", episodes=12)
    page.until(f"{shown('#audit')}.includes('frozen: the judge confirms 0 of 5')")
    alarm.add(UNFROZEN, why="the red cup is gone", episodes=12)
    page.until(f"{shown('#audit')} === ''")
    assert "frozen" not in page.do(shown("#audit"))

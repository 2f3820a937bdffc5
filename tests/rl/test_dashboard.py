import io

from rich.console import Console

from rl.audit import Audited
from rl.dashboard import Lines, Terminal
from rl.figures import Figures
from rl.run_folder import Counters


def figures(**more):
    values = {
        "counters": Counters(env_steps=500, episodes=12, updates=250, wall_s=75),
        "steps_total": 1000,
        "pending": 0,
        "debt": 3,
        "updates_per_s": 60.0,
        "steps_per_s": 100.0,
        "eta_s": 5.0,
        "success": {"arm01": (3, 4)},
        "mean_return": -12.5,
        "losses": {},
        "seconds": {},
        "arms": {"arm01": "practises", "arm02": "is free"},
    }
    return Figures(**values | more)


def lines_of(*shown, times=None):
    written, clock = [], iter(times or range(100))
    view = Lines("title", written.append, lambda: float(next(clock)))
    with view:
        for each in shown:
            view.show(each)
    return written


def test_without_a_terminal_a_line_comes_every_ten_seconds():
    written = lines_of(*[figures()] * 21)
    assert len(written) == 1 + 3


def test_a_line_says_how_the_run_stands():
    line = lines_of(figures())[1]
    for part in (
        "500/1000 steps",
        "12 episodes",
        "3/4 (30-95 %)",
        "return -12.5",
        "60/s",
        "1 min 15 s",
        "ETA 5 s",
    ):
        assert part in line


def test_audits_are_counted_in_the_line():
    assert "12/13 audits right" in lines_of(figures(audited=Audited(right=12, audits=13)))[1]
    assert "audits" not in lines_of(figures())[1]


def test_trouble_is_said_before_the_ten_seconds_are_over():
    written = lines_of(figures(), figures(), figures(), figures(troubles=["the rewarder is away"]))
    assert "the rewarder is away" in written[-1]


def test_an_arm_that_fails_is_named():
    written = lines_of(figures(arms={"arm01": "failed: no EGL"}))
    assert "arm01: failed: no EGL" in written[-1]


def test_a_terminal_shows_every_arm():
    output = io.StringIO()
    with Terminal("Lift it.", Console(file=output, force_terminal=True, width=120)) as view:
        view.show(figures(troubles=["the rewarder is away"]))
    text = output.getvalue()
    for part in ("Lift it.", "arm01", "3/4 (30-95 %)", "arm02", "is free", "the rewarder is away"):
        assert part in text

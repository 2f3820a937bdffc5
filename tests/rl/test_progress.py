from dataclasses import replace

from rl.progress import shown
from rl.trial import Trial

WON = Trial(seed=0, success=True, time_s=2.0, end="done", gentle=True, guard_events={})


def test_without_a_terminal_progress_is_a_few_plain_lines(capsys):
    played = [(i, replace(WON, success=i % 2 == 0)) for i in range(100)]
    assert list(shown(played, total=100, title="lift")) == played
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 10
    assert said[-1] == "lift: 100/100 trials, success 50 % (40-60)"


def test_a_terminal_gets_a_bar_and_every_trial_passes(monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert list(shown([(0, WON)], total=1, title="lift")) == [(0, WON)]

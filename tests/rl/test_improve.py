import json
from dataclasses import replace

import pytest

from rl.improve import main, regression_set
from rl.model_registry import ModelRegistry
from rl.run_record import BadRun, read_run
from rl.trial import Trial

GOAL = "Lift the red cube."
FACTS = {
    "version": 1,
    "task": "lift",
    "goal": GOAL,
    "preset": "stiff",
    "seed": 3,
    "actors": 4,
    "reward": "heuristic",
    "git_revision": "abc",
}
STATE = {"env_steps": 1000, "updates": 500, "wall_s": 60.0, "cpu_s": 90.0}
WON = Trial(seed=0, success=True, time_s=2.0, end="done", gentle=True, guard_events={})


class Bench:
    """Runs whose policies succeed as often as a test says, and a registry."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.rates = folder, {}
        monkeypatch.setattr("rl.improve.play", self.play)

    def run(self, name, rate, *, elsewhere=None):
        """Make a run; `elsewhere` is its rate under other conditions than its own."""
        folder = self.folder / f"20261121_lift_{name}"
        (folder / "policy").mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(FACTS))
        (folder / "state.json").write_text(json.dumps(STATE))
        (folder / "policy" / "policy.json").write_text(json.dumps({"name": name}))
        self.rates[name] = rate, rate if elsewhere is None else elsewhere
        return folder

    def play(self, jobs, conditions):
        for index, (contender, seed) in enumerate(jobs):
            name = json.loads((contender.policy / "policy.json").read_text())["name"]
            own = (contender.goal, contender.preset, contender.variation) == (GOAL, "stiff", 0.0)
            rate = self.rates[name][0 if own else 1]
            # Seeds in a row succeed and fail evenly.
            success = int((seed + 1) * rate) > int(seed * rate)
            yield index, replace(WON, seed=seed, success=success)

    def improve(self, run, **words):
        given = {"run": run, "models": self.folder / "models", "pairs": 60, "first_seed": 0}
        return main([f"{name}={value}" for name, value in (given | words).items()])

    @property
    def registry(self):
        return ModelRegistry(self.folder / "models", GOAL)


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def test_the_first_version_needs_its_lower_bound(bench, capsys):
    assert bench.improve(bench.run("aaaa", 0.75)) == 1
    assert "lower bound is below 0.7" in capsys.readouterr().out
    assert bench.registry.history() == []
    assert bench.improve(bench.run("bbbb", 0.95)) == 0
    assert bench.registry.history() == ["0001-bbbb"]


def test_a_version_that_is_surely_better_is_promoted_with_its_evidence(bench):
    bench.improve(bench.run("aaaa", 0.5), least=0.3)
    assert bench.improve(bench.run("bbbb", 1.0)) == 0
    assert bench.registry.history() == ["0001-aaaa", "0002-bbbb"]
    card = json.loads((bench.registry.path / "0002-bbbb" / "card.json").read_text())
    names = ["as learnt", "other colours", "compliant twin", "varied table"]
    assert [found["condition"] for found in card["evidence"]] == names
    assert card["evidence"][0]["p_value"] <= 0.05
    assert card["run"] == "20261121_lift_bbbb"


@pytest.mark.parametrize("rate", [1.0, 0.96])
def test_a_version_that_is_no_better_is_not_promoted(bench, rate, capsys):
    bench.improve(bench.run("aaaa", 0.97))
    assert bench.improve(bench.run("bbbb", rate)) == 1
    assert "not certainly better" in capsys.readouterr().out
    assert bench.registry.history() == ["0001-aaaa"]


def test_a_version_that_forgets_is_not_promoted(bench, capsys):
    bench.improve(bench.run("aaaa", 0.5, elsewhere=1.0), least=0.3)
    assert bench.improve(bench.run("bbbb", 1.0, elsewhere=0.2)) == 1
    assert "worse than the deployed version with other colours" in capsys.readouterr().out
    assert bench.registry.history() == ["0001-aaaa"]


def test_the_test_stops_as_soon_as_it_is_certain(bench):
    bench.improve(bench.run("aaaa", 0.5), least=0.3)
    bench.improve(bench.run("bbbb", 1.0))
    card = json.loads((bench.registry.path / "0002-bbbb" / "card.json").read_text())
    assert card["evidence"][0]["pairs"] < 30


def test_rolling_back_puts_the_version_before_to_use(bench, capsys):
    bench.improve(bench.run("aaaa", 0.5), least=0.3)
    bench.improve(bench.run("bbbb", 1.0))
    words = ["rollback=1", f"goal={GOAL}", f"models={bench.folder / 'models'}"]
    assert main(words) == 0
    assert bench.registry.deployed().folder.name == "0001-aaaa"
    assert main(words) == 2
    assert "no earlier version" in capsys.readouterr().err


def test_a_version_after_a_roll_back_gets_a_number_of_its_own(bench):
    bench.improve(bench.run("aaaa", 0.5), least=0.3)
    bench.improve(bench.run("bbbb", 1.0))
    bench.registry.roll_back()
    bench.improve(bench.run("cccc", 1.0))
    assert bench.registry.history() == ["0001-aaaa", "0003-cccc"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "policy" / "policy.json").write_text("{}"),
        lambda folder: (folder / "policy" / "more.json").write_text("{}"),
        lambda folder: (folder / "policy" / "policy.json").unlink(),
        lambda folder: (folder / "run.json").write_text("{}"),
    ],
    ids=["changed", "added", "lost", "facts"],
)
def test_a_model_that_was_changed_is_refused(bench, capsys, spoil):
    bench.improve(bench.run("aaaa", 0.5), least=0.3)
    spoil(bench.registry.path / "0001-aaaa")
    with pytest.raises(BadRun, match="changed after it was promoted"):
        bench.registry.deployed()
    assert bench.improve(bench.run("bbbb", 1.0)) == 1
    assert "changed after it was promoted" in capsys.readouterr().err
    assert bench.registry.history() == ["0001-aaaa"]


def test_nobody_rolls_back_to_a_model_that_was_changed(bench):
    bench.improve(bench.run("aaaa", 0.5), least=0.3)
    bench.improve(bench.run("bbbb", 1.0))
    (bench.registry.path / "0001-aaaa" / "policy" / "policy.json").write_text("{}")
    with pytest.raises(BadRun):
        bench.registry.roll_back()
    assert bench.registry.history()[-1] == "0002-bbbb"


def test_the_regression_set_has_other_colours_another_twin_and_another_table(bench):
    run = read_run(bench.run("aaaa", 1.0))
    found = [(one.goal, one.preset, one.variation) for one in regression_set(run)]
    assert found == [
        ("Lift the green cube.", "stiff", 0.0),
        (GOAL, "compliant", 0.0),
        (GOAL, "stiff", 1.0),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected run=RUN"),
        (["run=/nowhere"], "there is no run folder"),
        (["run=x", "least=2"], "expected a share"),
        (["rollback=1", "goal=Dance."], "is not understood"),
        (["runs=x"], "known words"),
    ],
)
def test_bad_words_are_usage_errors(capsys, words, said):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_number_that_is_none_writes_nothing(bench, capsys):
    assert bench.improve(bench.run("aaaa", 1.0), pairs="many") == 2
    assert "pairs=many" in capsys.readouterr().err
    assert not (bench.folder / "models").exists()

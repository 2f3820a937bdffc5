import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from envs.twin_env import make_twin_env
from rewarder.goal import parse_goal
from rl.reality_gap import FIRST, ROWS, compared, main, overall, rows_of, verdict
from rl.trial import FIRST_SEED, Trial
from rl.trial_pool import Contender, load
from robot.perturbation import NOMINAL, Perturbation

WON = Trial(seed=0, success=True, time_s=2.0, end="done", gentle=True, guard_events={})
LOST = replace(WON, success=False, time_s=6.0, end="time_limit")
FACTS = {
    "version": 1,
    "task": "lift",
    "goal": "Lift the red cube.",
    "preset": "compliant",
    "arm": "randomised",
    "seed": 3,
    "actors": 4,
    "reward": "heuristic",
    "git_revision": "abc",
}
STATE = {"env_steps": 1000, "updates": 500, "wall_s": 60.0, "cpu_s": 90.0}


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "20261122_lift_1a2b3c4d"
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "policy.json").write_text("{}")
    (folder / "run.json").write_text(json.dumps(FACTS))
    (folder / "state.json").write_text(json.dumps(STATE))
    return folder


@pytest.fixture
def played(monkeypatch):
    """Lose every trial under backlash, win all others; the last job ends first."""
    asked = []

    def play(jobs, conditions):
        asked.extend(jobs)
        for index, (contender, seed) in reversed(list(enumerate(jobs))):
            lost = contender.perturbation.backlash_deg > 0
            yield index, replace(LOST if lost else WON, seed=seed)

    monkeypatch.setattr("rl.reality_gap.play", play)
    return asked


def test_every_row_but_the_first_changes_something_and_no_two_the_same():
    changes = [row.change for row in ROWS.values()]
    assert ROWS[FIRST].change == NOMINAL == changes[0]
    assert len(set(changes)) == len(changes) >= 10


def test_all_rows_are_tried_on_the_same_layouts(run, played):
    assert main([f"run={run}", "episodes=3", "first_seed=7"]) == 0
    seeds = {change: [] for change in (row.change for row in ROWS.values())}
    for contender, seed in played:
        assert (contender.policy, contender.preset) == (run / "policy", "compliant")
        seeds[contender.perturbation].append(seed)
    assert all(found == [7, 8, 9] for found in seeds.values())


def test_the_row_that_breaks_a_policy_is_told_from_the_others(run, played, capsys):
    assert main([f"run={run}", "episodes=30", "rows=dark,backlash"]) == 0
    result = json.loads((run / "reality_gap.json").read_text())
    nominal, backlash, dark = result["rows"]
    assert [row["row"] for row in result["rows"]] == ["nominal", "backlash", "dark"]
    assert "verdict" not in nominal
    assert (backlash["successes"], backlash["difference"], backlash["verdict"]) == (0, -1, "fails")
    assert backlash["change"] == {"backlash_deg": 1.0}
    assert (dark["successes"], dark["difference"], dark["verdict"]) == (30, 0, "holds")
    assert result["verdict"] == "fails"
    assert result["trained_on"] == {"arm": "randomised", "preset": "compliant"}
    assert {"command", "evaluated_revision", "machine", "seed"} <= result.keys()
    said = capsys.readouterr().out
    assert "-100 points" in said
    assert "At most 15 points lost in any row: fails" in said


def test_each_trial_on_file_says_its_row_and_seed(run, played):
    main([f"run={run}", "episodes=2", "rows=latency"])
    lines = (run / "reality_gap.jsonl").read_text().splitlines()
    found = sorted((line["row"], line["seed"]) for line in map(json.loads, lines))
    pairs = [(row, seed) for row in ("latency", "nominal") for seed in (0, 1)]
    assert found == [(row, FIRST_SEED + seed) for row, seed in pairs]


def test_another_twin_can_be_asked_for_and_a_copy_of_the_result(run, played, tmp_path):
    copy = tmp_path / "copy.json"
    main([f"run={run}", "episodes=1", "rows=nominal", "preset=stiff", f"json={copy}"])
    assert {contender.preset for contender, _ in played} == {"stiff"}
    assert json.loads(copy.read_text()) == json.loads((run / "reality_gap.json").read_text())


def test_a_stiff_twin_is_said_to_prove_little_of_sag(run, played, capsys):
    main([f"run={run}", "episodes=1", "rows=sag", "preset=stiff"])
    assert "preset=compliant does" in capsys.readouterr().out
    main([f"run={run}", "episodes=1", "rows=sag"])
    assert "preset=compliant does" not in capsys.readouterr().out


def test_trials_are_compared_seed_by_seed():
    found = compared([WON, WON, LOST, LOST], [WON, LOST, WON, LOST])
    assert (found["only_nominal"], found["only_row"], found["difference"]) == (1, 1, 0.0)


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [(-0.15, 0.1, "holds"), (-0.16, 0.1, "open"), (-0.4, -0.15, "open"), (-0.4, -0.16, "fails")],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(lower, upper, expected):
    assert verdict(lower, upper) == expected


def test_one_row_that_fails_decides_and_one_that_is_open_leaves_it_open():
    assert overall(["holds", "open", "fails"]) == "fails"
    assert overall(["holds", "open"]) == "open"
    assert overall(["holds", "holds"]) == "holds"


def test_a_few_rows_can_be_asked_for_and_the_nominal_one_is_always_there():
    assert rows_of("sag,latency") == ["nominal", "sag", "latency"]
    assert rows_of("all") == list(ROWS)


def test_a_perturbation_reaches_the_twin_that_is_played_on(monkeypatch, tmp_path):
    nominal = make_twin_env(parse_goal("Reach for the red cube."))
    policy = SimpleNamespace(spec=nominal.policy_spec)
    monkeypatch.setattr(
        "policy_server.backends.learned.LearnedPolicy.load", lambda folder, greedy: policy
    )
    dark = Contender(
        policy=tmp_path,
        goal="Reach for the red cube.",
        preset="stiff",
        perturbation=Perturbation(light=0.5),
    )
    pictures = [env.scene.frames()["front"].image for env in (nominal, load(dark)[0])]
    assert np.mean(pictures[1]) < 0.7 * np.mean(pictures[0])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "expected run=RUN"),
        (["run=RUN", "episodes=0"], 2, "episodes=0"),
        (["run=RUN", "episodes=many"], 2, "expected a whole number"),
        (["run=RUN", "rows=wind"], 2, "there is no 'wind'"),
        (["run=RUN", "preset=rubber"], 2, "preset=rubber; known: stiff, compliant"),
        (["run=/nowhere"], 2, "there is no run folder"),
        (["runs=x"], 2, "known words"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_writes_nothing(
    run, played, capsys, words, code, said
):
    assert main([word.replace("RUN", str(run)) for word in words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(run.glob("reality_gap*"))


def test_a_run_without_a_policy_is_refused(run, capsys):
    (run / "policy" / "policy.json").unlink()
    assert main([f"run={run}"]) == 1
    assert "has no policy yet" in capsys.readouterr().err
    assert not list(run.glob("reality_gap*"))

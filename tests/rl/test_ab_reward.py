import json
from pathlib import Path

import pytest

from rl.ab_reward import compare, contest_of, main, steps_to, table
from rl.run_folder import EPISODES, Counters, RunFolder
from rl.run_record import BadRun
from robot.words import UsageError

FACTS = {"goal": "Lift it.", "preset": "stiff", "seed": 0, "actors": 1, "git_revision": "0"}


class Trainer:
    """Trains at once: rewards of `good` teach, all others are fooled."""

    def __init__(self, *, good=("heuristic",), codes=()):
        self.good, self.codes, self.asked = good, list(codes), []

    def __call__(self, words):
        self.asked.append(list(words))
        given = dict(word.split("=", 1) for word in words)
        reward, runs = given["reward"], Path(given["runs"])
        if "resume" not in given:
            runs.mkdir(parents=True, exist_ok=True)
            folder = RunFolder.create(
                runs, task="lift", config="", facts={**FACTS, "reward": reward}
            )
            self.practise(folder, teaches=reward in self.good)
            folder.write_state(Counters(env_steps=400, updates=200, wall_s=60.0, cpu_s=60.0))
            folder.close()
        return self.codes.pop(0) if self.codes else 0

    def practise(self, folder, *, teaches):
        for number in range(20):
            truth = {"success": teaches and number >= 4}
            line = {"env_steps": 20 * (number + 1), "truth": truth, "transitions": 5}
            folder.append(EPISODES, {**line, "rewarded_success": number >= 4, "greedy": True})


class Evaluator:
    """Tries a policy at once: it succeeds if its reward taught it."""

    def __init__(self, good=("heuristic",)):
        self.good, self.asked = good, []

    def __call__(self, folder, conditions):
        self.asked.append(folder)
        won = any(reward in folder.parent.name for reward in self.good)
        run = RunFolder(folder)
        for seed in conditions.seeds:
            run.append("results.jsonl", {"seed": seed, "success": won})
        count = conditions.episodes if won else 0
        result = {"successes": count, "episodes": conditions.episodes, "wilson95": [0.7, 1.0]}
        result |= {"first_seed": conditions.first_seed, "judge": conditions.judge}
        (folder / "results.json").write_text(json.dumps(result))
        return result


@pytest.fixture
def contest(tmp_path):
    words = ["a=heuristic", "b=hackable", "seeds=0,1", "episodes=10", "task=lift", "steps=400"]
    return contest_of([*words, f"runs={tmp_path}"])


def test_both_rewards_train_on_the_same_seeds_with_the_same_settings(contest):
    trainer = Trainer()
    compare(contest, train=trainer, evaluate=Evaluator())
    kept = [(words[0], words[1], words[3:5]) for words in trainer.asked]
    settings = ["task=lift", "steps=400"]
    assert kept == [
        (f"reward={reward}", f"seed={seed}", settings)
        for seed in (0, 1)
        for reward in ("heuristic", "hackable")
    ]


def test_the_difference_is_judged_on_ground_truth_over_paired_layouts(contest):
    result = compare(contest, train=Trainer(), evaluate=Evaluator())
    pooled = result["pooled"]
    assert [pooled[name]["successes"] for name in ("heuristic", "hackable")] == [20, 0]
    assert (result["pairs"], result["only_a"], result["only_b"]) == (20, 20, 0)
    assert (result["difference_points"], result["p_value"] < 0.001) == (100.0, True)
    assert table(result).row_count == 4


def test_false_positives_of_each_reward_are_counted_against_the_truth(contest):
    result = compare(contest, train=Trainer(), evaluate=Evaluator())
    assert [
        (row["reward"], row["false_positives"], row["false_negatives"])
        for row in result["runs"][:2]
    ] == [("heuristic", 0, 0), ("hackable", 16, 0)]
    assert [row["steps_to_enough"] for row in result["runs"][:2]] == [240, None]


def test_what_is_there_is_not_done_again(contest):
    compare(contest, train=Trainer(), evaluate=Evaluator())
    trainer, evaluator = Trainer(), Evaluator()
    compare(contest, train=trainer, evaluate=evaluator)
    assert (trainer.asked, evaluator.asked) == ([], [])


def test_a_stopped_comparison_goes_on_with_the_run_it_was_at(contest):
    trainer = Trainer(codes=[0, 130])
    with pytest.raises(BadRun, match="the same command goes on") as stopped:
        compare(contest, train=trainer, evaluate=Evaluator())
    assert stopped.value.code == 130
    assert len(compare(contest, train=trainer, evaluate=Evaluator())["runs"]) == 4
    resumed = [words for words in trainer.asked if any("resume=" in word for word in words)]
    assert [(words[0], words[1]) for words in resumed] == [("reward=hackable", "seed=0")]


def test_a_training_that_was_frozen_counts_with_the_policy_it_has(contest):
    result = compare(contest, train=Trainer(codes=[4]), evaluate=Evaluator())
    assert len(result["runs"]) == 4


def test_a_training_that_fails_ends_the_comparison(contest):
    with pytest.raises(BadRun, match="ended with 1"):
        compare(contest, train=Trainer(codes=[1]), evaluate=Evaluator())


def test_runs_of_other_settings_are_not_mixed_in(contest, tmp_path):
    compare(contest, train=Trainer(), evaluate=Evaluator())
    words = ["a=heuristic", "b=hackable", "episodes=10", "task=lift", "steps=9", f"runs={tmp_path}"]
    with pytest.raises(BadRun, match="give other runs="):
        compare(contest_of(words), train=Trainer(), evaluate=Evaluator())


def test_the_first_lucky_episodes_are_no_success_rate():
    lines = [{"env_steps": n, "truth": {"success": n < 5}, "greedy": True} for n in range(40)]
    assert steps_to(lines, 0.8) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a=nothing"], "unknown reward 'nothing'; known:"),
        (["a=heuristic", "b=heuristic"], "are both"),
        (["b=remote", "seeds=one"], "whole numbers"),
        (["b=remote", "reward=remote"], "no setting that both"),
        (["b=remote", "lift"], "no setting that both"),
        (["b=remote", "episodes=0"], "at least one"),
    ],
)
def test_words_that_make_no_sense_are_one_line_and_exit_code_2(words, said, capsys):
    with pytest.raises(UsageError, match=said):
        contest_of(words)
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1

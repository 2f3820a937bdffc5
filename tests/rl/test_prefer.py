"""From pairs of a run's episodes to a policy that is a run's like any other, or to a refusal."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from policy_server.backends.learned import LearnedPolicy
from policy_server.backends.network import encoding_of
from policy_server.backends.residual import RECIPE
from policy_server.load import load_policy
from policy_server.policy import PolicyRequest
from rewarder.pairs import FILE, Pair, PairLabel, append_pairs
from rl.bc import write_policy
from rl.label import save_score
from rl.networks import Networks
from rl.prefer import (
    BY_TRUTH,
    _numbers,  # pyright: ignore[reportPrivateUsage]
    main,
)
from rl.run_folder import RunFolder
from rl.run_record import read_run
from rl.trial_pool import contender_of
from robot.journal import Journal
from tests.rl.prior_runs import fitting_episode, score_of
from tests.rl.test_bc import SPEC

FACTS = {
    "goal": "Lift the red cube.",
    "preset": "stiff",
    "seed": 0,
    "actors": 4,
    "reward": "heuristic",
    "git_revision": "0",
}
GOOD = np.array([0.6, -0.4, 0.2, 0.5], np.float32)


def played(number, *, success):
    """Return an episode that did what is good where it succeeded, and else the opposite."""
    episode = fitting_episode(number)
    truth = {"success": success, **({"success_at_s": 1.0 + number} if success else {})}
    info = replace(episode.info, truth=truth, goal=FACTS["goal"])
    rows = np.random.default_rng(number).normal((1 if success else -1) * GOOD, 0.05, (5, 4))
    return replace(episode, info=info, actions=rows.astype(np.float32))


@pytest.fixture
def run(tmp_path):
    """Return a run of ten episodes, five of which succeeded, and a policy."""
    folder = RunFolder.create(tmp_path / "runs", task="lift", config="", facts=FACTS)
    journal = Journal(folder.journal("arm01"))
    for number in range(10):
        episode = played(number, success=number % 2 == 0)
        journal.seal(episode)
        save_score(folder.labels, episode.info.episode, _score(episode))
    torch.manual_seed(0)
    networks = Networks(1, (encoding_of(SPEC).size, 32, 32, 8))
    write_policy(folder.policy, networks, SPEC, updates=100)
    folder.close()
    return folder


def _score(episode):
    score = score_of(episode, success=bool(episode.info.truth["success"]))
    return replace(score, progress=np.full_like(score.progress, 0.9 * score.success[0]))


def names(folder):
    return [path.stem for path in folder.episodes()]


def say(folder, sides, *, by="anna", person=True, file=None):
    """Have somebody judge pairs of a success and a failure; which is the first, `sides` say."""
    found, labels = names(folder), list[PairLabel]()
    for number, side in enumerate(sides):
        good, bad = found[2 * (number % 5)], found[2 * (number // 5 + number) % 10 + 1]
        pair = Pair(FACTS["goal"], *((good, bad) if side == "first" else (bad, good)))
        label = PairLabel.of_person(pair, side, by)
        labels.append(replace(label, person=person))
    append_pairs(file or folder.path / FILE, labels)


def call(folder, out, *words):
    return main(
        [
            f"run={folder.path}",
            f"out={out}",
            "updates=80",
            "learning_rate=3e-3",
            *words,
        ]
    )


def towards_good(folder):
    """Return how far an answer goes where all episodes were, along what is good there."""
    policy = LearnedPolicy.load(folder, greedy=True)
    state = {name: rows[0] for name, rows in fitting_episode(0).state.items()}
    request = PolicyRequest(state=state, goal=FACTS["goal"], observed_at=0.0)
    return float(policy.infer_batch([request])[0].actions[0] @ GOOD)


def test_a_policy_learns_from_what_a_person_said_and_is_served(run, tmp_path, capsys):
    say(run, ["first", "second"] * 4)
    out = tmp_path / "out"
    assert call(run, out) == 0
    assert towards_good(out / "policy") > towards_good(run.policy) + 0.2
    assert load_policy(str(out)).spec == SPEC
    record = read_run(out)
    assert (record.updates, record.goal) == (180, FACTS["goal"])
    assert contender_of(record, "stiff").policy == out / "policy"
    said = json.loads((out / "prefer.json").read_text())
    assert said["answers_by"] == {"people": {"anna": 8}, "models": {}}
    assert f"make evaluate RUN={out}" in capsys.readouterr().out
    assert LearnedPolicy.load(run.policy).version == 100


@pytest.mark.parametrize("pairs", ["truth", "scores"])
def test_pairs_are_judged_by_the_twin_or_by_the_labels_and_it_is_said_by_which(
    run, tmp_path, pairs
):
    assert call(run, tmp_path / "out", f"pairs={pairs}", "count=12") == 0
    assert towards_good(tmp_path / "out" / "policy") > towards_good(run.policy) + 0.2
    said = json.loads((tmp_path / "out" / "prefer.json").read_text())["answers_by"]
    assert said == {
        "people": {},
        "models": {BY_TRUTH if pairs == "truth" else "score of fake": 12},
    }


def test_another_policy_can_be_what_it_begins_with(run, tmp_path):
    say(run, ["first", "second"] * 4)
    torch.manual_seed(9)
    networks = Networks(1, (encoding_of(SPEC).size, 16, 8))
    write_policy(tmp_path / "bc", networks, SPEC, updates=7)
    assert call(run, tmp_path / "out", f"base={tmp_path / 'bc'}", "updates=1") == 0
    assert LearnedPolicy.load(tmp_path / "out" / "policy").version == 8


def refused(run, tmp_path, capsys, *words, code=2):
    before = {path for path in tmp_path.rglob("*") if path.name != "run.lock"}
    assert call(run, tmp_path / "out", *words) == code
    [line] = capsys.readouterr().err.splitlines()
    assert {path for path in tmp_path.rglob("*") if path.name != "run.lock"} == before
    return line


def test_no_pairs_are_refused(run, tmp_path, capsys):
    assert "PAIRS=40 asks people" in refused(run, tmp_path, capsys)


def test_too_few_answers_are_refused(run, tmp_path, capsys):
    say(run, ["first", "second"])
    assert "of 2 pairs 2 say" in refused(run, tmp_path, capsys)


def test_ties_alone_are_refused(run, tmp_path, capsys):
    say(run, ["tie"] * 8)
    assert "of 8 pairs 0 say" in refused(run, tmp_path, capsys)


def test_who_always_names_one_side_is_refused(run, tmp_path, capsys):
    say(run, ["first", "second"] * 3)
    say(run, ["second"] * 6, by="qwen", person=False)
    assert "all 6 answers by qwen prefer the second" in refused(run, tmp_path, capsys)


def test_a_truth_of_one_class_is_refused(run, tmp_path, capsys):
    for path in run.episodes():
        if int(path.stem[:6]) % 2 == 0:
            path.unlink()
    assert "say which episode is the better" in refused(run, tmp_path, capsys, "pairs=truth")


def test_pairs_of_another_run_are_refused(run, tmp_path, capsys):
    labels = [
        PairLabel.of_person(Pair("Lift it.", f"a{n}", f"b{n}"), side, "anna")
        for n in range(4)
        for side in ("first", "second")
    ]
    labels = [replace(one, by=f"anna{n}") for n, one in enumerate(labels)]
    append_pairs(tmp_path / "other.jsonl", labels)
    line = refused(run, tmp_path, capsys, f"pairs={tmp_path / 'other.jsonl'}")
    assert "of 8 pairs 0 are of episodes" in line


def test_pairs_of_another_action_space_are_refused(run, tmp_path, capsys):
    say(run, ["first", "second"] * 4)
    spec = replace(SPEC, action_space="joint_delta", action_dim=6)
    spec = replace(spec, state={**SPEC.state, "action": 6})
    networks = Networks(1, (encoding_of(spec).size, 8, 12))
    write_policy(tmp_path / "other", networks, spec, updates=1)
    line = refused(run, tmp_path, capsys, f"base={tmp_path / 'other'}")
    assert "ee_delta with 4 numbers" in line
    assert "joint_delta with 6" in line


def test_a_policy_that_corrects_another_is_refused(run, tmp_path, capsys):
    say(run, ["first", "second"] * 4)
    (run.policy / RECIPE).write_text("{}")
    assert "corrects another policy's rows" in refused(run, tmp_path, capsys)


def test_a_damaged_file_of_pairs_ends_with_one(run, tmp_path, capsys):
    (run.path / FILE).write_text('{"goal": ""}\n')
    assert "line 1" in refused(run, tmp_path, capsys, code=1)


def test_a_folder_that_is_there_is_never_overwritten(run, tmp_path, capsys):
    say(run, ["first", "second"] * 4)
    (tmp_path / "out").mkdir()
    assert "is there already" in refused(run, tmp_path, capsys)


def test_a_training_that_diverges_leaves_nothing(run, tmp_path, capsys, monkeypatch):
    say(run, ["first", "second"] * 4)
    # No rate that a person may give is enough for that.
    monkeypatch.setattr(
        "rl.prefer._numbers", lambda words: {**_numbers(words), "learning_rate": 1e30}
    )
    assert "lower learning_rate=" in refused(run, tmp_path, capsys, code=1)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("updates=0", "no whole number from 1 on"),
        ("keep=much", "are numbers"),
        ("discount=2", "up to 1"),
        ("held=1", "held= from 0 to 0.8"),
        ("relative=yes", "expected 1 or 0"),
        ("base=nowhere", "is no learnt policy"),
        ("run=nowhere", "no run folder"),
        ("colour=red", "known words"),
    ],
)
def test_words_that_cannot_be_meant_end_with_two(run, tmp_path, capsys, word, said):
    assert said in refused(run, tmp_path, capsys, word)

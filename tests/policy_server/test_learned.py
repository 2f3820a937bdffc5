import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from policy_server.backends.learned import LearnedPolicy, PolicyDamaged, describe
from policy_server.backends.network import encoding_of
from policy_server.backends.null import RandomPolicy
from policy_server.policy import PolicyRequest, PolicySpec

SPEC = PolicySpec(
    action_space="ee_delta", action_dim=4, state={"joint_pos": 6, "thing_from_jaw": 3, "held": 1}
)


def files(seed: int = 0) -> tuple[str, bytes]:
    random = torch.Generator().manual_seed(seed)
    sizes = (encoding_of(SPEC).size, 8, 8, 2 * SPEC.action_dim)
    tensors = {}
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        tensors[f"layers.{index}.weight"] = torch.randn(inputs, outputs, generator=random)
        tensors[f"layers.{index}.bias"] = torch.randn(outputs, generator=random)
        if index < 2:
            tensors[f"layers.{index}.gain"] = torch.randn(outputs, generator=random)
            tensors[f"layers.{index}.offset"] = torch.randn(outputs, generator=random)
    weights = save(tensors)
    facts = {"version": 42, "git_revision": "abc", "created_at": "2030-01-01T00:00:00+00:00"}
    return describe(SPEC, weights, hidden=(8, 8), **facts), weights


def folder_with(folder: Path, description: str, weights: bytes) -> Path:
    (folder / "policy.json").write_text(description)
    (folder / "policy.safetensors").write_bytes(weights)
    return folder


def request(seed: int = 0, stamp: float = 0.0) -> PolicyRequest:
    random = np.random.default_rng(seed)
    state = {name: random.normal(size=size).astype(np.float32) for name, size in SPEC.state.items()}
    return PolicyRequest(state=state, goal="", observed_at=stamp)


def test_a_policy_says_what_it_reads_and_which_version_it_is(tmp_path):
    policy = LearnedPolicy.load(folder_with(tmp_path, *files()))
    assert (policy.spec, policy.version) == (SPEC, 42)


def test_each_request_gets_one_row_within_bounds_and_its_own_stamp():
    chunks = LearnedPolicy.from_bytes(*files()).infer_batch([request(1, 0.5), request(2, 0.7)])
    assert [chunk.observed_at for chunk in chunks] == [0.5, 0.7]
    assert all(chunk.actions.shape == (1, 4) and abs(chunk.actions).max() <= 1 for chunk in chunks)


def test_the_greedy_action_is_the_same_alone_and_in_company():
    policy = LearnedPolicy.from_bytes(*files(), greedy=True)
    alone = policy.infer_batch([request(1)])[0].actions
    together = policy.infer_batch([request(0), request(1)])[1].actions
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_exploration_is_repeatable_by_seed_and_varies_from_call_to_call():
    first, second = (LearnedPolicy.from_bytes(*files(), seed=3) for _ in range(2))
    a, b = (first.infer_batch([request()])[0].actions for _ in range(2))
    assert not np.array_equal(a, b)
    assert np.array_equal(a, second.infer_batch([request()])[0].actions)


def test_weights_that_do_not_belong_to_the_description_are_refused(tmp_path):
    folder = folder_with(tmp_path, files(0)[0], files(1)[1])
    with pytest.raises(PolicyDamaged, match="does not belong"):
        LearnedPolicy.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "not of format"),
        ({"hidden": [16, 8]}, "expected shape"),
        ({"spec": {"action_dim": 4}}, "lacks something"),
        ({"encoding": None}, "lacks something"),
    ],
)
def test_a_description_that_is_not_right_is_refused_in_one_line(change, message):
    description, weights = files()
    with pytest.raises(PolicyDamaged, match=message) as caught:
        LearnedPolicy.from_bytes(json.dumps(json.loads(description) | change), weights)
    assert "\n" not in str(caught.value)


def test_a_state_without_a_vector_that_the_policy_reads_is_refused():
    asked = PolicyRequest(state={"joint_pos": np.zeros(6, np.float32)}, goal="", observed_at=0.0)
    with pytest.raises(ValueError, match="lacks 'thing_from_jaw'"):
        LearnedPolicy.from_bytes(*files()).infer_batch([asked])


def test_random_actions_fill_the_range_and_repeat_by_seed():
    one, same = (RandomPolicy(SPEC, seed=5) for _ in range(2))
    rows = [one.infer_batch([request()])[0].actions for _ in range(100)]
    assert np.abs(rows).max() <= 1
    assert np.min(rows) < -0.9 < 0.9 < np.max(rows)
    assert np.array_equal(rows[0], same.infer_batch([request()])[0].actions)

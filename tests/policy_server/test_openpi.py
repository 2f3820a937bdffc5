"""Behind an openpi server: here one of our own stands in, which speaks the same wire."""

from dataclasses import replace

import numpy as np
import pytest

from policy_server.backends.openpi import OpenPiPolicy
from policy_server.load import load_policy
from policy_server.policy import PolicyUnavailable
from tests.policy_server.served import SPEC, Ramp, ask, served

SIX = replace(
    SPEC, action_dim=6, state={"joint_pos": 6}, images=("base", "wrist"), image_size=(224, 224)
)
PICTURE = np.full((32, 32, 3), 5, np.uint8)


def request(**more):
    state = {"joint_pos": np.ones(6, np.float32)}
    return ask(**{"state": state, "images": {"front": PICTURE, "side": PICTURE}, **more})


def test_its_chunks_are_the_other_server_s():
    ramp = Ramp(SIX)
    with served(ramp) as address:
        policy = OpenPiPolicy(f"ws://{address}")
        chunks = policy.infer_batch([request(), request()])
    assert (policy.spec.horizon, len(chunks)) == (SIX.horizon, 2)
    assert chunks[0].actions.shape == (SIX.horizon, 6)
    assert ramp.asked[-1].images["wrist"].mean() == 5.0


def test_a_server_that_fails_or_is_gone_has_no_answer():
    ramp = Ramp(SIX)
    with served(ramp) as address:
        policy = OpenPiPolicy(f"ws://{address}")
        refused = policy.infer_batch([request(images={"side": PICTURE})])[0]
        again = policy.infer_batch([request()])[0]
    gone = policy.infer_batch([request()])[0]
    assert "base missing" in refused.refusal
    assert len(again.actions) == SIX.horizon
    assert "is lost" in gone.refusal


def test_where_no_server_is_the_policy_cannot_be_had():
    with pytest.raises(PolicyUnavailable, match="is lost"):
        load_policy("openpi:ws://127.0.0.1:9")

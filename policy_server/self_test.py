"""What a policy is asked before any arm may ask it: does it answer, and does it look and listen?"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from policy_server.policy import (
    Committed,
    Policy,
    PolicyRequest,
    PolicySpec,
    PolicyUnavailable,
)
from policy_server.scheduler import unusable

SIZE = (96, 96)
"""Of a picture for a policy that takes any."""
GOALS = ("Lift the red cube.", "Put the green cube in the blue bowl.")
WARM_UPS = 2
BATCHES = (1, 2, 4)


def try_out(policy: Policy) -> tuple[str, ...]:
    """Warm a policy up and return what it does not heed; raise `PolicyUnavailable` if it fails."""
    warm_up(policy)
    return unread(policy)


def warm_up(policy: Policy) -> None:
    """Have a policy answer batches of each size; raise `PolicyUnavailable` where it cannot.

    One that continues rows is asked to go on with its own, which may take a way of its own.
    """
    plain = probe(policy.spec)
    for size in BATCHES:
        for _ in range(WARM_UPS):
            rows = answers(policy, [plain] * size)[0]
            if policy.spec.rtc:
                going_on = replace(plain, committed=Committed(rows=rows, delay=min(1, len(rows))))
                answers(policy, [going_on] * size)


def unread(policy: Policy) -> tuple[str, ...]:
    """Return in sentences what changes nothing of a policy's answer though it should.

    Raise `PolicyUnavailable` for a policy with cameras that does not look through them: such a
    checkpoint was loaded wrongly (openvla issue 346).
    """
    spec = policy.spec
    if not spec.images:
        return ()
    seen = [answers(policy, [probe(spec, picture=picture)])[0] for picture in _pictures(spec)]
    if all(np.array_equal(seen[0], other) for other in seen[1:]):
        raise PolicyUnavailable("its answer does not depend on the picture: it was loaded wrongly")
    heard = [answers(policy, [probe(spec, goal=goal)])[0] for goal in GOALS]
    if spec.reads_goal and np.array_equal(heard[0], heard[1]):
        return ("its answer does not depend on the sentence",)
    return ()


def probes(spec: PolicySpec) -> list[PolicyRequest]:
    """Return requests that fit a spec: black, white and noisy pictures, and two sentences."""
    seen = [probe(spec, picture=picture) for picture in _pictures(spec)]
    return [*seen, *(probe(spec, goal=goal) for goal in GOALS)]


def probe(
    spec: PolicySpec, *, picture: NDArray[np.uint8] | None = None, goal: str = GOALS[0]
) -> PolicyRequest:
    """Return a request that fits a spec: a grey picture, an arm at rest."""
    grey = _picture(spec, 128) if picture is None else picture
    return PolicyRequest(
        state={name: np.zeros(size, np.float32) for name, size in spec.state.items()},
        images=dict.fromkeys(spec.images, grey),
        goal=goal,
        observed_at=0.0,
    )


def _pictures(spec: PolicySpec) -> list[NDArray[np.uint8]]:
    dark, bright = (_picture(spec, value) for value in (0, 255))
    noise = np.random.default_rng(0).integers(0, 256, dark.shape, dtype=np.uint8)
    return [dark, bright, noise]


def _picture(spec: PolicySpec, value: int) -> NDArray[np.uint8]:
    return np.full((*(spec.image_size or SIZE), 3), value, np.uint8)


def answers(policy: Policy, requests: Sequence[PolicyRequest]) -> list[NDArray[np.float32]]:
    """Return the rows of each answer; raise `PolicyUnavailable` where the policy fails."""
    try:
        chunks = policy.infer_batch(requests)
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError) as error:
        raise PolicyUnavailable(f"it fails on a plain request: {error}") from error
    return [
        _rows(policy.spec, chunk.actions, unusable(chunk, policy.spec.action_dim))
        for chunk in chunks
    ]


def _rows(spec: PolicySpec, rows: NDArray[np.float32], trouble: str) -> NDArray[np.float32]:
    """Return a chunk's rows; one that has none is an answer as well, if an odd one."""
    return np.zeros((spec.horizon, spec.action_dim), np.float32) if trouble else rows

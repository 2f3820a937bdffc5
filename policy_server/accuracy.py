"""How far a policy's answers are from those of the same weights in float32, uncompiled."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policy_server.policy import Policy, PolicyUnavailable
from policy_server.self_test import answers, probes

type Rows = NDArray[np.float32]

TOLERANCE = 1.0
"""Difference of a number, degrees or percent, beyond which it is said so: what an arm's play is."""
TOO_FAR = 5.0
"""Beyond this the policy is not served."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Differences from float32 on the self-test's observations, in the rows' units."""

    largest: float
    mean: float
    observations: int
    tolerance: float = TOLERANCE

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return in a sentence what is more than the tolerance."""
        if self.largest <= self.tolerance:
            return ()
        return (
            f"its numbers are up to {self.largest:.2f} from float32's, more than "
            f"{self.tolerance:g} degree or percent",
        )


def plain_answers(load: Callable[[], Policy | None]) -> list[Rows] | None:
    """Return what a policy says to the self-test's observations, and let go of it.

    None where there is no such policy; raise `PolicyUnavailable` where it cannot be had.
    """
    policy = load()
    said = None if policy is None else _said(policy)
    # The same weights in another type come next, and may not fit in beside these.
    del policy
    gc.collect()
    return said


def compare(policy: Policy, wanted: Sequence[Rows]) -> Accuracy:
    """Return how far a policy is from `wanted`; raise `PolicyUnavailable` if it is too far."""
    pairs = zip(_said(policy), wanted, strict=True)
    apart = np.concatenate([np.abs(ours - theirs).ravel() for ours, theirs in pairs])
    accuracy = Accuracy(
        largest=round(float(apart.max()), 4),
        mean=round(float(apart.mean()), 4),
        observations=len(wanted),
    )
    if accuracy.largest > TOO_FAR:
        raise PolicyUnavailable(
            f"its numbers are up to {accuracy.largest:.1f} from float32's, more than {TOO_FAR:g} "
            "degrees or percent: serve it with dtype=float32 int8=false compiled=false"
        )
    return accuracy


def _said(policy: Policy) -> list[Rows]:
    # One by one: the answers of some depend on the whole batch.
    return [answers(policy, [one])[0] for one in probes(policy.spec)]

"""Learning to correct a policy that is served elsewhere: what acts, and what learns."""

import os
from typing import Any

import numpy as np

from envs.twin_env import ACTION_SPACES, SAFETY
from policy_server.backends.residual import Growth, ResidualPolicy, corrections_of
from policy_server.client import RemotePolicy
from policy_server.handshake import SpecMismatch
from policy_server.policy import Policy, PolicySpec, PolicyUnavailable
from rl.learner import Learner
from rl.residual_base import MISSING, Recipe
from rl.run_record import BadRun
from robot.limits import SafetyLimits


def residual_learner(spec: PolicySpec, **settings: Any) -> Learner:  # noqa: ANN401 - SAC's own
    """Return what learns to correct a policy that acts in `spec`; it begins with no correction."""
    # SB3 costs seconds, and the arms, which import this module, have no use for it.
    from rl.sac import SacLearner  # noqa: PLC0415

    return SacLearner(corrections_of(spec), starts_at_zero=True, **settings)


def residual_policy(  # noqa: PLR0913 - the function is the schema of conf/policy/residual.yaml
    *,
    url: str,
    arm: PolicySpec,
    base: str | None = None,
    noise: float = 0.0,
    alpha: float,
    first: float,
    updates: int,
    realtime: bool,
    token: str | None = None,
    **link: Any,  # noqa: ANN401 - RemotePolicy's own
) -> ResidualPolicy:
    """Return one arm's policy over the base at `url`; raise as `RemotePolicy` does.

    conf/policy/residual.yaml says what the settings do; `noise` is the base's own affair.
    """
    del noise
    growth = Growth(alpha=alpha, first=first, updates=updates)
    least, greatest = ACTION_SPACES[arm.action_space](SafetyLimits.load(SAFETY)).bounds
    return ResidualPolicy(
        RemotePolicy(url, arm, token=token, waits=not realtime, **link),
        arm=arm,
        bounds=(least.astype(np.float32), greatest.astype(np.float32)),
        growth=growth,
        name=base or url,
    )


def composed(
    learnt: Policy, recipe: Recipe, *, version: int, url: str, arm: PolicySpec, realtime: bool
) -> ResidualPolicy:
    """Return a stored correction and its base, which answers at `url`, as one policy for an arm.

    Raise `BadRun` where no base answers, or another one, or where it does not fit the arm.
    """
    settings: dict[str, Any] = {**recipe.settings, "base": recipe.base, "realtime": realtime}
    token = os.environ.get("POLICY_SERVER_TOKEN") or None
    try:
        policy = residual_policy(url=url, arm=arm, token=token, **settings)
    except (PolicyUnavailable, SpecMismatch) as error:
        raise BadRun(str(error), code=MISSING) from error
    trouble = _misfit(policy, recipe, learnt.spec)
    if trouble:
        policy.close()
        raise BadRun(trouble)
    policy.correct(learnt, version=version)
    return policy


def _misfit(policy: ResidualPolicy, recipe: Recipe, learnt: PolicySpec) -> str:
    """Return why a correction is not for this base and this arm; nothing where it is."""
    if policy.spec.checkpoint != recipe.checkpoint:
        return (
            f"{recipe.base} serves {policy.spec.checkpoint or 'a policy without a hash'}, what was "
            f"learnt corrects {recipe.checkpoint or 'one without'}: serve the base it began with"
        )
    if policy.corrections != learnt:
        return f"what was learnt reads {learnt}, the arm gives {policy.corrections}"
    return ""

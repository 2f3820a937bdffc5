"""Whether a policy and an arm fit, before anything moves."""

from collections.abc import Mapping

from policy_server.cameras import CameraMismatch, camera_map
from policy_server.policy import PolicySpec


class SpecMismatch(ValueError):
    """A policy that is not for this arm, in one sentence with what would mend it."""


def agree(
    policy: PolicySpec, arm: PolicySpec, *, rename: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the arm's camera for each of the policy's; raise `SpecMismatch`.

    `arm` says what the arm's environment offers; `rename` gives its cameras by the policy's names.
    """
    for what in ("robot", "action_space", "action_dim", "hz"):
        wants, has = getattr(policy, what), getattr(arm, what)
        if wants != has:
            raise SpecMismatch(f"the policy's {what} is {wants}, the arm's {has}{_advice(what)}")
    names, joints = policy.action_names, arm.action_names
    if names and joints and names != joints:
        raise SpecMismatch(f"the policy's rows are {', '.join(names)}; here: {', '.join(joints)}")
    for name, size in policy.state.items():
        if arm.state.get(name) != size:
            offered = ", ".join(f"{n} ({s})" for n, s in arm.state.items())
            raise SpecMismatch(f"the policy reads {name} ({size}); the arm offers {offered}")
    try:
        return camera_map(policy.images, arm.images, blank=policy.blank_images, rename=rename)
    except CameraMismatch as error:
        raise SpecMismatch(str(error)) from error


def _advice(what: str) -> str:
    known = {"action_space": ": set arm.actions", "hz": ": set arm.hz"}
    return known.get(what, "")

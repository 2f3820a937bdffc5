"""The seam to every learner."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from policy_server.policy import PolicySpec
from rl.transition import Transition


class Learner(Protocol):
    """Anything that turns labelled episodes into a better policy."""

    @property
    def is_taught(self) -> bool:
        """Return whether its policy is worth acting by before the first update."""
        ...

    def add(self, transitions: Sequence[Transition]) -> None:
        """Take in one labelled episode, in order."""
        ...

    def update(self, steps: int) -> Mapping[str, float]:
        """Take gradient steps; return mean losses and other figures, named `learner/quantity`."""
        ...

    def snapshot(self, folder: Path) -> None:
        """Write the policy as `policy.safetensors` and `policy.json`, atomically."""
        ...

    def save(self, folder: Path) -> None:
        """Write everything but the replay that a resumed run needs, atomically."""
        ...

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote."""
        ...


class NoLearner:
    """Learns nothing, where the arms act by a policy from elsewhere."""

    is_taught = False

    def __init__(self, spec: PolicySpec, *, seed: int, git_revision: str) -> None:
        """Take what every learner is given."""

    def add(self, transitions: Sequence[Transition]) -> None:
        """Take in an episode, for nothing."""

    def update(self, steps: int) -> Mapping[str, float]:  # noqa: ARG002 - the learners' signature
        """Return no figures."""
        return {}

    def snapshot(self, folder: Path) -> None:
        """Write nothing."""

    def save(self, folder: Path) -> None:
        """Write nothing."""

    def load(self, folder: Path) -> None:
        """Go on from nothing."""

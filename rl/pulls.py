"""What pulls SAC's actor beside its own learning: recordings, and what people prefer."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from policy_server.policy import PolicySpec
from rl.bc import steps_of
from rl.bc_term import BcTerm
from rl.command_line import find_run
from rl.networks import Networks
from rl.prefer import labels_of, ranked_of
from rl.preference import Contrast
from rl.preference_term import PreferenceTerm
from robot.journal import read_episode
from robot.words import UsageError


class Pull(Protocol):
    """Gradient steps on an actor alone, fewer and fewer as it learns by itself."""

    def step(self, updates: int, taken: int) -> dict[str, float]:
        """Pull after a slice of `taken` updates, `updates` in all; return figures."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Return all that a step reads or changes besides the actor, by name and not copied."""
        ...

    @property
    def rng_state(self) -> str:
        """Return, as JSON, where the generator of the draws stands."""
        ...

    @rng_state.setter
    def rng_state(self, state: str) -> None: ...


def pulls_of(
    spec: PolicySpec,
    networks: Networks,
    *,
    bc: Mapping[str, Any] | None,
    preferences: Mapping[str, Any] | None,
    runs: Path,
    seed: int,
) -> dict[str, Pull]:
    """Return what pulls an actor, by name.

    `bc` and `preferences` name a `run` whose episodes are copied or compared, and settings of
    `BcTerm` or `PreferenceTerm`; `preferences` may also say which `pairs` (as `rl.prefer` takes
    them) and how many (`count`). Raise `ValueError` where one makes no sense, `BadRun` for a run
    that there is not.
    """
    pulls: dict[str, Pull] = {}
    if bc is not None:
        settings = dict(bc)
        folder = find_run(_run_of(settings, "bc"), runs)
        steps = steps_of((read_episode(path) for path in folder.episodes()), spec)
        pulls["bc"] = BcTerm(steps, spec, networks, seed=seed, **settings)
    if preferences is not None:
        settings = dict(preferences)
        folder = find_run(_run_of(settings, "preferences"), runs)
        pairs, count = str(settings.pop("pairs", "")), int(settings.pop("count", 200))
        try:
            labels = labels_of(folder, pairs, count=count, seed=seed)
            ranked = ranked_of(folder, labels, spec)
        except UsageError as error:
            raise ValueError(f"preferences: {error}") from None
        pulls["preferences"] = PreferenceTerm(
            ranked, spec, networks, Contrast(), seed=seed, **settings
        )
    return pulls


def _run_of(settings: dict[str, Any], name: str) -> str:
    """Take the run out of settings; raise `ValueError` where there is none."""
    run = str(settings.pop("run", ""))
    if not run:
        raise ValueError(f"{name} names no run; give learner.{name}.run=runs/…")
    return run

"""What pulls SAC's actor beside its own learning: recordings, and what people prefer."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from policy_server.policy import PolicySpec
from rl.adam import Adam
from rl.bc import EXPERTS, Copying, Steps, steps_of
from rl.command_line import find_run
from rl.networks import Networks
from rl.prefer import labels_of, ranked_of
from rl.preference import Contrast, Pairwise
from rl.run_folder import RunFolder
from robot.journal import SOURCES, read_episode
from robot.words import UsageError

TOO_LITTLE = 1e-3
"""Below this weight nothing is pulled any more."""


class Lesson(Protocol):
    """What an actor can take gradient steps on."""

    def descend(self, optimizer: Adam) -> float:
        """Take one step and return the loss."""
        ...

    def tensors(self) -> Mapping[str, Tensor]:
        """Return what it remembers of the actor that it began with, by name and not copied."""
        ...


class Pull:
    """Gradient steps on an actor alone, fewer and fewer as it learns by itself.

    Its weight is `weight` at first and halves every `half_life` updates of the learner. Adam takes
    steps of one length whatever a loss is multiplied by, so the weight scales the learning rate.
    """

    def __init__(  # noqa: PLR0913 - the settings of one pull
        self,
        name: str,
        lesson: Lesson,
        networks: Networks,
        draws: np.random.Generator,
        *,
        share: float,
        learning_rate: float,
        weight: float = 1.0,
        half_life: float = 5000,
    ) -> None:
        """Take `share` as many steps as the learner takes updates; `lesson` draws by `draws`.

        Raise `ValueError` for a setting that makes no sense.
        """
        for what, value in (("half_life", half_life), ("share", share)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}: {what} is {value!r}; expected a number above 0")
        if not 0 <= weight <= 1:
            raise ValueError(f"{name}: weight is {weight!r}; expected a number from 0 to 1")
        self._name, self._lesson, self._draws = name, lesson, draws
        self._weight, self._half_life, self._share = weight, half_life, share
        self._learning_rate = learning_rate
        self._optimizer = Adam([networks.flat], learning_rate)

    def weight(self, updates: int) -> float:
        """Return how hard it pulls after so many updates of the learner."""
        return self._weight * 0.5 ** (updates / self._half_life)

    def step(self, updates: int, taken: int) -> dict[str, float]:
        """Pull after a slice of `taken` updates, `updates` in all; return figures."""
        weight = self.weight(updates)
        if weight < TOO_LITTLE:
            return {f"learner/{self._name}_weight": 0.0}
        self._optimizer.param_groups[0]["lr"] = weight * self._learning_rate
        due = int(self._share * updates) - int(self._share * (updates - taken))
        losses = [self._lesson.descend(self._optimizer) for _ in range(due)]
        figures = {f"learner/{self._name}_loss": sum(losses) / due} if due else {}
        return {**figures, f"learner/{self._name}_weight": weight}

    def tensors(self) -> Mapping[str, Tensor]:
        """Return all that a step reads or changes besides the actor, by name and not copied."""
        moments = self._optimizer.moments[0].named()
        kept = {f"adam.{name}": tensor for name, tensor in moments.items()}
        return {f"{self._name}_{name}": t for name, t in {**kept, **self._lesson.tensors()}.items()}

    @property
    def rng_state(self) -> str:
        """Return, as JSON, where the generator of the draws stands."""
        return json.dumps(self._draws.bit_generator.state)

    @rng_state.setter
    def rng_state(self, state: str) -> None:
        self._draws.bit_generator.state = json.loads(state)


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
    `Pull`; `bc` with `taken_over` copies only what a person or the expert did, and `preferences`
    may say which `pairs` (as `rl.prefer` takes them) and how many (`count`). Raise `ValueError`
    where one makes no sense, `BadRun` for a run that there is not.
    """
    pulls: dict[str, Pull] = {}
    if bc is not None:
        settings, draws = (
            {"share": 0.25, "learning_rate": 5e-4, **bc},
            np.random.default_rng([seed, 2]),
        )
        folder = find_run(_run_of(settings, "bc"), runs)
        steps = _copied(folder, spec, experts=bool(settings.pop("taken_over", False)))
        pulls["bc"] = Pull("bc", Copying(steps, spec, networks, draws), networks, draws, **settings)
    if preferences is not None:
        pulls["preferences"] = _by_preferences(spec, networks, preferences, runs, seed)
    return pulls


def _copied(folder: RunFolder, spec: PolicySpec, *, experts: bool) -> Steps:
    """Return what is copied of a run; raise `ValueError` where nobody took over."""
    episodes = (read_episode(path) for path in folder.episodes())
    steps = steps_of(episodes, spec, by=EXPERTS if experts else SOURCES)
    if not len(steps.states):
        raise ValueError(
            f"bc: nobody took over in {folder.path}; expected steps of {' or '.join(EXPERTS)}: "
            "give a run with take-overs, or leave taken_over out"
        )
    return steps


def _by_preferences(
    spec: PolicySpec, networks: Networks, given: Mapping[str, Any], runs: Path, seed: int
) -> Pull:
    settings, draws = (
        {"share": 0.1, "learning_rate": 1e-4, **given},
        np.random.default_rng([seed, 3]),
    )
    folder = find_run(_run_of(settings, "preferences"), runs)
    pairs, count = str(settings.pop("pairs", "")), int(settings.pop("count", 200))
    try:
        labels = labels_of(folder, pairs, count=count, seed=seed)
        ranked = ranked_of(folder, labels, spec)
    except UsageError as error:
        raise ValueError(f"preferences: {error}") from None
    lesson = Pairwise(ranked, spec, networks, Contrast(), draws=draws)
    return Pull("preferences", lesson, networks, draws, **settings)


def _run_of(settings: dict[str, Any], name: str) -> str:
    """Take the run out of settings; raise `ValueError` where there is none."""
    run = str(settings.pop("run", ""))
    if not run:
        raise ValueError(f"{name} names no run; give learner.{name}.run=runs/…")
    return run

"""One step of an episode as a learner sees it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

type State = Mapping[str, NDArray[np.float32]]
"""The environment's observation vectors by name."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Transition:
    """What was seen, done, earned and seen next."""

    state: State
    action: NDArray[np.float32]
    """In the policy's own space; the person's where a person took over."""
    reward: float
    reward_before: float
    """What arriving in `state` earns: the reward of a step that changes nothing."""
    next_state: State
    terminated: bool
    """Success or failure ended the episode here: nothing can be earned afterwards."""
    truncated: bool
    """Clock, operator or a lost link ended the episode here."""

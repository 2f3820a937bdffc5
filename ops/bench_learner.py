"""Updates a second of our learner against stock SB3 SAC with the same LayerNorm networks.

`python -m ops.bench_learner [--hidden 256 256] [--batch 256] [--json PATH]`: one process, one
thread, the two alternate, CPU time. Prints a table; a ratio is the median over the rounds.
"""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false
# SB3's own types are partly unknown.

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from envs.state import sizes
from policy_server.backends.network import encoding_of
from policy_server.policy import PolicySpec
from rl.sac import SacLearner
from rl.transition import State, Transition

STEPS = 5000
"""Random steps that both learn from."""
SPEC = PolicySpec(action_space="ee_delta", action_dim=4, state=sizes(4))


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSpeed:
    """How fast both learners are."""

    hidden: list[int]
    batch_size: int
    updates_per_cpu_s: float
    sb3_updates_per_cpu_s: float
    ratio: float
    """Median of the rounds' ratios: the two ran one after the other in each round."""
    rounds: int
    updates: int
    """Updates of each in a round."""


class PlainActor(Actor):
    """SB3's actor with LayerNorm behind every hidden linear layer."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - SB3's, passed on
        super().__init__(**kwargs)
        layers = create_mlp(
            self.features_dim, -1, self.net_arch, post_linear_modules=[nn.LayerNorm]
        )
        self.latent_pi = nn.Sequential(*layers)


class PlainCritic(ContinuousCritic):
    """SB3's critics with LayerNorm behind every hidden linear layer."""

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - SB3's, passed on
        super().__init__(**kwargs)
        inputs = kwargs["features_dim"] + get_action_dim(self.action_space)
        for index in range(self.n_critics):
            layers = create_mlp(inputs, 1, kwargs["net_arch"], post_linear_modules=[nn.LayerNorm])
            self.q_networks[index] = nn.Sequential(*layers)
            setattr(self, f"qf{index}", self.q_networks[index])


class PlainPolicy(SACPolicy):
    """SB3's policy with LayerNorm, in the few lines that SB3 asks for."""

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> PlainActor:
        """Return an actor."""
        return PlainActor(**self._update_features_extractor(self.actor_kwargs, features_extractor))

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> PlainCritic:
        """Return critics."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return PlainCritic(**kwargs)


class _Spaces(gymnasium.Env[Any, Any]):
    def __init__(self, inputs: int, action_dim: int) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (inputs,))
        self.action_space = spaces.Box(-1.0, 1.0, (action_dim,))


def stock_sac(
    hidden: Sequence[int],
    env: gymnasium.Env[Any, Any] | None = None,
    **options: Any,  # noqa: ANN401 - SB3's, passed on
) -> SAC:
    """Return SB3's SAC with the plain LayerNorm policy and the learner's default settings."""
    settings: dict[str, Any] = {
        "learning_rate": 5e-4,
        "buffer_size": STEPS,
        "tau": 0.01,
        "gamma": 0.97,
        "ent_coef": "auto_0.05",
        "target_entropy": -SPEC.action_dim / 2,
        "policy_kwargs": {"net_arch": list(hidden)},
        "device": "cpu",
        "seed": 0,
    }
    env = env or _Spaces(encoding_of(SPEC).size, SPEC.action_dim)
    model = SAC(PlainPolicy, env, **settings | options)
    model.set_logger(Logger(folder=None, output_formats=[]))
    return model


def random_steps(count: int, random: np.random.Generator) -> list[Transition]:
    """Return unrelated steps that fit `SPEC`."""

    def state() -> State:
        return {k: random.normal(size=n).astype(np.float32) for k, n in SPEC.state.items()}

    return [
        Transition(
            state=state(),
            action=random.uniform(-1, 1, SPEC.action_dim).astype(np.float32),
            reward=float(random.uniform(-1, 0)),
            reward_before=float(random.uniform(-1, 0)),
            next_state=state(),
            terminated=bool(random.random() < 0.02),
            truncated=False,
        )
        for _ in range(count)
    ]


def measure(
    hidden: Sequence[int], *, batch_size: int = 256, rounds: int = 5, updates: int = 60
) -> LearnerSpeed:
    """Alternate both learners in this process and return how fast they were."""
    random = np.random.default_rng(0)
    ours = SacLearner(SPEC, hidden=hidden, batch_size=batch_size)
    ours.add(random_steps(STEPS, random))
    theirs = stock_sac(hidden)
    _fill(theirs, random)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = [
            (
                _rate(lambda: ours.update(updates), updates),
                _rate(lambda: theirs.train(updates, batch_size), updates),
            )
            for _ in range(rounds + 1)
        ][1:]
    finally:
        torch.set_num_threads(threads)
    return LearnerSpeed(
        hidden=list(hidden),
        batch_size=batch_size,
        updates_per_cpu_s=round(statistics.median(a for a, _ in pairs), 1),
        sb3_updates_per_cpu_s=round(statistics.median(b for _, b in pairs), 1),
        ratio=round(statistics.median(a / b for a, b in pairs), 2),
        rounds=rounds,
        updates=updates,
    )


def _fill(model: SAC, random: np.random.Generator) -> None:
    inputs = encoding_of(SPEC).size
    replay: Any = model.replay_buffer
    for _ in range(STEPS):
        now, then = random.normal(size=(2, 1, inputs)).astype(np.float32)
        action = random.uniform(-1, 1, (1, SPEC.action_dim)).astype(np.float32)
        done = np.array([random.random() < 0.02])
        replay.add(now, then, action, random.uniform(-1, 0, 1), done, [{}])


def _rate(work: Callable[[], object], updates: int) -> float:
    start = time.process_time()
    work()
    return updates / (time.process_time() - start)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", help="sizes; default: 256 256 and 128 128")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = [options.hidden] if options.hidden else [[256, 256], [128, 128]]
    results = [measure(h, batch_size=options.batch, rounds=options.rounds) for h in sizes]
    print("hidden        batch   ours    SB3  ratio   (updates per CPU second)")
    for row in results:
        speeds = f"{row.updates_per_cpu_s:6.1f} {row.sb3_updates_per_cpu_s:6.1f}"
        print(f"{row.hidden!s:13} {row.batch_size:5} {speeds} {row.ratio:6.2f}")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in results], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

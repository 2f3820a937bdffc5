"""The alternative to the whole loop: SB3's own `SAC.learn()` on one arm in one process."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false
# SB3's and torch's own types are partly unknown.

import time
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from envs.arm_env import ArmEnv
from envs.twin_env import make_task_env
from envs.wrappers import HeuristicReward
from ops.bench_learner import stock_sac
from policy_server.backends.network import Encoder, encoding_of
from rl.rollout import TruthWatch

WARMUP_STEPS = 2000
TOTAL_STEPS = 60_000


class Encoded(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Gives SB3 the numbers that our networks get, and notes the truth of each episode."""

    def __init__(self, env: HeuristicReward) -> None:
        super().__init__(env)
        arm_env = env.unwrapped
        assert isinstance(arm_env, ArmEnv)  # noqa: S101 - HeuristicReward has checked
        self._arm_env, spec = arm_env, arm_env.policy_spec
        self._names, encoding = tuple(spec.state), encoding_of(spec)
        self._encode = Encoder(encoding)
        self.observation_space = spaces.Box(-np.inf, np.inf, (encoding.size,))
        self._watch = TruthWatch(arm_env)
        self.done: list[bool] = []

    def observation(self, observation: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
        """Return the joined, scaled state, shape (size,)."""
        joined = np.concatenate([observation[name] for name in self._names])
        return self._encode(torch.from_numpy(joined[None]))[0].numpy()

    def reset(self, **options: Any) -> Any:  # noqa: ANN401 - Gymnasium's, passed on
        """Begin an episode."""
        self._watch = TruthWatch(self._arm_env)
        return super().reset(**options)

    def step(self, action: Any) -> Any:  # noqa: ANN401 - Gymnasium's, passed on
        """Act, and look at the truth."""
        result = super().step(action)
        self._watch.look()
        if result[2] or result[3]:
            self.done.append(bool(self._watch.said()["success"]))
        return result


class _Until(BaseCallback):
    def __init__(self, stop: Callable[[], bool]) -> None:
        super().__init__()
        self._stop = stop

    def _on_step(self) -> bool:
        return not self._stop()


def seconds_to_success(
    task: str, *, works: Callable[[Sequence[bool]], bool], give_up_s: float
) -> float | None:
    """Return how long SB3 takes until `works` of its episodes' truths, None if it gives up."""
    torch.set_num_threads(1)
    started = time.monotonic()
    env = Encoded(HeuristicReward(make_task_env(task)))
    model = stock_sac(
        [256, 256],
        env=env,
        buffer_size=TOTAL_STEPS,
        learning_starts=WARMUP_STEPS,
        train_freq=2,
        gradient_steps=1,
        batch_size=256,
    )

    def stop() -> bool:
        return works(env.done) or time.monotonic() - started > give_up_s

    model.learn(TOTAL_STEPS, callback=_Until(stop))
    return round(time.monotonic() - started, 1) if works(env.done) else None

"""One arm's worker: practises, seals what happened, and takes newer policies as they come."""

import secrets
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from envs.arm_env import ArmEnv, Closing
from policy_server.backends.null import RandomPolicy
from policy_server.backends.residual import ResidualPolicy
from policy_server.policy import Policy, PolicySpec
from rl.fleet import Finished, Snapshot
from rl.put_back import LAID_OUT_BY, PutBack, put_back
from rl.rollout import Plan, run_episode
from rl.trial import FIRST_SEED
from robot.journal import Episode, EpisodeInfo, Journal, read_episode
from robot.sealed import Damaged

LATELY = 30
"""A layout is worth another try if the arm failed on it in so many of its newest episodes."""


class Layouts:
    """Draws the layout of each episode, by seed: mostly fresh ones, some failed on lately."""

    def __init__(self, seed: int, arm_key: int, *, hard_share: float) -> None:
        """Draw so large a share, 0 to 1, from the layouts that were failed on."""
        self._seed, self._arm_key, self._hard_share = seed, arm_key, hard_share
        self._lately: deque[tuple[int, bool]] = deque(maxlen=LATELY)

    def draw(self, number: int, *, fresh: bool) -> int:
        """Return the seed of an arm's episode of this number; a fresh one where that is asked."""
        hard = self.hard
        chance = np.random.default_rng([self._seed, self._arm_key, number, 1])
        if hard and not fresh and chance.random() < self._hard_share:
            return hard[int(chance.integers(len(hard)))]
        return training_seed(self._seed, self._arm_key, number)

    def see(self, info: EpisodeInfo) -> None:
        """Remember how an episode ended, to the arm's own eyes; acting at random proves nothing."""
        if info.policy != "random" and info.end in ("seems_done", "time_limit"):
            self._lately.append((info.seed, info.end == "time_limit"))

    @property
    def hard(self) -> list[int]:
        """Return the seeds of layouts on which the newest try failed."""
        return [seed for seed, failed in dict(self._lately).items() if failed]


class Worker:
    """Practises on one arm; each episode is sealed in the arm's journal before it counts."""

    def __init__(  # noqa: PLR0913 - one keyword each for what an arm is
        self,
        *,
        arm: str,
        make_env: Callable[[], ArmEnv],
        journal: Path,
        seed: int,
        git_revision: str,
        config: Mapping[str, object],
        make_policy: Callable[[PolicySpec, str], Policy] | None = None,
        greedy_every: int = 8,
        hard_share: float = 0.0,
        lift: Path | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take an arm; one in `greedy_every` episodes does not explore, for the success curve.

        Of the others, `hard_share` begin with a layout on which the arm failed lately.
        `make_policy` makes what acts from what the arm offers, and its name; None acts by the
        learner's newest.
        With the policy in the folder `lift` the arm itself puts the thing back between episodes.
        `stop()` is asked at every step whether to end the episode at once.
        """
        self._stop = stop
        self._arm, self._seed, self._greedy_every = arm, seed, greedy_every
        self._git_revision, self._config = git_revision, config
        self._journal = Journal(journal)
        self._count = len(self._journal.episodes())
        self._layouts = Layouts(seed, self._key, hard_share=hard_share)
        if hard_share:
            self._recall()
        self._env = make_env()
        if lift:
            self._env.scene = put_back(self._env, lift)
        self._random = RandomPolicy(self._env.policy_spec, seed=training_seed(seed, self._key, 0))
        self._loaded: tuple[int, dict[bool, Policy]] = (-1, {})
        self._given = make_policy(self._env.offers, arm) if make_policy else None

    def run_episode(self, snapshot: Snapshot | None) -> Finished:
        """Practise once and seal the episode; act at random while there is no policy.

        Raise `ArmStopped` where the arm let nobody practise; there is no episode then.
        """
        wall, cpu = time.monotonic(), time.process_time()
        greedy = self._is_greedy(snapshot)
        plan = Plan(
            episode=f"{self._count:06d}-{secrets.token_hex(4)}",
            arm=self._arm,
            seed=self._layouts.draw(self._count, fresh=greedy),
            source="policy" if snapshot or self._given else "random",
            policy=self._name(snapshot),
            greedy=greedy,
            git_revision=self._git_revision,
            config=self._config,
        )
        episode = run_episode(
            self._env, self._policy(snapshot, greedy=greedy), plan, stop=self._stop
        )
        path = self._journal.seal(self._with_layout(episode))
        self._layouts.see(episode.info)
        self._count += 1
        return Finished(
            arm=self._arm,
            name=path.name,
            data=path.read_bytes(),
            steps=episode.steps,
            wall_s=time.monotonic() - wall,
            cpu_s=time.process_time() - cpu,
        )

    def close(self) -> None:
        """Release the arm, and the policy where it is elsewhere."""
        if isinstance(self._given, Closing):
            self._given.close()
        self._env.close()

    @property
    def _key(self) -> int:
        return zlib.crc32(self._arm.encode())

    def _recall(self) -> None:
        """Remember how the newest episodes of earlier sessions ended."""
        for path in self._journal.episodes()[-LATELY:]:
            try:
                self._layouts.see(read_episode(path).info)
            except (OSError, Damaged):
                continue

    def _with_layout(self, episode: Episode) -> Episode:
        """Return an episode that says who laid out its scene, where the arm itself may have."""
        if not isinstance(self._env.scene, PutBack):
            return episode
        config = {**episode.info.config, LAID_OUT_BY: self._env.scene.laid_out_by}
        return replace(episode, info=replace(episode.info, config=config))

    def _is_greedy(self, snapshot: Snapshot | None) -> bool:
        every = self._greedy_every
        whole = bool(self._given) and not isinstance(self._given, ResidualPolicy)
        return whole or (snapshot is not None and self._count % every == every - 1)

    def _policy(self, snapshot: Snapshot | None, *, greedy: bool) -> Policy:
        """Return what acts: what was given, what was learnt, or one corrected by the other."""
        given = self._given
        if given is not None and not isinstance(given, ResidualPolicy):
            return given
        learnt = self._policies(snapshot)[greedy] if snapshot else self._random
        if given is None:
            return learnt
        given.correct(learnt, version=snapshot.version if snapshot else 0)
        return given

    def _name(self, snapshot: Snapshot | None) -> str:
        if isinstance(self._given, ResidualPolicy):
            return f"residual/{snapshot.version if snapshot else 0:06d}"
        if self._given:
            return f"remote/{self._given.spec.checkpoint or 'unnamed'}"
        return f"learned/{snapshot.version:06d}" if snapshot else "random"

    def _policies(self, snapshot: Snapshot) -> dict[bool, Policy]:
        """Return the snapshot's policy, by whether it is greedy."""
        if self._loaded[0] != snapshot.version:
            generator = np.random.default_rng([self._seed, self._key, self._count])
            self._loaded = (
                snapshot.version,
                load_snapshot(snapshot, seed=int(generator.integers(2**31))),
            )
        return self._loaded[1]


def training_seed(seed: int, arm_key: int, number: int) -> int:
    """Return the seed of a training episode's scene, below those that evaluation uses."""
    return int(np.random.default_rng([seed, arm_key, number]).integers(FIRST_SEED))


def load_snapshot(snapshot: Snapshot, *, seed: int) -> dict[bool, Policy]:
    """Return a snapshot's policy with and without exploration, by whether it is greedy."""
    # torch costs seconds, and an arm that has yet to act at random has no use for it.
    from policy_server.backends.learned import LearnedPolicy  # noqa: PLC0415

    head = snapshot.head.decode()
    return {
        greedy: LearnedPolicy.from_bytes(head, snapshot.weights, seed=seed, greedy=greedy)
        for greedy in (False, True)
    }


if __name__ == "__main__":
    # Hydra and the command line are no concern of the workers that import this module.
    from rl.run_arm import main

    sys.exit(main())

"""Kill the rewarder again and again while it labels: `python -m ops.kill_rewarder kills=100`.

One real episode of the simulated arm, sealed under many names, is labelled by a service of the
run's own, which is killed with SIGKILL while clips are with it. In the end every episode must have
its label, and every label must be, value for value, the one that an undisturbed model gives: an
outage is no score of 0.
"""

import json
import os
import platform
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from envs.twin_env import make_twin_env
from policy_server.backends.null import RandomPolicy
from rewarder.client import RemoteReward
from rewarder.goal import task_goal
from rewarder.heuristic import HeuristicReward
from rewarder.reward import Clip, NoScore, RewardModel, Score, clip_of
from rl import own_process
from rl.label import load_score
from rl.labeller import Labelled, Labeller
from rl.own_rewarder import OwnRewarder
from rl.progress import say
from rl.rollout import Plan, run_episode
from robot.journal import Episode, Journal
from robot.revision import git_revision
from robot.vision import load_cameras
from robot.words import UsageError, parse_words

CAMERAS = Path(__file__).resolve().parent.parent / "conf" / "cameras" / "twin.yaml"
KNOWN = {"kills": "100", "seed": "0", "json": ""}
AT_HAND = 6
"""Episodes that wait for a label at any time."""
LONGEST_KILL_S = 0.3
PATIENCE_S = 600.0
"""From one label to the next at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What became of the episodes."""

    kills: int
    """Of a service that was alive and had labelled something since its start."""
    episodes: int
    labelled: int
    lost: int
    """Without a label, or damaged."""
    other_labels: int
    """Labels that differ in any value from those of an undisturbed model."""
    zero_labels: int
    """Labels that say 0 throughout where the undisturbed model does not."""
    unanswered: int
    """Questions that an outage left without an answer, to be asked again."""


def real_episode(seed: int) -> Episode:
    """Return an episode of random actions on the simulated arm."""
    env = make_twin_env(task_goal("reach"))
    plan = Plan(
        episode="000000-00000000",
        arm="arm01",
        seed=seed,
        source="random",
        policy="random",
        greedy=False,
        git_revision=git_revision(),
        config={},
    )
    return run_episode(env, RandomPolicy(env.policy_spec, seed=seed), plan)


class Counted:
    """Asks another model, and counts the questions that it could not answer for the time being."""

    def __init__(self, model: RewardModel) -> None:
        """Count from zero."""
        self._model, self.unanswered = model, 0

    def score(self, clip: Clip) -> Score:
        """Return the model's score; raise `NoScore` as it does."""
        try:
            return self._model.score(clip)
        except NoScore as error:
            self.unanswered += error.retry
            raise


class Stage:
    """A journal that grows, a service that dies, a labeller between them."""

    def __init__(self, folder: Path, episode: Episode, seed: int) -> None:
        """Start the service; nothing is asked of it yet."""
        self._episode, self._journal = episode, Journal(folder / "journal")
        self._service = OwnRewarder("heuristic", folder / "rewarder.log")
        self._client = RemoteReward(self._service.url, timeout_s=20.0)
        self.labels = folder / "labels"
        self.model = Counted(self._client)
        self._labeller = Labeller(self.model, self.labels, first_wait_s=0.05)
        self._rng = np.random.default_rng(seed)
        self.submitted = 0
        self.fates: list[Labelled] = []

    def feed(self) -> None:
        """Keep some episodes waiting for a label, and collect those that have theirs."""
        self.fates += self._labeller.done()
        while self._labeller.pending < AT_HAND:
            name = f"{self.submitted:06d}-{secrets.token_hex(4)}"
            info = replace(self._episode.info, episode=name)
            self._labeller.submit(self._journal.seal(replace(self._episode, info=info)))
            self.submitted += 1

    def kill(self) -> None:
        """Kill the service once it is up and has labelled something, and see it started again."""
        self._until_labelled()
        time.sleep(self._rng.uniform(0.0, LONGEST_KILL_S))
        killed = self._service.process
        os.kill(killed, signal.SIGKILL)
        while self._service.process == killed:
            self._service.check()
            self.feed()
            time.sleep(0.02)
        # What came in before the death is no label of the service that follows.
        self.feed()

    def _until_labelled(self) -> None:
        labelled, end = len(self.fates), time.monotonic() + PATIENCE_S
        while len(self.fates) == labelled:
            if time.monotonic() > end:
                raise SystemExit(f"no label within {PATIENCE_S:g} s")
            self.feed()
            time.sleep(0.02)

    def finish(self) -> None:
        """Wait for the labels of all episodes, and end the service."""
        end = time.monotonic() + PATIENCE_S
        while len(self.fates) < self.submitted and time.monotonic() < end:
            self.fates += self._labeller.done()
            self._service.check()
            time.sleep(0.02)
        self._labeller.close()
        self._client.close()
        self._service.close()


def measure(kills: int, seed: int, folder: Path) -> Count:
    """Kill the service so often while it labels, and count what became of the episodes."""
    # Whoever dies this often in good health is no service that cannot start.
    own_process.YOUNG_S = 0.0
    episode = real_episode(seed)
    wanted = HeuristicReward(load_cameras(CAMERAS)).score(clip_of(episode))
    stage = Stage(folder, episode, seed)
    for number in range(1, kills + 1):
        stage.kill()
        if number % 10 == 0 or number == kills:
            say(f"{number}/{kills} kills, {len(stage.fates)}/{stage.submitted} labelled")
    stage.finish()
    labelled = [fate for fate in stage.fates if fate.transitions]
    found = Counter(_verdict(load_score(stage.labels, f.path.stem), wanted) for f in labelled)
    return Count(
        kills=kills,
        episodes=stage.submitted,
        labelled=len(labelled),
        lost=stage.submitted - len(labelled),
        other_labels=found.total() - found["same"],
        zero_labels=found["zero"],
        unanswered=stage.model.unanswered,
    )


def _verdict(score: Score, wanted: Score) -> str:
    pairs = ((getattr(score, n), getattr(wanted, n)) for n in ("success", "progress", "valid"))
    if all(np.array_equal(one, other) for one, other in pairs):
        return "same"
    return "zero" if not score.progress.any() else "other"


def main(argv: Sequence[str] | None = None) -> int:
    """Kill, count, say and write the figures; return 1 where an episode or a label was lost."""
    try:
        words = parse_words(sys.argv[1:] if argv is None else argv, known=KNOWN)
        kills, seed = int(words["kills"]), int(words["seed"])
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    os.environ.setdefault("MUJOCO_GL", "egl")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill-") as scratch:
        count = measure(kills, seed, Path(scratch))
    facts: Mapping[str, object] = {
        **{name: getattr(count, name) for name in Count.__dataclass_fields__},
        "seed": seed,
        "wall_s": round(time.monotonic() - began, 1),
        "revision": git_revision(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "command": " ".join(["python", "-m", "ops.kill_rewarder", *sys.argv[1:]]),
    }
    say(json.dumps(facts, indent=2))
    if words["json"]:
        Path(words["json"]).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return int(bool(count.lost or count.other_labels))


if __name__ == "__main__":
    sys.exit(main())

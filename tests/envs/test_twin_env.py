"""The environments that conf/arm names over a simulated arm."""

from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from rewarder.goal import parse_goal

CONF = Path(__file__).parents[2] / "conf"
GOAL = parse_goal("Reach for the red cube.")


def made(arm):
    with initialize_config_dir(str(CONF), version_base=None):
        cfg = compose("train", [f"arm={arm}"])
    return instantiate(cfg.arm, _convert_="all")(GOAL)


def ways(env, seeds):
    """Return where each arm has got to 0.2 s after the same command, from the start pose."""
    found = []
    for seed in seeds:
        _, info = env.reset(seed=seed)
        start = info["sensed"].observation.joint_target
        env.arm.command(start + 8.0, stamp=env.arm.clock.now())
        env.arm.clock.sleep_until(env.arm.clock.now() + 0.2)
        found.append(env.arm.observe(frames=False).joint_pos[0] - start[0])
    return np.array(found)


def test_every_randomised_arm_gets_to_its_start_and_none_is_like_another():
    found = ways(made("randomised"), range(12))
    assert len(set(found)) > 6
    assert 2.0 < found.min() < found.max() < 9.0


def test_the_default_arm_is_the_same_in_every_scene():
    assert np.ptp(ways(made("twin"), range(4))) < 0.1

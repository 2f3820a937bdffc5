"""An emulated bus, the real driver, an arm's process and the environment, all as they are used."""

import os
import socket

import numpy as np
import pytest
import yaml

from envs.arm_env import STEP_S
from envs.real_env import make_real_env
from rewarder.goal import task_goal
from rl.own_arms import OwnArms
from robot.arm_config import ROOT, runtime

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the file of an arm that nobody else has."""
    folder = tmp_path_factory.mktemp("arms")
    content = yaml.safe_load((ROOT / "conf" / "arm" / "arm01.yaml").read_text())
    arm = content["arm_id"] = f"env{os.getpid()}"
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        content["port_number"] = listener.getsockname()[1]
    content["port"] = f"run/{arm}.bus"
    for camera in content["cameras"].values():
        camera["state"] = f"run/{arm}.state"
    (folder / f"{arm}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    yield folder
    for left in runtime(arm, "bus").parent.glob(f"{arm}.*"):
        left.unlink()


@pytest.fixture(scope="module")
def arm(folder, tmp_path_factory):
    arm = next(folder.glob("*.yaml")).stem
    own = OwnArms([arm], tmp_path_factory.mktemp("logs"), folder=folder)
    try:
        own.wait(limit_s=200.0)
        yield arm
    finally:
        own.close()


@pytest.fixture(scope="module")
def env(arm, folder):
    env = make_real_env(task_goal("reach"), arm_id=arm, scene="emulator", folder=folder)
    yield env
    env.close()


def test_an_arm_with_the_real_driver_moves_as_the_environment_tells_it(env):
    first, before = env.reset(seed=3)
    np.testing.assert_allclose(first["thing"][:3], env.scene.truth().thing, atol=0.01)
    stamps = [before["sensed"].observation.stamp]
    for _ in range(10):
        state, _, _, truncated, info = env.step(np.array([0.0, 0.3, -0.3, 1.0], np.float32))
        assert not truncated, info["sensed"].stopped
        stamps.append(info["sensed"].observation.stamp)
    # A busy machine may be late, and never early.
    assert np.diff(stamps).mean() > STEP_S - 0.01
    assert state["tool"][1] - first["tool"][1] > 0.06
    assert env.about()["calibration"]

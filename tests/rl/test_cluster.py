import json
import os
import subprocess
import sys
import time
from functools import partial

import pytest

from envs.homing import ArmStopped
from rl.cluster import RayFleet
from rl.fleet import ArmsFailed, Snapshot
from robot.journal import episode_from
from tests.rl.practice import FakeWorker

# Ray's own modules and sockets warn while they are torn down.
pytestmark = pytest.mark.filterwarnings("default")


class Broken:
    def __init__(self):
        raise OSError("no EGL to draw with")


class Stopped(FakeWorker):
    def run_episode(self, snapshot):
        raise ArmStopped(f"{self.arm} is stopped: a key was pressed")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    fleet = RayFleet(nice=0, restart_s=0.01)
    dies = folder / "died"
    fleet.start(
        {
            "arm01": partial(FakeWorker, folder / "arm01", "arm01"),
            "arm02": partial(FakeWorker, folder / "arm02", "arm02", dies_once=dies),
            "arm03": Broken,
            "arm04": partial(Stopped, folder / "arm04", "arm04"),
        }
    )
    fleet.dies = dies
    yield fleet
    fleet.close()


def collect(fleet, enough, limit_s=60.0):
    found, end = [], time.monotonic() + limit_s
    while not enough(found):
        assert time.monotonic() < end, f"waited in vain; arms: {fleet.status()}"
        found += fleet.poll(0.1)
    return found


def episodes_of(arm, found):
    return [finished for finished in found if finished.arm == arm]


def test_a_killed_actor_comes_back_and_the_other_goes_on(fleet):
    found = collect(fleet, lambda found: len(episodes_of("arm02", found)) >= 3)
    assert fleet.dies.exists()
    assert len(episodes_of("arm01", found)) >= 3
    assert fleet.status()["arm02"] != "its process died; it is started again"


def test_each_arm_is_a_process_of_its_own(fleet):
    processes = {process for _, process in fleet.places().values()}
    assert len({os.getpid(), *processes}) == 5


def test_arms_get_the_published_policy(fleet):
    fleet.publish(Snapshot(version=42, head=b"{}", weights=b""))
    found = collect(fleet, lambda found: len(found) >= 8)
    assert episode_from(found[-1].data).info.policy == "learned/000042"


def test_a_held_fleet_begins_no_episode(fleet):
    fleet.hold(held=True)
    collect(fleet, lambda _: not fleet._pending)
    assert fleet.poll(0.1) == []
    fleet.hold(held=False)
    assert collect(fleet, bool)


def test_an_arm_that_cannot_be_built_is_reported_and_the_others_go_on(fleet):
    collect(fleet, lambda _: fleet.status()["arm03"] == "failed: no EGL to draw with")
    assert collect(fleet, bool)


def test_an_arm_that_lets_nobody_practise_waits_with_its_reason_and_has_not_failed(fleet):
    collect(fleet, lambda _: fleet.status()["arm04"] == "arm04 is stopped: a key was pressed")
    assert "arm04" not in fleet._failures


def test_a_run_in_which_no_arm_works_ends_with_the_reason():
    fleet = RayFleet()
    fleet._makers = {"arm01": Broken}
    for _ in range(2):
        fleet._failed("arm01", "failed: no EGL")
    with pytest.raises(ArmsFailed, match="no arm works: arm01 failed: no EGL"):
        fleet._failed("arm01", "failed: no EGL")


def test_each_actor_runs_on_the_node_beside_its_arm(tmp_path):
    """In a process of its own: one process can be in one cluster only."""
    program = """
import json, sys
from functools import partial
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
for arm in ("arm01", "arm02"):
    cluster.add_node(num_cpus=1, resources={f"arm:{arm}": 1})
cluster.wait_for_nodes()
from pathlib import Path
from rl.cluster import RayFleet
from tests.rl.practice import FakeWorker
fleet = RayFleet(address=cluster.address, nice=0)
folder = Path(sys.argv[1])
fleet.start({arm: partial(FakeWorker, folder / arm, arm) for arm in ("arm01", "arm02")})
arms = set()
while len(arms) < 2:
    arms |= {finished.arm for finished in fleet.poll(1.0)}
print(json.dumps({arm: node for arm, (node, _) in fleet.places().items()}))
fleet.close()
cluster.shutdown()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    nodes = json.loads(done.stdout.splitlines()[-1])
    assert nodes["arm01"] != nodes["arm02"]

"""`robot.process.service` with servos that need no bus, and a proof that takes no time."""

import sys

from robot.arm import frozen
from robot.process import service
from robot.process.limit_proof import Drive, LimitProof
from robot.process.servos import ArmUnusable
from tests.robot.arm_rig import Servos


class FakeArm(Servos):
    calibration = "c0ffee123456"

    def close(self):
        sys.stdout.write(f"released with torque {'on' if self.on else 'off'}\n")
        sys.stdout.flush()


def open_arm(config):
    if config.port == "missing":
        raise ArmUnusable("missing is not there: plug the arm in")
    # So near that it is soon parked.
    return FakeArm(config.park_pose + frozen([3, 0, 0, 0, 0, 0]))


def driver():
    return open_arm


def quick_proof(guard, *, start):
    """Stand in for a proof that takes a second, and has tests of its own."""
    return _proof(0.0)


def broken_proof(guard, *, start):
    return _proof(0.01)


def _proof(excess):
    drive = Drive(limit="elbow", unit="°", steps=1, nearest=0.0, excess=excess)
    return LimitProof(drives=(drive,))


def main(argv, *, live):
    """Serve a fake arm, its limits really proven where a word says `proven`."""
    words = [word for word in argv if word != "proven"]
    if words == argv:
        service.prove_limits = quick_proof
    return service.main(words, live=live, driver=driver)

"""`robot.process.daemon` with servos that need no bus; `python -m tests.robot.fake_daemon`."""

import sys

import robot.process.daemon
from robot.arm import frozen
from robot.process.daemon import main
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


def quick_proof(guard, *, start):
    """Stand in for a proof that takes a second, and has tests of its own."""
    return _proof(0.0)


def broken_proof(guard, *, start):
    return _proof(0.01)


def _proof(excess):
    drive = Drive(limit="elbow", unit="°", steps=1, nearest=0.0, excess=excess)
    return LimitProof(drives=(drive,))


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "proven"]
    if words == sys.argv[1:]:
        robot.process.daemon.prove_limits = quick_proof
    sys.exit(main(words, open_arm=open_arm))

"""An arm's process without sockets: a guarded twin with modes, a person and another clock."""

from envs.live_arm import LiveArm
from envs.real_env import live_env
from rewarder.goal import task_goal
from robot.client import ArmRefused, Hello, LinkLost
from robot.guard import Command, Guard, GuardedArm, GuardEvent
from robot.limits import SafetyLimits
from robot.process.arm_state import ArmState, Cause, Mode
from robot.twin import Twin

CLOCKS_APART_S = 5000.0


class OtherClock:
    """The clock of the machine that the arm is on."""

    def __init__(self, twin):
        self._twin = twin

    def now(self):
        return self._twin.time + CLOCKS_APART_S

    def sleep_until(self, moment):
        raise AssertionError("the arm's process has a pace of its own")


class TableOnly:
    """The twin as a scene whose reset leaves the arm where it is."""

    def __init__(self, twin):
        self.twin, self.resets, self.pose_at_reset = twin, 0, None

    def reset(self, seed):
        self.resets += 1
        self.pose_at_reset = self.twin.joint_pos()

    def truth(self):
        return self.twin.truth()


class StandIn:
    """The process, and the one link to it; what a test changes takes effect at the next call."""

    def __init__(self, task="reach"):
        self.twin = Twin(task_goal(task).layout)
        self.limits = SafetyLimits.load("conf/safety/default.yaml")
        self.arm = GuardedArm(self.twin, Guard(self.limits), OtherClock(self.twin))
        self.set(Mode.HOLD, Cause.START, "it has just started")
        self.person = lambda last: last
        self.gone = False
        self.before_command = None
        self.connections = 0
        self.asked = []
        self.hello = Hello(
            arm_id="arm01",
            limits=self.limits,
            cameras=dict.fromkeys(self.twin.cameras, (96, 96)),
            calibration="0123456789ab",
            period_s=0.02,
            clock_offset_s=0.0,
        )
        self.clock = OtherClock(self.twin)

    def connect(self):
        self._reached()
        self.connections += 1
        return self

    def env(self, task="reach", **settings):
        live = LiveArm("arm01", self.connect, clock=self.twin.clock)
        scene = TableOnly(self.twin)
        goal = task_goal(task)
        return live_env(live, scene, goal=goal, cameras=self.twin.cameras, **settings)

    def set(self, mode, cause, reason):
        self.mode_, self.cause, self.reason = mode, cause, reason

    def state(self):
        self._reached()
        seen = self.arm.observe(frames=False)
        return ArmState(
            stamp=seen.stamp,
            mode=self.mode_,
            since=0.0,
            cause=self.cause,
            reason=self.reason,
            joint_pos=seen.joint_pos,
            joint_target=seen.joint_target,
            sent=seen.joint_target,
            health=None,
            faults=(),
            events={},
            clients=("practice-arm01",),
            calibration="0123456789ab",
            cycle_s=0.0,
            late_s=0.0,
        )

    def mode(self, mode):
        self._reached()
        self.asked.append(mode)
        if self.mode_ is Mode.STOP:
            raise ArmRefused("refused", f"the arm is stopped ({self.reason}): reset it first")
        self.set(mode, Cause.ASKED, "practice-arm01 asked for it")
        return mode

    def observe(self, *, frames=True):
        self._reached()
        return self.arm.observe(frames=frames)

    def command(self, joint_target, *, stamp):
        if self.before_command:
            self.before_command()
        self._reached()
        last = self.arm.observe(frames=False)
        if self.mode_ is Mode.TAKEOVER:
            sent = self.arm.command(self.person(last.joint_target), stamp=last.stamp)
            return Command(joint_target=sent.joint_target, events=(), human=True)
        if self.mode_ is not Mode.RUN:
            event = GuardEvent("refused", f"mode:{self.mode_}")
            return Command(joint_target=last.joint_target, events=(event,))
        return self.arm.command(joint_target, stamp=stamp)

    def hold(self):
        self.arm.hold()

    def latch(self):
        self.mode(Mode.RUN)
        self.arm.latch()

    def close(self):
        pass

    def _reached(self):
        if self.gone:
            raise LinkLost("no arm's process at http://127.0.0.1:18101: start it with make arm")

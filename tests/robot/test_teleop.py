"""Keys, sticks and leader arms become joint targets, and move nothing by themselves."""

import os
import pty

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot.arm import JOINTS, frozen
from robot.kinematics import tool_position
from robot.teleop.devices import (
    APPROACH_SPEED,
    HOLD_S,
    REQUEST_KEYS,
    TOOL_STEP_M,
    Approach,
    DeviceMissing,
    Keyboard,
    WithKeys,
)
from robot.teleop.gamepad import DEAD_MAN, OPEN, STICK_X, STOP, Gamepad
from robot.teleop.keys import HANGUP, NoTerminal, TerminalKeys, keys_in
from robot.teleop.leader import MISSES, Leader, open_leader
from tests.robot.devices import LIMITS, START, Fixed, Pressed, seen

# Keys


@pytest.fixture
def terminal():
    outside, inside = pty.openpty()
    with TerminalKeys(inside) as keys:
        yield outside, keys
    os.close(outside)
    os.close(inside)


def test_keys_are_read_one_by_one_without_enter(terminal):
    outside, keys = terminal
    assert keys.read() == []
    os.write(outside, b"t\x1b[Au \x1bOD")
    assert keys.read() == ["t", "up", "u", " ", "left"]


def test_a_key_that_comes_in_two_parts_is_one(terminal):
    outside, keys = terminal
    os.write(outside, b"a\x1b[")
    assert keys.read() == ["a"]
    os.write(outside, b"B")
    assert keys.read() == ["down"]


def test_a_lone_escape_is_a_key_of_its_own(terminal):
    outside, keys = terminal
    os.write(outside, b"\x1b")
    assert keys.read() + keys.read() == ["escape"]


def test_a_terminal_that_is_gone_asks_to_quit():
    outside, inside = pty.openpty()
    with TerminalKeys(inside) as keys:
        os.close(outside)
        assert keys.read() == [HANGUP]
    os.close(inside)
    assert REQUEST_KEYS[HANGUP] == "quit"


def test_without_a_terminal_there_are_no_keys():
    read, write = os.pipe()
    with pytest.raises(NoTerminal, match="start it in one"):
        TerminalKeys(read)
    os.close(read)
    os.close(write)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=30))
def test_whatever_is_typed_makes_names_of_keys(text):
    assert all(
        key in {"up", "down", "left", "right", "enter", "backspace", "escape"}
        or (len(key) == 1 and key.isprintable())
        for key in keys_in(text)
    )


# Keyboard


def keyboard_moves(*keys, target=START):
    keyboard = Keyboard(Pressed(*keys), LIMITS)
    assert keyboard.poll() == []
    return keyboard.read(seen(target))


@pytest.mark.parametrize(
    ("key", "way"),
    [
        ("up", (1, 0, 0)),
        ("down", (-1, 0, 0)),
        ("left", (0, 1, 0)),
        ("right", (0, -1, 0)),
        ("u", (0, 0, 1)),
        ("j", (0, 0, -1)),
    ],
)
def test_arrows_move_the_tool(key, way):
    moved = tool_position(keyboard_moves(key)) - tool_position(START)
    np.testing.assert_allclose(moved, TOOL_STEP_M * np.array(way), atol=5e-4)


@pytest.mark.parametrize("joint", range(6))
def test_a_chosen_joint_moves_alone(joint):
    moved = keyboard_moves(str(joint + 1), "+") - START
    assert np.flatnonzero(moved).tolist() == [joint]
    assert moved[joint] > 0


def test_no_key_no_motion():
    assert keyboard_moves() is None
    assert keyboard_moves("3") is None


def test_keys_count_once():
    keyboard = Keyboard(Pressed("o"), LIMITS)
    keyboard.poll()
    assert keyboard.read(seen()) is not None
    assert keyboard.read(seen()) is None


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from(["up", "left", "u", "j", "o", "c", "+", "-", *"123456"]), max_size=60)
)
def test_keys_never_ask_for_more_than_the_joints_have(keys):
    target = keyboard_moves(*keys)
    if target is not None:
        assert (target >= LIMITS.joint_lower).all()
        assert (target <= LIMITS.joint_upper).all()


# Dead man and approach


def test_nothing_moves_unless_the_dead_man_key_is_held():
    now, keys = [0.0], Pressed()
    device = WithKeys(Fixed(START), keys, lambda: now[0], dead_man="d")
    device.poll()
    assert device.read(seen()) is None
    keys.keys = ["d"]
    device.poll()
    assert device.read(seen()) is START
    now[0] = HOLD_S + 0.01
    device.poll()
    assert device.read(seen()) is None


def test_a_key_that_asks_for_something_is_no_dead_man():
    with pytest.raises(ValueError, match="already asks for abort"):
        WithKeys(Fixed(), Pressed(), lambda: 0.0, dead_man="a")


def test_an_arm_comes_slowly_to_where_its_leader_is_and_then_follows():
    leader = Fixed(START + frozen([20, 0, 0, 0, 0, 0]))
    approach, target, stamp, steps = Approach(leader), START, 100.0, []
    approach.read(seen(target, stamp))
    while np.abs(leader.goal - target).max() > 0:
        stamp += 0.05
        wanted = approach.read(seen(target, stamp))
        steps.append(np.abs(wanted - target).max())
        target = wanted
    assert max(steps[:-1]) <= APPROACH_SPEED * 0.05 + 1e-9
    assert len(steps) > 10
    leader.goal = target + frozen([15, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(approach.read(seen(target, stamp + 0.05)), leader.goal)


@pytest.mark.parametrize("request_", ["takeover", "stop"])
def test_every_takeover_begins_with_an_approach(request_):
    leader = Fixed(START)
    approach = Approach(leader)
    approach.read(seen())
    leader.goal = START + frozen([40, 0, 0, 0, 0, 0])
    leader.requests = [request_]
    assert approach.poll() == [request_]
    assert np.abs(approach.read(seen(stamp=100.05)) - START).max() <= APPROACH_SPEED * 0.1


# Gamepad and leader


class Pad:
    def __init__(self, *, axes=None, buttons=()):
        self.axes, self.buttons = axes or {}, set(buttons)

    def get_axis(self, axis):
        return self.axes.get(axis, 0.0)

    def get_button(self, button):
        return button in self.buttons


def test_a_gamepad_moves_only_under_its_dead_man_button():
    assert Gamepad(Pad(axes={STICK_X: -1.0}), LIMITS).read(seen()) is None


def test_a_stick_pushed_away_moves_the_tool_forwards():
    pad = Gamepad(Pad(axes={STICK_X: -1.0}, buttons=[DEAD_MAN, OPEN]), LIMITS)
    pad.read(seen(stamp=100.0))
    target = pad.read(seen(stamp=100.05))
    moved = tool_position(target) - tool_position(START)
    assert moved[0] == pytest.approx(0.0075, abs=1e-3)
    assert target[5] > START[5]


def test_a_stick_that_does_not_quite_rest_moves_nothing():
    pad = Gamepad(Pad(axes={STICK_X: 0.1}, buttons=[DEAD_MAN]), LIMITS)
    pad.read(seen(stamp=100.0))
    assert tool_position(pad.read(seen(stamp=100.05))) == pytest.approx(
        tool_position(START), abs=1e-4
    )


def test_a_button_asks_once_however_long_it_is_down():
    pad = Gamepad(Pad(buttons=[STOP]), LIMITS)
    assert [pad.poll(), pad.poll()] == [["stop"], []]


class Arms:
    """LeRobot's leader, as far as it is used."""

    def __init__(self):
        self.failures, self.connected = 0, True

    def get_action(self):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("Incorrect status packet!")
        return {f"{joint}.pos": float(i) for i, joint in enumerate(JOINTS)}

    def disconnect(self):
        self.connected = False


def test_a_leader_wants_the_arm_where_it_is():
    np.testing.assert_array_equal(Leader(Arms()).read(seen()), [0, 1, 2, 3, 4, 5])


def test_a_lost_reply_of_the_leader_holds_the_arm_for_a_moment():
    arms = Arms()
    leader = Leader(arms)
    arms.failures = MISSES - 1
    assert [leader.read(seen()) for _ in range(MISSES - 1)] == [None] * (MISSES - 1)
    assert leader.read(seen()) is not None
    arms.failures = MISSES
    with pytest.raises(DeviceMissing, match="check its cable"):
        [leader.read(seen()) for _ in range(MISSES)]


def test_a_leader_without_a_calibration_is_refused_with_the_command_that_makes_one(tmp_path):
    with pytest.raises(DeviceMissing, match=r"lerobot-calibrate --teleop\.type=so101_leader"):
        open_leader("/dev/null", tmp_path / "leader01.json")

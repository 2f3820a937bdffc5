import socket
import threading
import time

import numpy as np
import pytest
import websockets.sync.client
from websockets.sync.server import serve

from robot.client import ArmRefused, LinkLost, RemoteArm
from robot.guard import GuardEvent
from robot.process.arm_messages import VERSION, limits_message
from robot.process.arm_state import Mode
from robot.wire import decode_map, encode
from tests.robot.arm_rig import JPEG, LIMITS, START, served, served_patiently, wait_until


@pytest.fixture(scope="module")
def rig():
    with served_patiently() as rig:
        yield rig


@pytest.fixture
def arm(rig):
    rig.process.reset()
    arm = RemoteArm(rig.url, client="test", timeout_s=20.0)
    yield arm
    arm.close()


def test_it_knows_the_arm_by_its_hello(arm):
    assert arm.hello.arm_id == "arm01"
    assert arm.hello.calibration == "c0ffee123456"
    assert arm.hello.cameras == {"front": (32, 48)}
    assert arm.hello.period_s == 0.02
    assert limits_message(arm.limits).keys() == limits_message(LIMITS).keys()
    np.testing.assert_array_equal(arm.limits.max_lead, LIMITS.max_lead)
    np.testing.assert_array_equal(arm.limits.tool_box.upper, LIMITS.tool_box.upper)


def test_its_clock_is_the_machines_own(arm):
    assert abs(arm.clock.now() - time.monotonic()) < 0.1
    assert arm.hello.clock_offset_s == 0.0


def test_it_observes_joints_and_frames(arm):
    seen = arm.observe()
    assert seen.joint_pos.shape == (6,)
    assert seen.frames["front"].image.shape == (32, 48, 3)
    assert not seen.frames["front"].image.flags.writeable
    assert 0 <= arm.clock.now() - seen.stamp < 1.0


def test_pictures_come_as_jpeg(arm):
    assert arm.pictures()["front"].jpeg == JPEG


def test_without_frames_no_picture_is_sent(arm):
    assert arm.observe(frames=False).frames == {}


def test_a_dark_camera_has_no_frame(rig, arm):
    rig.pictures.dark = True
    try:
        assert arm.observe().frames == {}
    finally:
        rig.pictures.dark = False


def test_after_latch_it_drives_the_arm(rig, arm):
    arm.latch()
    assert rig.process.mode is Mode.RUN
    goal = START + np.array([10, 0, 0, 0, 0, 0])
    wait_until(lambda: _command(arm, goal).joint_target[0] > 9)
    wait_until(lambda: rig.process.observation().joint_pos[0] > 9)


def test_its_own_thread_says_that_it_lives_while_it_thinks(rig, arm, monkeypatch):
    heard = []
    monkeypatch.setattr(rig.process, "beat", heard.append)
    wait_until(lambda: len(heard) >= 10)


def test_an_arm_that_holds_refuses_its_goals(rig, arm):
    arm.latch()
    arm.mode(Mode.HOLD)
    assert GuardEvent("refused", "mode:HOLD") in _command(arm, START).events


@pytest.mark.parametrize(
    "nonsense", ["home", None, [1, 2], object(), np.array(["a"] * 6), np.zeros(6, np.complex128)]
)
def test_what_is_no_array_of_numbers_is_refused(arm, nonsense):
    arm.latch()
    assert [event.rule for event in _command(arm, nonsense).events] == ["refused"]


def test_what_is_not_finite_is_refused_by_the_guard(arm):
    arm.latch()
    assert _command(arm, np.full(6, np.nan)).events == (GuardEvent("refused", "not_finite"),)


def test_a_stop_stays_until_it_is_reset(rig, arm):
    arm.latch()
    arm.stop("the test\nsaid so")
    assert rig.process.mode is Mode.STOP
    assert rig.process.state().reason.endswith("stopped it: the testsaid so")
    with pytest.raises(ArmRefused, match="reset it first"):
        arm.latch()
    assert arm.reset() is Mode.HOLD


def test_only_a_person_takes_over(rig, arm):
    person = RemoteArm(rig.url, client="person", human=True, timeout_s=20.0)
    try:
        with pytest.raises(ArmRefused, match="only a person"):
            arm.mode(Mode.TAKEOVER)
        arm.latch()
        person.latch()
        assert rig.process.mode is Mode.TAKEOVER
        assert _command(arm, START).human
        person.mode(Mode.RUN)
        assert rig.process.mode is Mode.RUN
    finally:
        person.close()


def test_its_state_is_that_of_the_process(rig, arm):
    arm.latch()
    state, own = arm.state(), rig.process.state()
    assert (state.mode, state.reason, state.calibration) == (own.mode, own.reason, own.calibration)
    assert any(client.startswith("test#") for client in state.clients)
    np.testing.assert_array_equal(state.sent.shape, (6,))


def test_a_held_arm_stays_at_its_goal(rig, arm):
    arm.latch()
    before = arm.observe(frames=False).joint_target
    arm.hold()
    np.testing.assert_allclose(arm.observe(frames=False).joint_target, before, atol=1e-6)


def test_a_closed_client_has_the_arm_hold(rig, arm):
    arm.latch()
    arm.close()
    wait_until(lambda: rig.process.mode is Mode.HOLD)
    with pytest.raises(LinkLost):
        arm.observe()


def test_no_process_is_said_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(LinkLost, match="start it with make arm"):
        RemoteArm(f"http://127.0.0.1:{port}", client="test")


def test_a_process_that_went_away_is_a_lost_link_until_the_next_episode():
    with served() as rig:
        arm = RemoteArm(rig.url, client="test", patience_s=0.0)
    with pytest.raises(LinkLost):
        arm.observe()
    with pytest.raises(LinkLost, match="is lost"):
        arm.observe()
    with pytest.raises(LinkLost, match="make arm"):
        arm.latch()
    arm.close()


def test_the_next_episode_connects_again():
    with served() as rig:
        arm = RemoteArm(rig.url, client="test", timeout_s=20.0)
        arm._link.lost("was cut by the test")
        with pytest.raises(LinkLost):
            arm.observe()
        arm.latch()
        assert arm.observe(frames=False).joint_pos.shape == (6,)
        arm.close()


HELLO = {
    "arm_id": "arm01",
    "limits": limits_message(LIMITS),
    "cameras": {},
    "calibration": "",
    "period_s": 0.02,
    "mode": "HOLD",
    "now": 1e6,
}


def _impostor(answers):
    """Serve fixed answers on a port, and none when they run out."""
    left = list(answers)

    def handle(connection):
        for message in connection:
            if decode_map(message)["op"] != "beat" and left:
                connection.send(left.pop(0))

    server = serve(handle, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.socket.getsockname()[1]}"


@pytest.mark.parametrize(
    "answer",
    [
        b"\xc1",
        b"",
        "text",
        encode([1]),
        encode({}),
        encode({"stamp": float("nan"), "joint_pos": np.zeros(6), "joint_target": np.zeros(6)}),
        encode({"stamp": 1.0, "joint_pos": np.zeros(5), "joint_target": np.zeros(6)}),
        encode({"stamp": 1.0, "joint_pos": "home", "joint_target": np.zeros(6)}),
        None,
    ],
)
def test_an_answer_that_is_none_loses_the_link(answer):
    server, url = _impostor([encode(HELLO), *([answer] if answer is not None else [])])
    arm = RemoteArm(url, client="test", timeout_s=0.3)
    with pytest.raises(LinkLost):
        arm.observe(frames=False)
    with pytest.raises(LinkLost, match="is lost"):
        arm.observe(frames=False)
    arm.close()
    server.shutdown()


def test_another_machines_clock_is_reckoned_with():
    server, url = _impostor([encode(HELLO)])
    arm = RemoteArm(url, client="test")
    assert abs(arm.clock.now() - 1e6) < 1.0
    before = time.monotonic()
    arm.clock.sleep_until(arm.clock.now() + 0.02)
    assert 0.015 < time.monotonic() - before < 1.0
    arm.close()
    server.shutdown()


def test_a_frame_that_is_no_picture_loses_the_link():
    frames = {"front": {"jpeg": b"no picture", "stamp": 1.0}}
    seen = {"stamp": 1.0, "joint_pos": np.zeros(6), "joint_target": np.zeros(6), "frames": frames}
    server, url = _impostor([encode(HELLO), encode(seen)])
    arm = RemoteArm(url, client="test")
    with pytest.raises(LinkLost, match="front"):
        arm.observe()
    arm.close()
    server.shutdown()


def test_pictures_for_a_recorder_are_not_decoded():
    frames = {"front": {"jpeg": b"no picture", "stamp": 1.0}}
    server, url = _impostor([encode(HELLO), encode({"frames": frames})])
    arm = RemoteArm(url, client="test")
    assert arm.pictures()["front"].jpeg == b"no picture"
    arm.close()
    server.shutdown()


@pytest.mark.parametrize("frames", [None, {"front": {"stamp": 1.0}}, {"front": {"jpeg": b"x"}}])
def test_what_are_no_pictures_loses_the_link(frames):
    server, url = _impostor([encode(HELLO), encode({"frames": frames})])
    arm = RemoteArm(url, client="test")
    with pytest.raises(LinkLost, match="nonsense"):
        arm.pictures()
    arm.close()
    server.shutdown()


def test_its_hello_names_the_version_it_speaks(rig):
    with websockets.sync.client.connect(f"ws{rig.url[4:]}/arm") as link:
        link.send(encode({"op": "hello", "version": VERSION + 1, "client": "test"}))
        reply = decode_map(link.recv(timeout=2))
    assert reply["error"] == "invalid"
    assert f"expected {VERSION}" in str(reply["message"])


def _command(arm, goal):
    return arm.command(goal, stamp=arm.observe(frames=False).stamp)

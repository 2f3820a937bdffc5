"""A policy elsewhere, over real sockets: rows by step, holding, and coming back."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest

from policy_server.client import AWAY_S, FIRST_S, RemotePolicy
from policy_server.handshake import SpecMismatch
from policy_server.policy import PolicyAway, PolicyUnavailable
from tests.policy_server.served import SPEC, Ramp, ask, served

ARM = replace(SPEC, images=("front", "side"))


@pytest.fixture
def ramp():
    return Ramp()


def remote(address, **settings):
    return RemotePolicy(f"ws://{address}", ARM, **{"threshold": 0.25, **settings})


def row(policy, step, here=(0.0, 0.0)):
    """Ask for a step's row as a control loop at 20 Hz does."""
    chunk = policy.infer_batch([ask(here, observed_at=step / 20)])[0]
    return chunk.actions[0].tolist() if len(chunk.actions) else None


def test_an_episode_s_first_row_is_waited_for(ramp):
    with served(ramp) as address:
        policy = remote(address)
        assert [row(policy, step) for step in range(3)] == [[1, 1], [2, 2], [3, 3]]
        policy.close()
    assert policy.streaming.chunks == 1


def test_a_chunk_that_is_late_gives_only_the_rows_of_steps_to_come(ramp):
    with served(ramp) as address:
        policy = remote(address, rtc=False)
        got = [row(policy, step) for step in range(5)]
        ramp.gate.clear()
        got += [row(policy, step, here=(100.0, 100.0)) for step in range(5, 7)]
        ramp.gate.set()
        policy._link.poll(wait_s=0.0)
        while policy._link.is_busy:
            pass
        after = row(policy, 7)
        policy.close()
    # It was asked at step 5 (6 was left): its row 2 is step 7's, 100 further than here.
    asked_at = next(step for step in range(8) if 8 - step <= max(2, 3))
    assert after == [100.0 + 7 - asked_at + 1] * 2


def test_an_arm_that_waits_has_every_chunk_one_step_after_it_was_asked_for(ramp):
    with served(ramp) as address:
        policy = remote(address, rtc=False, waits=True)
        got = [row(policy, step, here=(step, step)) for step in range(12)]
        policy.close()
    # A chunk is asked for when 3 rows are left, and it counts from the step that it was asked at.
    assert got == [[step + 1] * 2 for step in range(12)]
    assert set(policy.streaming.delays) == {1}
    assert policy.streaming.starved == 0


def test_a_delay_passes_in_the_steps_of_an_arm_that_waits(ramp):
    with served(ramp) as address:
        policy = remote(address, rtc=False, threshold=0.9, waits=True, delay_s=0.1)
        got = [row(policy, step, here=(step, step)) for step in range(40)]
        policy.close()
    assert got == [[step + 1] * 2 for step in range(40)]
    assert set(policy.streaming.delays) == {3}
    assert policy.streaming.starved == 0


def test_an_arm_that_waits_has_each_lone_row_in_its_own_step(ramp):
    ramp.spec = replace(SPEC, horizon=1)
    with served(ramp) as address:
        policy = remote(address, waits=True)
        got = [row(policy, step, here=(step, step)) for step in range(5)]
        policy.close()
    assert got == [[step + 1] * 2 for step in range(5)]


def test_an_arm_that_waits_gives_up_after_so_long_by_the_clock_on_the_wall(ramp, monkeypatch):
    monkeypatch.setattr("policy_server.client.AWAY_S", 0.05)
    with served(ramp) as address:
        policy = remote(address, timeout_s=0.5, waits=True)
        assert row(policy, 0) == [1, 1]
        ramp.gate.clear()
        with pytest.raises(PolicyAway):
            # The arm's own time stands still.
            [policy.infer_batch([ask()]) for _ in range(99)]
        ramp.gate.set()
        policy.close()


def test_without_rows_the_arm_holds_and_in_the_end_gives_up(ramp):
    with served(ramp) as address:
        policy = remote(address, timeout_s=60.0)
        assert row(policy, 0) == [1, 1]
        ramp.gate.clear()
        assert [row(policy, step) for step in range(1, 10)][7:] == [None, None]
        last = 10 + round(20 * AWAY_S)
        assert [row(policy, step) for step in range(10, last - 2)][-1] is None
        with pytest.raises(PolicyAway):
            row(policy, last)
        ramp.gate.set()
        policy.close()
    assert policy.streaming.underflows == 1


def test_a_chunk_of_the_episode_before_is_never_carried_out(ramp):
    with served(ramp) as address:
        policy = remote(address)
        for step in range(5):
            row(policy, step, here=(50.0, 50.0))
        ramp.gate.clear()
        row(policy, 5, here=(50.0, 50.0))
        policy.reset()
        ramp.gate.set()
        first = [row(policy, step) for step in range(4)]
        policy.close()
    assert first == [[1, 1], [2, 2], [3, 3], [4, 4]]


def test_a_server_that_dies_is_held_for_at_once_and_found_again(ramp):
    policy = None
    with served(ramp) as address:
        port = int(address.rpartition(":")[2])
        policy = remote(address)
        assert row(policy, 0) == [1, 1]
    while row(policy, 1) is not None:
        pass
    with served(ramp, port=port):
        assert policy.streaming.lost == 1
        while not policy._link.is_open or policy._link.is_busy:
            pass
        row(policy, 2)
        while policy._link.is_busy:
            pass
        assert row(policy, 3) is not None
        policy.close()


def test_an_episode_that_begins_while_the_server_is_away_begins_once_it_is_back(ramp):
    with served(ramp) as address:
        policy = remote(address)
        row(policy, 0)
    while row(policy, 1) is not None:
        pass
    policy.reset()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(row, policy, 0)
        while not policy._link.is_busy:
            pass
        with served(ramp, port=int(address.rpartition(":")[2])):
            assert first.result(timeout=FIRST_S / 2) == [1, 1]
            policy.close()


def test_committed_rows_go_along_where_the_policy_continues_them():
    ramp = Ramp(replace(SPEC, rtc=("prefix",)))
    with served(ramp) as address:
        policy = remote(address, threshold=0.9)
        for step in range(4):
            row(policy, step)
        while policy._link.is_busy:
            pass
        policy.close()
    committed = [request.committed for request in ramp.asked if request.committed]
    assert committed
    assert committed[0].rows.shape[1] == 2


@pytest.mark.parametrize(("rtc", "blended"), [(("prefix",), False), (("best_of",), True)])
def test_rows_that_are_continued_more_or_less_are_blended_as_well(rtc, blended):
    ramp = Ramp(replace(SPEC, rtc=rtc))
    with served(ramp) as address:
        policy = remote(address, waits=True)
        for step in range(12):
            row(policy, step, here=(9.0 * step, 9.0 * step))
        policy.close()
    assert any(request.committed for request in ramp.asked)
    said = policy.streaming
    assert (said.jumps < said.naive_jumps) is blended


def test_a_policy_of_single_rows_is_waited_for_at_every_step():
    single = Ramp(replace(SPEC, horizon=1))
    with served(single) as address:
        policy = remote(address)
        assert [row(policy, step, here=(step, step)) for step in range(20)] == [
            [step + 1, step + 1] for step in range(20)
        ]
        policy.close()
    assert policy.streaming.starved == 0


def test_a_single_row_that_is_late_is_not_waited_for_beyond_half_a_tick():
    single = Ramp(replace(SPEC, horizon=1))
    with served(single) as address:
        policy = remote(address)
        assert row(policy, 0) == [1, 1]
        single.gate.clear()
        began = time.monotonic()
        assert row(policy, 1) is None
        assert time.monotonic() - began < 1 / SPEC.hz
        single.gate.set()
        while policy._link.is_busy:
            pass
        # The late one was of step 1.
        assert row(policy, 2, here=(7.0, 7.0)) == [8, 8]
        policy.close()


def test_a_policy_may_be_shown_where_the_arm_will_be():
    joints = replace(SPEC, state={"joint_pos": 2})
    ramp = Ramp(joints)
    with served(ramp) as address:
        policy = RemotePolicy(
            f"ws://{address}",
            replace(joints, images=("front",)),
            threshold=1.0,
            rolls_forward=True,
        )
        asked = [
            ask(state={"joint_pos": np.zeros(2, np.float32)}, observed_at=k / 20) for k in (0, 1)
        ]
        first = policy.infer_batch(asked[:1])
        assert first[0].actions.shape == (1, 2)
        while not ramp.asked[-1].state["joint_pos"].any():
            policy.infer_batch(asked[1:])
        policy.close()


def test_rows_that_come_before_their_step_are_not_late():
    joints = replace(SPEC, state={"joint_pos": 2})
    ramp = Ramp(joints)
    with served(ramp) as address:
        policy = RemotePolicy(
            f"ws://{address}", replace(joints, images=()), threshold=1.0, rolls_forward=True
        )
        for step in range(8):
            still = {"joint_pos": np.zeros(2, np.float32)}
            policy.infer_batch([ask(state=still, observed_at=step / 20)])
            while policy._link.is_busy:
                pass
        policy.close()
    assert policy.streaming.delays
    assert min(policy.streaming.delays) >= 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"action_space": "ee_delta"}, "set arm.actions"),
        ({"hz": 10.0}, "set arm.hz"),
        ({"robot": "koch"}, "robot is koch"),
        ({"state": {"thing": 3}}, r"reads thing \(3\)"),
        ({"images": ("wrist",)}, r"rename=\{wrist: front\}"),
    ],
)
def test_a_policy_for_another_arm_is_refused_in_a_sentence(change, why):
    with served(Ramp(replace(SPEC, **change))) as address, pytest.raises(SpecMismatch, match=why):
        remote(address)


def test_where_nobody_serves_the_command_that_does_is_named():
    with pytest.raises(PolicyUnavailable, match="make serve-pi"):
        remote("127.0.0.1:9")


def test_pictures_reach_the_policy_by_its_own_names():
    seen = Ramp(replace(SPEC, images=("cam_high",), image_size=(8, 8)))
    with served(seen) as address:
        policy = remote(address, rename={"cam_high": "side"})
        picture = {"side": np.full((8, 8, 3), 9, np.uint8), "front": np.zeros((8, 8, 3), np.uint8)}
        policy.infer_batch([ask(images=picture)])
        policy.close()
    assert float(seen.asked[-1].images["cam_high"].mean()) == 9.0


def test_a_server_knows_an_arm_by_its_name_and_what_it_has_left(ramp):
    with served(ramp) as address:
        policy = remote(address, name="arm01")
        for step in range(8):
            row(policy, step)
        while policy._link.is_busy:
            pass
        said = httpx.get(f"http://{address}/health").json()["arms"]
        policy.close()
    assert said["arm01"]["rows_left"][0] == 0
    assert 0 < said["arm01"]["rows_left"][1] <= 3
    assert said["arm01"]["underflows"] == 0

"""A policy at work: which one is loaded, what it is asked before any arm asks, and swapping."""

import time
from dataclasses import replace

import numpy as np
import pytest

from policy_server.host import Host
from policy_server.load import Device, kind_of, load_policy, plain_policy
from policy_server.policy import ActionChunk, PolicyUnavailable
from policy_server.scheduler import NotAnswered
from policy_server.self_test import unread, warm_up
from tests.policy_server.served import SPEC, Ramp, ask

SEES = replace(SPEC, images=("front",), image_size=(16, 16))


class Blind(Ramp):
    """Has a camera and never looks."""

    def _chunk(self, request):
        return super()._chunk(replace(request, images={}))


class Broken(Ramp):
    def infer_batch(self, requests):
        raise RuntimeError("no kernel")


def host_of(policies, names=None):
    def load(name):
        found = policies[name]
        if isinstance(found, str):
            raise PolicyUnavailable(found)
        return found

    return Host(names or list(policies), load=load)


def test_the_first_policy_that_can_be_had_answers_and_the_others_are_explained():
    host = host_of({"large": "no weights", "small": Ramp(), "other": Ramp()})
    host.open()
    assert host.serving.name == "small"
    assert [(one.name, one.why) for one in host.refused] == [("large", "no weights")]
    host.close()


def test_where_no_policy_can_be_had_all_reasons_are_given():
    with pytest.raises(PolicyUnavailable, match="a: no weights; b: it fails on a plain request"):
        host_of({"a": "no weights", "b": Broken()}).open()


def test_nobody_is_answered_before_a_policy_is_ready_or_once_it_drains():
    host = host_of({"a": Ramp()})
    with pytest.raises(NotAnswered, match="loading"):
        host.submit("arm", ask(), slack_s=1.0)
    host.open()
    host.close()
    with pytest.raises(NotAnswered, match="draining"):
        host.submit("arm", ask(), slack_s=1.0)


def test_a_policy_that_does_not_look_is_refused():
    with pytest.raises(PolicyUnavailable, match="does not depend on the picture"):
        unread(Blind(SEES))
    assert unread(Ramp(SEES)) == ()


def test_a_policy_that_does_not_listen_is_said_to():
    assert "sentence" in unread(Ramp(replace(SEES, reads_goal=True)))[0]


def test_warming_up_tries_every_size_of_batch():
    ramp = Ramp()
    warm_up(ramp)
    assert set(ramp.batches) == {1, 2, 4}


def test_weights_are_swapped_without_a_pause():
    class Doubled(Ramp):
        def _chunk(self, request):
            chunk = super()._chunk(request)
            return ActionChunk(actions=2 * chunk.actions, observed_at=chunk.observed_at)

    host = host_of(
        {"old": Ramp(), "new": Doubled(), "other": Ramp(replace(SPEC, horizon=3))}, ["old"]
    )
    host.open()
    before = host.submit("arm", ask((0, 0)), slack_s=9.0).result(10).chunk.actions[0, 0]
    host.swap("new")
    after = host.submit("arm", ask((0, 0)), slack_s=9.0).result(10).chunk.actions[0, 0]
    with pytest.raises(PolicyUnavailable, match="something else"):
        host.swap("other")
    assert (before, after, host.serving.name) == (1.0, 2.0, "new")
    host.close()


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"policy.json": "{}"}, "learned"),
        ({"config.json": '{"model_type": "openvla"}'}, "openvla"),
        ({"config.json": '{"type": "act"}'}, "lerobot"),
    ],
)
def test_a_folder_says_its_kind(tmp_path, files, kind):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert kind_of(tmp_path) == kind


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PolicyUnavailable):
        load_policy(str(tmp_path))


def test_the_null_policy_takes_its_time():
    policy, began = load_policy("null:30+5"), time.perf_counter()
    request = ask(state={"joint_pos": np.ones(6, np.float32)})
    assert len(policy.infer_batch([request] * 2)) == 2
    assert time.perf_counter() - began >= 0.040


def test_the_null_policy_stays_where_the_arm_is():
    policy = load_policy("null")
    chunk = policy.infer_batch([ask(state={"joint_pos": np.arange(6, dtype=np.float32)})])[0]
    np.testing.assert_array_equal(chunk.actions, np.tile(np.arange(6), (16, 1)))


class Off(Ramp):
    """Is off by so many degrees."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def _chunk(self, request):
        chunk = super()._chunk(request)
        return ActionChunk(actions=chunk.actions + np.float32(self.by), observed_at=0.0)


def compared(by, plain=lambda _: Ramp()):
    host = Host(["it"], load=lambda _: Off(by), plain=plain)
    host.open()
    host.close()
    return host._serving


def test_what_is_near_float32_is_served_and_how_near_is_known():
    serving = compared(0.5)
    assert (serving.accuracy.largest, serving.accuracy.observations) == (0.5, 5)
    assert serving.warnings == ()


def test_what_is_farther_from_float32_than_the_tolerance_is_said_to_be():
    assert compared(2.0).warnings == (
        "its numbers are up to 2.00 from float32's, more than 1 degree or percent",
    )


def test_what_is_too_far_from_float32_is_not_served():
    with pytest.raises(PolicyUnavailable, match=r"up to 6\.0 from float32's, more than 5 degrees"):
        compared(6.0)


def test_without_a_float32_to_compare_with_the_policy_is_served_with_a_warning():
    def too_large(_):
        raise PolicyUnavailable("out of memory")

    serving = compared(6.0, too_large)
    assert serving.warnings == ("it was not compared with float32: out of memory",)
    assert serving.accuracy is None


def test_a_swap_is_compared_as_well():
    made = {"old": Off(0.0), "new": Off(0.25), "wrong": Off(9.0)}
    host = Host(["old"], load=made.get, plain=lambda _: Ramp())
    host.open()
    host.swap("new")
    assert host.serving.accuracy.largest == 0.25
    with pytest.raises(PolicyUnavailable, match="from float32's"):
        host.swap("wrong")
    host.close()


def test_only_what_computes_otherwise_has_a_plain_policy_to_compare_with():
    half = Device(device="cpu", dtype="bfloat16")
    assert plain_policy("null", half) is None
    assert plain_policy("lerobot:anywhere", Device(device="cpu", samples=4)) is None
    with pytest.raises(PolicyUnavailable):
        plain_policy("lerobot:/nowhere/at/all", half)

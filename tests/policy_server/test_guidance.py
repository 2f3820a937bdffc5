import importlib
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch

from policy_server.backends.guidance import Guidance
from policy_server.rtc import guidance_coefficient, prefix_weights

BATCH, HORIZON, WIDTH = 3, 12, 5
TIMES = [1.0, 0.9, 0.5, 0.1, 0.0]


@pytest.fixture(scope="module")
def lerobot():
    """Two of LeRobot's modules, without the half minute that all of its policies take."""
    root = Path(find_spec("lerobot").submodule_search_locations[0])
    with patch.dict(sys.modules):
        for folder in ["", "configs", "policies", "policies/rtc", "policies/common"]:
            package = ModuleType(".".join(Path("lerobot", folder).parts))
            package.__path__ = [str(root / folder)]
            sys.modules[package.__name__] = package
        types = importlib.import_module("lerobot.configs.types")
        sys.modules["lerobot.configs"].RTCAttentionSchedule = types.RTCAttentionSchedule
        # It is off, and brings in the whole of torch's compiler.
        sys.modules["lerobot.policies.rtc.debug_tracker"] = Mock()
        rtc = importlib.import_module("lerobot.policies.rtc.modeling_rtc")
        flow = importlib.import_module("lerobot.policies.common.flow_matching")
    return partial(processor, rtc), flow.euler_integrate


def processor(rtc, *, schedule="exp", limit=5.0, overlap=10):
    return rtc.RTCProcessor(
        rtc.RTCConfig(
            prefix_attention_schedule=rtc.RTCAttentionSchedule[schedule.upper()],
            max_guidance_weight=limit,
            execution_horizon=overlap,
        )
    )


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


INWARD, OUTWARD = normal(2, HORIZON * WIDTH, HORIZON * WIDTH, seed=9) / np.sqrt(HORIZON * WIDTH)


def network(x):
    """A nonlinear velocity that mixes the rows of each chunk, and no chunks."""
    flat = x.reshape(len(x), -1)
    return torch.tanh(flat @ INWARD.to(x)).matmul(OUTWARD.to(x)).reshape(x.shape)


def paper_velocity(x, target, weights, time, *, limit):
    """v' of arXiv 2506.07339 for one chunk, in float64, in LeRobot's time and sign."""
    t, inward, outward = 1.0 - time, INWARD.double().numpy(), OUTWARD.double().numpy()
    hidden = np.tanh(x.ravel() @ inward)
    velocity = -(hidden @ outward)
    clean = x.ravel() + (1 - t) * velocity
    derivative = np.eye(x.size) - (1 - t) * (outward.T * (1 - hidden**2)) @ inward.T
    error = (target.ravel() - clean) * np.repeat(weights, WIDTH)
    r2 = (1 - t) ** 2 / (t**2 + (1 - t) ** 2)
    beta = limit if t == 0 else min(limit, (1 - t) / (t * r2))
    return -(velocity + beta * derivative.T @ error).reshape(x.shape)


@pytest.mark.parametrize("schedule", ["exp", "linear", "ones", "zeros"])
@pytest.mark.parametrize(
    ("total", "delay", "overlap"), [(8, 0, 8), (8, 3, 5), (50, 60, 10), (9, 2, 0), (6, 2, 9)]
)
def test_weights_are_those_of_lerobot(lerobot, schedule, total, delay, overlap):
    theirs = lerobot[0](schedule=schedule).get_prefix_weights(delay, overlap, total)
    ours = prefix_weights(total, delay=delay, overlap=overlap, schedule=schedule)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("schedule", ["exp", "linear", "ones", "zeros"])
@pytest.mark.parametrize(
    ("left", "delay", "overlap"), [(12, 0, 12), (12, 4, 8), (5, 3, 10), (2, 4, 10), (0, 2, 10)]
)
def test_velocities_are_those_of_lerobot(lerobot, time, schedule, left, delay, overlap):
    x, rows = normal(BATCH, HORIZON, WIDTH), normal(BATCH, left, WIDTH, seed=1)
    theirs = lerobot[0](schedule=schedule, overlap=overlap)
    ours = Guidance(schedule=schedule, overlap=overlap)
    wanted, got = (g.denoise_step(x, rows, delay, time, network) for g in (theirs, ours))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


def test_a_whole_chunk_denoised_in_lerobot_s_loop_is_that_of_lerobot(lerobot):
    make, integrate = lerobot
    given = {"prev_chunk_left_over": normal(7, WIDTH, seed=1)[None], "inference_delay": 3}
    theirs, ours = (
        integrate(
            lambda x, time: network(x),
            normal(1, HORIZON, WIDTH),
            10,
            rtc_processor=guidance,
            rtc_enabled=True,
            **given,
        )
        for guidance in (make(limit=10.0), Guidance(overlap=10, limit=10.0))
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("time", TIMES[:-1])
@pytest.mark.parametrize(("delay", "overlap"), [(0, 12), (4, 8), (12, 12)])
def test_velocities_with_the_true_jacobian_are_those_of_the_paper(time, delay, overlap):
    x, rows = normal(1, HORIZON, WIDTH), normal(1, HORIZON, WIDTH, seed=1)
    guidance = Guidance(overlap=overlap, jacobian="true")
    with torch.no_grad():
        ours = guidance.denoise_step(x, rows, delay, time, network)
    weights = prefix_weights(HORIZON, delay=delay, overlap=overlap)
    chunk, target = x[0].double().numpy(), rows[0].double().numpy()
    paper = paper_velocity(chunk, target, weights, time, limit=5.0)
    np.testing.assert_allclose(ours[0], paper, atol=1e-5)


def test_the_true_jacobian_is_that_of_finite_differences():
    x, rows, direction = normal(3, 1, HORIZON, WIDTH).double()
    guidance = Guidance(schedule="ones", jacobian="true")
    guided = guidance.denoise_step(x, rows, 0, 0.6, network)
    correction = (network(x) - guided) / guidance_coefficient(0.4, limit=5.0)
    ahead, here, behind = (
        y - 0.6 * network(y) for y in (x + 1e-6 * direction, x, x - 1e-6 * direction)
    )
    slope = (ahead - behind) / 2e-6
    torch.testing.assert_close((correction * direction).sum(), ((rows - here) * slope).sum())


@pytest.mark.parametrize("jacobian", ["identity", "true"])
def test_each_chunk_of_a_batch_is_guided_as_if_it_were_alone(jacobian):
    x = normal(4, HORIZON, WIDTH)
    rows = [normal(12, WIDTH, seed=1), None, normal(3, WIDTH, seed=2), normal(0, WIDTH)]
    delays = [5, 0, 2, 4]
    guidance = Guidance(jacobian=jacobian)
    together = guidance.denoise_step(x, rows, delays, 0.7, network)
    for chunk in range(4):
        one = slice(chunk, chunk + 1)
        alone = guidance.denoise_step(x[one], rows[one], delays[one], 0.7, network)
        torch.testing.assert_close(together[one], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("jacobian", ["identity", "true"])
def test_a_chunk_without_rows_to_continue_has_exactly_the_plain_velocity(jacobian):
    x = normal(3, HORIZON, WIDTH)
    rows = [None, normal(4, WIDTH, seed=1), normal(0, WIDTH)]
    guided = Guidance(jacobian=jacobian).denoise_step(x, rows, [0, 2, 3], 0.7, network)
    plain = network(x)
    assert torch.equal(guided[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(guided[1, :4], plain[1, :4])


def test_without_any_rows_the_policy_is_asked_and_nothing_else():
    x = normal(BATCH, HORIZON, WIDTH)
    assert torch.equal(Guidance().denoise_step(x, None, None, 0.7, network), network(x))


def test_rows_and_columns_that_nobody_gave_are_not_guided():
    x = normal(1, HORIZON, WIDTH)
    guided = Guidance().denoise_step(x, normal(4, 3, seed=1), 2, 0.7, network)
    untouched = guided == network(x)
    assert untouched[:, 4:].all()
    assert untouched[:, :, 3:].all()
    assert not untouched[:, :4, :3].any()


def to_one(x, time):
    """The velocity of a flow whose every action is 1."""
    return (x - 1.0) / time.reshape(-1, 1, 1)


@pytest.mark.parametrize("left", [0, 1, 4])
def test_a_short_leftover_pulls_nothing_to_zero(lerobot, left):
    make, integrate = lerobot
    noise, rows = normal(1, HORIZON, WIDTH), torch.ones(left, WIDTH)
    padded = torch.nn.functional.pad(rows, (0, 0, 0, 10 - left))  # as LeRobot's engine does
    run = partial(integrate, to_one, noise, 10, rtc_enabled=True, inference_delay=left + 1)
    theirs = run(rtc_processor=make(limit=10.0), prev_chunk_left_over=padded[None])
    ours = run(rtc_processor=Guidance(overlap=10, limit=10.0), prev_chunk_left_over=rows)
    assert theirs[0, left].max() < 0.1
    torch.testing.assert_close(ours, torch.ones_like(ours), atol=1e-5, rtol=0)


def test_a_prefix_made_beforehand_guides_as_its_rows_do():
    x, rows = normal(2, HORIZON, WIDTH), [normal(6, WIDTH, seed=1), None]
    guidance = Guidance()
    prefix = guidance.prefix(x, rows, [2, 0])
    once = guidance.denoise_step(x, prefix, None, 0.7, network)
    assert torch.equal(once, guidance.denoise_step(x, rows, [2, 0], 0.7, network))


def test_rows_beyond_the_horizon_are_left_out():
    x, rows = normal(1, HORIZON, WIDTH), normal(HORIZON + 5, WIDTH, seed=1)
    long, cut = (Guidance(overlap=9).prefix(x, [r], [2]) for r in (rows, rows[:HORIZON]))
    assert torch.equal(long.rows, cut.rows)
    assert torch.equal(long.weights, cut.weights)


def test_guided_rows_end_near_what_they_continue(lerobot):
    noise, rows = normal(1, HORIZON, WIDTH), torch.full((6, WIDTH), 0.5)
    guidance = Guidance(limit=10.0)
    given = {"prev_chunk_left_over": rows, "inference_delay": 4, "rtc_enabled": True}
    chunk = lerobot[1](to_one, noise, 10, rtc_processor=guidance, **given)
    torch.testing.assert_close(chunk[0, :4], rows[:4], atol=0.1, rtol=0)
    torch.testing.assert_close(chunk[0, 6:], torch.ones(6, WIDTH), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("rows", "delay", "message"),
    [
        (normal(4, WIDTH + 1), 2, "6 columns, expected at most 5"),
        (normal(4, WIDTH), None, "need the delay"),
        ([normal(4, WIDTH)], 2, "zip"),
    ],
)
def test_rows_that_do_not_fit_the_batch_are_refused(rows, delay, message):
    with pytest.raises(ValueError, match=message):
        Guidance().denoise_step(normal(BATCH, HORIZON, WIDTH), rows, delay, 0.7, network)


def test_an_unknown_jacobian_is_refused():
    with pytest.raises(ValueError, match="no Jacobian 'True'"):
        Guidance(jacobian="True")

"""Arms, replicas and the way between them, with no clock but their own."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from ops import serve_simulation
from ops.serve_model.questions import ROUTES, compared, needs, replicas_needed, serves_well
from ops.serve_model.serving import Figures, Serving
from ops.serve_model.simulated import Arm, Events, Replica, Request, simulate
from ops.serve_simulation import serving_of
from policy_server.action_queue import ActionQueue

SERVICE_S = tuple(0.040 + 0.006 * size for size in (1, 2, 3, 4))
QUIET = Serving(arms=1, service_s=SERVICE_S, warm_up_s=2.0, seconds=6.0)
NOISY = replace(QUIET, arms=8, jitter_s=0.002, episode_s=3.0)


def test_the_same_seed_gives_the_same_figures_and_another_one_does_not() -> None:
    assert simulate(NOISY) == simulate(NOISY)
    assert simulate(NOISY) != simulate(replace(NOISY, seed=1))


def test_an_arm_alone_waits_for_the_way_and_the_service() -> None:
    alone = simulate(QUIET)
    assert alone.p50_ms == alone.p99_ms == pytest.approx(2 * 5.0 + 46.0)
    assert (alone.starved_share, alone.batch_mean) == (0.0, 1.0)


def test_an_arm_alone_asks_each_time_that_half_a_chunk_is_used_up() -> None:
    assert simulate(replace(QUIET, seconds=16.0)).requests == pytest.approx(20, abs=1)


def test_more_arms_never_lower_utilisation() -> None:
    used = [simulate(replace(NOISY, arms=arms)).utilisation for arms in (1, 2, 4, 8, 16, 32, 64)]
    assert used == sorted(used)
    assert used[-1] == pytest.approx(1.0, abs=1e-3)


def test_too_many_arms_starve_and_a_few_do_not() -> None:
    assert simulate(replace(NOISY, arms=4)).starved_share == 0.0
    crowded = simulate(replace(NOISY, arms=100, seconds=10.0))
    assert crowded.starved_share > 0.1
    assert crowded.underflows_per_minute > 1.0


def test_a_way_longer_than_the_rows_at_hand_starves_even_one_arm() -> None:
    far = replace(QUIET, horizons=(8,), network_s=0.3)
    assert simulate(far).starved_share > 0.1
    assert replicas_needed(far) is None


def test_requests_that_wait_together_are_answered_together() -> None:
    assert simulate(replace(NOISY, arms=32)).batch_mean > 1.5
    assert simulate(replace(NOISY, arms=32, service_s=(0.046,))).batch_mean == 1.0


def test_a_replica_answers_the_least_slack_first() -> None:
    events, order = Events(), list[int]()
    replica = Replica(
        events,
        replace(QUIET, service_s=(0.1,)),
        send=lambda request: order.append(request.arm),
        served=lambda *_: None,
    )
    for arm, slack_s in enumerate((0.5, 0.9, 0.2)):
        replica.submit(Request(arm=arm, sent=0.0, slack_s=slack_s))
    events.run(1.0)
    assert order == [0, 2, 1]


def test_a_replica_waits_a_moment_for_an_arm_that_is_about_to_ask() -> None:
    events, sizes = Events(), list[int]()
    replica = Replica(
        events, QUIET, send=lambda _: None, served=lambda size, *_: sizes.append(size)
    )

    def ask(when: float, arm: int) -> None:
        request = Request(arm=arm, sent=when, slack_s=1.0)
        events.at(when, lambda: replica.submit(request))

    for begin in (0.0, 1.0, 2.0):
        ask(begin, 0)
        ask(begin + 0.002, 1)
    events.run(3.0)
    assert sizes == [1, 1, 1, 1, 2]


def test_least_slack_first_feeds_arms_in_a_hurry_that_share_with_others() -> None:
    mixed = replace(NOISY, arms=18, horizons=(8, 32), jitter_s=0.001, seconds=20.0, seed=1)
    by_arrival, by_slack = simulate(mixed), simulate(replace(mixed, says_slack=True))
    assert by_slack.starved_share < by_arrival.starved_share


@pytest.mark.parametrize("route", ROUTES)
def test_the_fewest_replicas_serve_well_and_one_less_does_not(route: str) -> None:
    crowd = replace(NOISY, arms=60, route=route, horizons=(16,))
    found = replicas_needed(crowd)
    assert found is not None
    assert serves_well(found)
    assert not serves_well(simulate(replace(crowd, replicas=found.replicas - 1)))


def test_a_crowd_that_cannot_be_served_has_no_number_of_replicas() -> None:
    rows = needs(replace(QUIET, horizons=(8,), network_s=0.3), crowds=[2])
    assert [row["replicas"] for row in rows] == [None] * len(ROUTES)


def test_an_arm_counts_the_rows_that_its_queue_would_hold() -> None:
    rng, arm, horizon = random.Random(0), Arm(8, 0.5), 8
    queue, asked = ActionQueue(action_dim=1), 0
    for step in range(300):
        if arm.is_asking and rng.random() < 0.2:
            arm.answered()
            queue.merge(np.ones((horizon, 1), np.float32), first_step=asked, step=step)
        if arm.is_due():
            arm.ask()
            asked = step
        assert arm.remaining == queue.remaining(step)
        arm.take(None)
        queue.take(step)


def test_the_error_is_a_share_of_what_was_measured() -> None:
    def figures(p50_ms: float, p99_ms: float) -> Figures:
        return replace(simulate(QUIET), p50_ms=p50_ms, p99_ms=p99_ms)

    row = compared(figures(45.0, 60.0), figures(50.0, 50.0))
    assert (row["p50_error"], row["p99_error"]) == (-0.1, 0.2)


def test_measured_times_of_batches_take_the_place_of_computed_ones() -> None:
    known = serve_simulation.KNOWN
    assert serving_of(known).service_s == pytest.approx(SERVICE_S)
    assert serving_of({**known, "service_ms": "30,50"}).service_s == pytest.approx((0.03, 0.05))


@pytest.mark.parametrize("word", ["arms=many", "route=near", "replicas=0", "colour=red"])
def test_words_that_mean_nothing_are_usage_errors(word: str) -> None:
    assert serve_simulation.main([word]) == 2


def test_the_result_says_how_it_came_about(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "simulated.json"
    assert serve_simulation.main(["arms=1,4", "seconds=1", f"json={path}"]) == 0
    facts = json.loads(path.read_text())
    assert [row["arms"] for row in facts["rows"]] == [1, 4]
    assert {row["replicas"] for row in facts["needed"]} == {1}
    assert {"command", "seed", "revision", "machine"} <= set(facts)
    assert "utilisation" in capsys.readouterr().out

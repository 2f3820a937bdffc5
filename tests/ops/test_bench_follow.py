import pytest

from envs.twin_env import make_twin_env
from ops.bench_follow import Followed, follow, main, row_of
from policy_server.backends.foresight import ForesightPolicy
from policy_server.client import RemotePolicy
from rewarder.goal import task_goal
from tests.policy_server.served import served

STREAM = {"steps": 80, "starved_steps": 2, "delay_steps_max": 3, "seam_jump_mean": 0.1}


def followed(*distances):
    return Followed(distances=distances, streaming=STREAM)


def test_a_tool_has_to_keep_near_for_two_seconds_on_end():
    near, far = [0.019] * 40, [0.021]
    assert followed(*far, *near, 0.02).success
    assert not followed(*far, *near, *far).success
    assert not followed(*near, *far, *near).success


def test_the_distance_counts_once_there_was_time_to_arrive():
    assert followed(*[0.2] * 40, *[0.01] * 40).late_mm == pytest.approx(10.0)


def test_a_row_says_how_many_of_how_many_and_how_sure_that_is():
    episodes = [followed(*[0.01] * 80)] * 3 + [followed(*[0.03] * 80)]
    row = row_of(episodes, speed=0.05, rtc=True, delay_ms=100)
    assert (row["successes"], row["episodes"], row["wilson95"]) == (3, 4, [0.301, 0.954])
    assert (row["distance_mm"], row["starved_share"]) == (15.0, 0.025)


def test_rows_that_come_late_follow_a_sliding_cube_only_where_they_are_continued():
    env = make_twin_env(task_goal("reach"), hz=20.0, slide=0.05)
    with served(ForesightPolicy("reach")) as address:
        late = {"threshold": 0.9, "waits": True, "delay_s": 0.1}
        policies = [
            RemotePolicy(f"ws://{address}", env.policy_spec, rtc=rtc, **late)
            for rtc in (True, False)
        ]
        continued, naive = (follow(env, policy, seed=0) for policy in policies)
        for policy in policies:
            policy.close()
    assert (continued.success, naive.success) == (True, False)
    assert continued.late_mm < 20.0 < naive.late_mm
    assert naive.streaming["delay_steps_max"] == 3


@pytest.mark.parametrize("words", [["speeds=fast"], ["arm=real"]])
def test_words_that_are_not_understood_are_refused_in_a_line(words, capsys):
    assert main(words) == 2
    assert "error: " in capsys.readouterr().err

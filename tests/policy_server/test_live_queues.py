from policy_server.live_queues import WINDOW_S, LiveQueues


def test_it_tells_the_last_minute_of_each_arm():
    queues = LiveQueues()
    for moment, rows in ((0.0, 9), (50.0, 7), (60.0, 5)):
        queues.note("arm01", rows_left=rows, underflows=0, now=moment)
    queues.note("arm02", rows_left=3, underflows=0, now=60.0)
    figures = queues.figures(now=WINDOW_S + 1.0)
    assert figures["arm01"] == {"ages_s": [11.0, 1.0], "rows_left": [7, 5], "underflows": 0}
    assert figures["arm02"]["rows_left"] == [3]


def test_underflows_of_all_episodes_add_up():
    queues = LiveQueues()
    for underflows in (0, 2, 2, 0, 1, 3):
        queues.note("arm01", rows_left=1, underflows=underflows, now=0.0)
    assert queues.figures(now=1.0)["arm01"]["underflows"] == 5


def test_an_arm_that_has_gone_is_left_out():
    queues = LiveQueues()
    queues.note("arm01", rows_left=1, underflows=0, now=0.0)
    queues.forget("arm01")
    queues.forget("arm02")
    assert queues.figures(now=1.0) == {}

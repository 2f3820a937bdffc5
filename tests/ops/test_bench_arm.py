"""What the benchmarks of an arm make of their measurements; nothing is timed here."""

import numpy as np

from ops.bench_arm import (
    cycle_rows,
    gauges,
    jitter_rows,
    metrics,
)
from tests.robot.arm_rig import make_process, served


def test_a_ratio_is_the_median_of_the_rounds():
    theirs = np.full((3, 100), 0.002)
    ours = theirs * [[1.0], [1.1], [9.0]]
    p50, mean, p99 = cycle_rows(ours, theirs, "rest")
    assert (p50["ours"], p50["other"], p50["ratio"]) == (2.2, 2.0, 1.1)
    assert (mean["ours"], mean["ratio"]) == (7.4, 1.1)
    assert (p99["ours"], p99["cycles"]) == (18.0, 300)


def test_a_rare_long_cycle_is_in_the_p99_alone():
    ours = np.full((1, 100), 0.002)
    ours[0, :2] = 0.010
    p50, _, p99 = cycle_rows(ours, np.full((1, 100), 0.002), "rest")
    assert (p50["ratio"], p99["ratio"]) == (1.0, 5.0)


def test_lateness_is_what_an_arms_process_says():
    process = make_process()
    for late in [0.001] * 97 + [0.005] * 2 + [0.009]:
        process.tick(late_s=late)
    with served(process, tick=False) as arm:
        page = metrics(arm.url)
    p50, p99, greatest = (row["ours"] for row in jitter_rows([page]))
    assert (p50, greatest) == (1.0, 9.0)
    assert 5.0 <= p99 < 5.1


def test_the_worst_arm_counts():
    page = """# HELP arm_late_seconds The greatest
arm_mode{mode="RUN"} 1.0
arm_late_seconds 0.004
arm_late_quantile_seconds{quantile="0.5"} 0.001
arm_late_quantile_seconds{quantile="0.99"} 0.003
"""
    worse = page.replace("0.003", "0.006").replace("RUN", "HOLD") + 'arm_mode{mode="RUN"} 0.0\n'
    assert gauges(page)["arm_late_seconds"] == 0.004
    p99 = jitter_rows([page, worse, page])[1]
    assert (p99["ours"], p99["windows"], p99["driven"]) == (6.0, 3, 2)

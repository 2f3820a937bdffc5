from rl.pace import pace
from rl.trial import Trial

TWIN = {"success": True, "end": "done", "gentle": True, "guard_events": {}}


def trial(**changes):
    return Trial(seed=0, time_s=2.0, **{**TWIN, **changes})


def test_a_twin_has_a_jerk_but_no_pace():
    said = pace([trial(jerk=100.0), trial(jerk=300.0), trial(jerk=120.0)])
    assert said == {"jerk_rms": 120.0, "loop_hz": None, "latency_ms": None}


def test_trials_that_kept_no_jerk_say_nothing_of_it():
    assert pace([trial()])["jerk_rms"] is None


def test_the_loop_is_told_of_all_trials_and_of_the_slowest():
    trials = [trial(commands=40, answer_ms=(20.0,)), trial(commands=30, answer_ms=(20.0,))]
    assert pace(trials)["loop_hz"] == {"mean": 17.5, "slowest": 15.0, "n": 70}


def test_a_percentile_has_a_bound_only_where_there_are_enough_answers():
    few = pace([trial(commands=1, answer_ms=tuple(float(i) for i in range(298)))])
    many = pace([trial(commands=1, answer_ms=tuple(float(i) for i in range(299)))])
    assert few["latency_ms"]["p99_at_most"] is None
    assert many["latency_ms"] == {"p50": 149.0, "p99": 295.0, "p99_at_most": 298.0, "n": 299}

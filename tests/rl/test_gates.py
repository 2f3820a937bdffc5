import json

import pytest

from rl.evidence import NoEvidence, read_evidence, record_of
from rl.gate_parts import FAIL, NOT_MEASURED, PASS, rate_interval
from rl.gates import main

SOURCE = {"command": "python -m x", "git_revision": "abc", "seed": 0}
RESULT = {
    **SOURCE,
    "task": "lift",
    "goal": "Lift the red cube.",
    "preset": "stiff",
    "reward": "heuristic",
    "judge": "truth",
    "successes": 97,
    "episodes": 100,
}
ROW = {
    "promise": "a promise",
    "trials": 1000,
    "broken": 0,
    "verdict": "pass",
    "circumstances": {"command": "make safety", "revision": "abc", "seed": 0},
}
STREAM = {
    "continued": True,
    "added_delay_ms": 0,
    "episodes": 100,
    "underflows": 0,
    "minutes": 7.5,
    "loop_hz": 19.9,
    "loop_hz_slowest": 18.0,
}
AGREEMENT = {
    "command": "make agreement",
    "git_revision": "abc",
    "set_frozen": "d1ge57",
    "set": "twin200",
    "rater": "twin",
    "labels": {"twin": "the twin's ground truth"},
    "reward": "heuristic",
    "accuracy": {"hits": 193, "of": 200},
    "g3": {"passed": True, "shortfalls": []},
}


class Docs:
    """A folder of results that passes every gate of emulated arms, until a test spoils it."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "results").mkdir(parents=True)
        for task in ("reach", "lift", "push"):
            self.result(task, preset="emulated")
        self.safety(S1={}, S2={}, S3={}, S4={}, S5={}, S12={})
        self.stream()
        self.agreement()

    def write(self, name, content):
        (self.folder / name).write_text(json.dumps(content))

    def result(self, task, name="0", **changes):
        self.write(f"results/{task}-{name}.json", {**RESULT, "task": task, **changes})

    def safety(self, **rows):
        self.write("safety.json", [{**ROW, "id": name, **row} for name, row in rows.items()])

    def stream(self, arm="emulated", seed=0, **changes):
        facts = {**SOURCE, "arm": arm, "seed": seed, "rows": [{**STREAM, **changes}]}
        self.write("rtc.json", facts)

    def agreement(self, **changes):
        self.write("agreement.json", {**AGREEMENT, **changes})

    def gates(self, tmp_path, world="emulated", **words):
        """Return the exit code, and the verdict of each gate."""
        path = tmp_path / "gates.json"
        given = {"world": world, "docs": self.folder, "json": path, **words}
        code = main([f"{name}={value}" for name, value in given.items()])
        said = json.loads(path.read_text())
        return code, {gate["gate"]: gate["verdict"] for gate in said["gates"]}, said


@pytest.fixture
def docs(tmp_path):
    return Docs(tmp_path / "docs")


def test_a_world_where_everything_holds_passes(docs, tmp_path):
    code, verdicts, _ = docs.gates(tmp_path)
    assert (code, set(verdicts.values())) == (0, {PASS})


def test_nothing_on_file_is_not_measured_and_no_pass(tmp_path):
    empty = tmp_path / "docs"
    empty.mkdir()
    for world in ("twin", "emulated", "bench"):
        path = tmp_path / f"{world}.json"
        assert main([f"world={world}", f"docs={empty}", f"json={path}"]) == 1
        said = json.loads(path.read_text())
        assert {gate["verdict"] for gate in (*said["gates"], said["kpi"])} == {NOT_MEASURED}


def test_what_was_measured_on_emulated_arms_says_nothing_of_a_bench(docs, tmp_path):
    code, verdicts, _ = docs.gates(tmp_path, world="bench")
    assert (code, set(verdicts.values())) == (1, {NOT_MEASURED})


def test_a_twin_has_no_pace_to_measure(docs, tmp_path):
    docs.stream(arm="twin")
    assert docs.gates(tmp_path, world="twin")[1]["G1"] == NOT_MEASURED


@pytest.mark.parametrize(
    ("row", "verdict"),
    [({"verdict": "pass so far"}, NOT_MEASURED), ({"verdict": "FAIL", "broken": 1}, FAIL)],
)
def test_a_promise_that_was_tried_too_rarely_or_broke_is_no_pass(docs, tmp_path, row, verdict):
    docs.safety(S1={}, S2={}, S3=row, S4={}, S5={})
    code, verdicts, _ = docs.gates(tmp_path)
    assert (code, verdicts["G0"]) == (1, verdict)


def test_a_promise_that_is_missing_is_not_measured(docs, tmp_path):
    docs.safety(S1={}, S2={}, S4={}, S5={})
    assert docs.gates(tmp_path)[1]["G0"] == NOT_MEASURED


def test_promises_about_an_arms_process_are_not_asked_of_a_twin(docs, tmp_path):
    docs.safety(S1={}, S2={}, S3={}, S4={}, S5={}, S12={"verdict": "pass so far"})
    assert docs.gates(tmp_path, world="twin")[1]["G0"] == PASS
    assert docs.gates(tmp_path, world="emulated")[1]["G0"] == NOT_MEASURED


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"loop_hz_slowest": 14.9}, FAIL),
        ({"underflows": 8}, FAIL),
        ({"minutes": 3.0}, FAIL),
        ({"minutes": 4.0}, PASS),
        ({"added_delay_ms": 100}, NOT_MEASURED),
    ],
)
def test_the_loop_must_be_quick_and_rows_must_surely_last(docs, tmp_path, changes, verdict):
    docs.stream(**changes)
    assert docs.gates(tmp_path)[1]["G1"] == verdict


def test_an_evaluation_tells_the_pace_but_not_whether_rows_last(docs, tmp_path):
    (docs.folder / "rtc.json").unlink()
    for slowest, verdict in ((19.0, PASS), (14.0, FAIL)):
        pace = {"mean": 19.5, "slowest": slowest, "n": 900}
        docs.result("reach", preset="emulated", loop_hz=pace)
        parts = docs.gates(tmp_path)[2]["gates"][1]["parts"]
        assert [part["verdict"] for part in parts] == [verdict, NOT_MEASURED]


def test_clients_without_arms_are_named_as_a_stand_in_and_pass_nothing(docs, tmp_path):
    (docs.folder / "rtc.json").unlink()
    row = {"part": "lan", "what": "underflows a minute and arm", "ours": 0.0}
    docs.write("bench_serve.json", {**SOURCE, "rows": [row]})
    part = docs.gates(tmp_path)[2]["gates"][1]["parts"][1]
    assert part["verdict"] == NOT_MEASURED
    assert any("stand-in, no arms" in note for note in part["notes"])


@pytest.mark.parametrize(("successes", "verdict"), [(78, FAIL), (79, PASS)])
def test_the_lower_bound_decides_of_a_task(docs, tmp_path, successes, verdict):
    for task in ("reach", "lift", "push"):
        docs.result(task, preset="emulated", successes=successes)
    assert docs.gates(tmp_path)[1]["G2"] == verdict


def test_two_tasks_and_none_of_a_third_are_not_measured(docs, tmp_path):
    docs.result("push", preset="stiff")
    assert docs.gates(tmp_path)[1]["G3"] == NOT_MEASURED


def test_a_third_task_that_was_not_learnt_fails(docs, tmp_path):
    docs.result("push", preset="emulated", successes=10)
    code, verdicts, _ = docs.gates(tmp_path)
    assert (code, verdicts["G2"], verdicts["G3"]) == (1, PASS, FAIL)


def test_every_seed_of_a_task_counts(docs, tmp_path):
    docs.result("lift", name="1", preset="emulated", successes=20)
    part = next(p for p in docs.gates(tmp_path)[2]["gates"][3]["parts"] if "lift" in p["asked"])
    assert (part["n"], part["verdict"]) == (200, FAIL)
    assert "the worst 20 of 100" in part["notes"][0]


def test_a_run_counts_once_by_its_newest_evaluation(docs, tmp_path):
    docs.result("lift", name="0", preset="emulated", run="a", evaluation="2", successes=20)
    docs.result("lift", name="1", preset="emulated", run="a", evaluation="1", successes=100)
    part = next(p for p in docs.gates(tmp_path)[2]["gates"][3]["parts"] if "lift" in p["asked"])
    assert (part["n"], part["verdict"]) == (100, FAIL)


@pytest.mark.parametrize("changes", [{"variation": 1.0}, {"trained_goal": "Lift the blue cube."}])
def test_trials_under_other_conditions_are_not_counted(docs, tmp_path, changes):
    docs.result("lift", name="1", preset="emulated", successes=0, **changes)
    assert docs.gates(tmp_path)[1]["G3"] == PASS


def test_another_reward_s_policies_are_another_question(docs, tmp_path):
    assert docs.gates(tmp_path, reward="blend")[1]["G2"] == NOT_MEASURED


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"accuracy": {"hits": 189, "of": 200}}, PASS),
        ({"accuracy": {"hits": 188, "of": 200}}, FAIL),
        ({"g3": {"passed": False, "shortfalls": ["kappa below 0.75"]}}, FAIL),
        ({"reward": "embedded"}, NOT_MEASURED),
    ],
)
def test_the_reward_must_surely_agree(docs, tmp_path, changes, verdict):
    docs.agreement(**changes)
    assert docs.gates(tmp_path)[1]["G3"] == verdict


def test_labels_that_stand_in_for_people_s_are_named(docs, tmp_path):
    notes = docs.gates(tmp_path)[2]["gates"][3]["parts"][-1]["notes"]
    assert any(note.startswith("stand-in") for note in notes)
    docs.agreement(rater="anna", labels={"anna": "Anna, at the bench"})
    notes = docs.gates(tmp_path)[2]["gates"][3]["parts"][-1]["notes"]
    assert not any("stand-in" in note for note in notes)


def test_the_twin_s_labels_do_not_speak_for_a_bench(docs, tmp_path):
    parts = docs.gates(tmp_path, world="bench")[2]["gates"][3]["parts"]
    assert parts[-1]["verdict"] == NOT_MEASURED


@pytest.mark.parametrize(
    ("latency", "verdicts"),
    [
        ({"p50": 60.0, "p99": 90.0, "p99_at_most": 110.0, "n": 900}, [PASS, PASS]),
        ({"p50": 60.0, "p99": 90.0, "p99_at_most": 130.0, "n": 900}, [PASS, FAIL]),
        ({"p50": 60.0, "p99": 90.0, "p99_at_most": None, "n": 50}, [PASS, NOT_MEASURED]),
    ],
)
def test_the_latency_is_told_but_gates_nothing(docs, tmp_path, latency, verdicts):
    docs.result("reach", preset="emulated", latency_ms=latency)
    code, _, said = docs.gates(tmp_path)
    assert code == 0
    assert [part["verdict"] for part in said["kpi"]["parts"]] == verdicts


@pytest.mark.parametrize("word", ["command", "git_revision", "seed"])
def test_a_result_that_does_not_say_where_it_comes_from_is_refused(docs, tmp_path, capsys, word):
    for task in ("reach", "lift", "push"):
        docs.result(task, preset="emulated", **{word: None})
    code, verdicts, said = docs.gates(tmp_path)
    assert (code, verdicts["G2"], len(said["refused"])) == (1, NOT_MEASURED, 3)
    assert f"does not say its {word.removeprefix('git_')}" in capsys.readouterr().out


def test_a_revision_that_nobody_knew_is_none():
    with pytest.raises(NoEvidence, match="revision"):
        record_of("x.json", {**RESULT, "git_revision": "unknown"})


def test_a_safety_row_without_circumstances_spoils_its_gate(docs, tmp_path):
    docs.safety(S1={}, S2={}, S3={}, S4={}, S5={}, S6={"circumstances": {}})
    code, verdicts, said = docs.gates(tmp_path)
    assert (code, verdicts["G0"]) == (1, NOT_MEASURED)
    assert "safety.json" in said["refused"][0]


def test_a_torn_file_is_refused_in_a_sentence(docs):
    (docs.folder / "rtc.json").write_text("{")
    evidence = read_evidence(docs.folder)
    assert not evidence.streams
    assert "docs/rtc.json cannot be read" in evidence.refused[0]


def test_every_figure_names_the_command_that_measured_it(docs, tmp_path, capsys):
    _, _, said = docs.gates(tmp_path)
    for gate in said["gates"]:
        assert all(source["command"] for part in gate["parts"] for source in part["sources"])
        assert all(part["sources"] for part in gate["parts"])
    assert "by: make agreement  [abc, docs/agreement.json]" in capsys.readouterr().out


def test_the_interval_of_a_rate_is_garwood_s():
    # Garwood 1936, table: 0 events: 0 to 3.69; 10 events: 4.80 to 18.39.
    assert rate_interval(0, 1.0) == pytest.approx((0.0, 3.689), abs=0.001)
    assert rate_interval(10, 2.0) == pytest.approx((4.795 / 2, 18.390 / 2), abs=0.001)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["world=moon"], "expected one of twin, emulated, bench"),
        (["docs=/nowhere/at/all"], "is no folder"),
        (["gate=G1"], "known words"),
    ],
)
def test_bad_words_are_usage_errors(capsys, words, said):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1

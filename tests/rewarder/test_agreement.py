import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarder import agree, calibrate
from rewarder.agreement import Verdict, area_under_curve, judge, measure, share
from rewarder.calibration import load_calibration
from rewarder.clip_set import SetClip
from rewarder.entry import composed, find_set, run_tool
from rewarder.gallery import gallery
from rewarder.reward import Clip, NoScore, Score
from rewarder.statistics import cohen_kappa
from robot.camera import encode_jpeg


def verdicts(*rows, kind="near"):
    """Return verdicts of (truth, said) pairs."""
    return [
        Verdict(clip=f"{n:016x}", task="lift", kind=kind, truth=truth, said=said)
        for n, (truth, said) in enumerate(rows)
    ]


def counts(tp, fn, fp, tn):
    return verdicts(
        *[(True, True)] * tp, *[(True, False)] * fn, *[(False, True)] * fp, *[(False, False)] * tn
    )


def test_figures_of_a_hand_worked_table():
    # Of 20 successes 18 are found, of 30 failures 3 are called done.
    found = measure(counts(18, 2, 3, 27))
    assert found.accuracy.share == pytest.approx(45 / 50)
    assert found.precision.share == pytest.approx(18 / 21)
    assert found.recall.share == pytest.approx(18 / 20)
    assert found.false_successes.share == pytest.approx(3 / 30)
    assert found.balanced_accuracy == pytest.approx((0.9 + 0.9) / 2)
    # By chance they agree on 0.4 * 0.42 + 0.6 * 0.58.
    assert found.kappa == pytest.approx((0.9 - 0.516) / (1 - 0.516))
    assert found.constant_no == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("hits", "of", "lower", "upper"),
    [
        (45, 50, 0.786, 0.957),
        (47, 50, 0.838, 0.979),
        (49, 50, 0.895, 0.996),
        (50, 50, 0.929, 1.0),
        (180, 200, 0.851, 0.934),
    ],
)
def test_intervals_are_those_of_the_published_formula(hits, of, lower, upper):
    found = share(hits, of)
    assert (found.lower, found.upper) == (
        pytest.approx(lower, abs=5e-4), pytest.approx(upper, abs=5e-4),
    )  # fmt: skip


def test_always_saying_no_agrees_with_most_failures_and_does_not_pass():
    found = measure(counts(0, 10, 0, 40))
    assert found.accuracy.share == 0.8
    assert found.kappa == 0.0
    assert found.shortfalls


def test_silence_counts_as_no_success():
    found = measure(verdicts((True, None), (False, None), (True, True), (False, False)))
    assert found.accuracy.share == 0.75
    assert found.accuracy_judged.share == 1.0
    assert found.judged.share == 0.5
    assert found.recall.share == 0.5
    assert found.false_successes.share == 0.0


def test_the_gate_wants_accuracy_kappa_and_few_false_successes():
    assert measure(counts(24, 1, 1, 24)).shortfalls == []
    assert measure(counts(25, 0, 2, 23)).shortfalls == ["more than 5% of failures called done"]
    assert len(measure(counts(20, 5, 5, 20)).shortfalls) == 3
    assert measure(counts(44, 4, 0, 2)).shortfalls == ["kappa below 0.75"]


@pytest.mark.parametrize("table", [(25, 0, 0, 0), (0, 0, 0, 25)])
def test_a_set_of_one_class_passes_nobody(table):
    [words] = measure(counts(*table)).shortfalls
    assert "lacks successes or failures" in words


def test_nothing_to_measure_is_an_error():
    with pytest.raises(ValueError, match="no clip of the set has a label"):
        measure([])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40))
def test_the_area_is_the_share_of_pairs_in_the_right_order(rows):
    rank = np.array([float(row[0]) for row in rows])
    truth = np.array([row[1] for row in rows])
    pairs = [np.sign(a - b) for a in rank[truth] for b in rank[~truth]]
    area = area_under_curve(rank, truth)
    if not pairs:
        assert area is None
    else:
        assert area == pytest.approx((np.mean(pairs) + 1) / 2)


def test_clips_without_a_rank_are_left_out_of_the_area():
    rank = np.array([1.0, math.nan, 0.0])
    assert area_under_curve(rank, np.array([True, False, False])) == 1.0


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_kappa_is_the_same_both_ways_round_and_at_most_1(rows):
    one, other = np.array(rows).T
    found, turned = cohen_kappa(one, other), cohen_kappa(other, one)
    if found.kappa is None:
        assert turned.kappa is None
    else:
        assert found.kappa == pytest.approx(turned.kappa)
        assert found.kappa <= 1.0 + 1e-12


PICTURE = encode_jpeg(np.zeros((16, 16, 3), np.uint8))


def item(goal="Lift the red cube."):
    clip = Clip(
        goal=goal,
        stamps=np.arange(2.0),
        frames={"front": [PICTURE, PICTURE]},
        joint_pos=np.zeros((2, 6)),
        joint_target=np.zeros((2, 6)),
    )
    return SetClip(clip=clip, task="lift", kind="hover")


class Says:
    """A model that gives one score, or none."""

    def __init__(self, score=None, error=None):
        self._score, self._error = score, error

    def score(self, _):
        if self._error:
            raise self._error
        return self._score


SCORE = Score(
    success=np.array([True, True]),
    progress=np.array([0.1, 0.7]),
    valid=np.array([True, True]),
    model="fixed/1",
)


def verdict_of(model):
    [found] = judge(model, [("a", item()), ("b", item())], {"a": True})
    return found


def test_the_last_moment_is_what_counts():
    score = replace(SCORE, success=np.array([True, False]))
    assert verdict_of(Says(score)).said is False
    assert verdict_of(Says(replace(score, valid=np.array([True, False])))).said is None


def test_log_odds_rank_and_are_a_probability_and_progress_ranks_without_them():
    found = verdict_of(Says(replace(SCORE, logit=np.array([0.0, 2.0]))))
    assert (found.rank, found.probability) == (2.0, pytest.approx(1 / (1 + math.exp(-2))))
    found = verdict_of(Says(SCORE))
    assert found.rank == 0.7
    assert math.isnan(found.probability)


def test_a_calibrated_probability_goes_before_the_raw_one():
    score = replace(SCORE, logit=np.array([0.0, 9.0]), evidence={"p_success": 0.6})
    assert verdict_of(Says(score)).probability == 0.6


def test_a_refused_clip_has_no_verdict_and_an_outage_ends_the_measurement():
    assert verdict_of(Says(error=NoScore("unknown goal"))).why == "unknown goal"
    with pytest.raises(NoScore, match="down"):
        verdict_of(Says(error=NoScore("down", retry=True)))


def test_the_gallery_shows_the_wrong_clips_alone_and_no_markup_of_a_goal():
    rows = verdicts((True, False), (False, True), (True, True))
    clips = {row.clip: item("Lift the <script>x</script> cube.") for row in rows}
    page = gallery("heuristic on twin50", measure(rows), rows, clips)
    assert page.count("<article") == 2
    assert page.index(rows[1].clip) < page.index(rows[0].clip)
    assert "<script" not in page
    assert page.count("data:image/jpeg;base64,") == 4


@pytest.fixture
def told(monkeypatch):
    def run(tool, *words):
        monkeypatch.setattr(sys, "argv", ["tool", *words])
        return run_tool(tool.run)

    return run


def test_the_heuristic_passes_on_the_shipped_fifty(told, tmp_path, capsys):
    assert told(agree, "reward=heuristic", "set=twin50", f"out={tmp_path}", "gate=true") == 0
    said = json.loads((tmp_path / "agreement.json").read_text())
    assert said["labels"]["twin"] == "the twin's ground truth"
    assert said["g3"]["passed"]
    assert said["false_successes"]["hits"] == 0
    assert said["accuracy"]["of"] == len(said["verdicts"]) == 50
    assert "G3: pass" in capsys.readouterr().out
    wrong = 50 - said["accuracy"]["hits"]
    assert (tmp_path / "gallery.html").read_text().count("<article") == wrong


def test_the_heuristic_cannot_be_calibrated_and_says_so(told, tmp_path, capsys):
    assert told(calibrate, "set=twin50", f"out={tmp_path / 'c.json'}") == 1
    assert "log-odds for none of the clips" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "words", "sentence"),
    [
        (agree, ["set=nowhere"], "holds no set of clips"),
        (agree, ["set=twin50", "rater=bob"], "'bob' has labelled no clip"),
        (agree, ["reward=unknown"], "conf/agreement.yaml"),
        (agree, ["sets=twin50"], "conf/agreement.yaml"),
        (calibrate, ["set=twin50", "precision=1.5"], "expected a share below 1"),
        (calibrate, ["set=../../etc"], "holds no set of clips"),
    ],
)
def test_words_that_cannot_be_followed_end_with_2_and_a_sentence(
    told, capsys, tmp_path, tool, words, sentence
):
    assert told(tool, f"out={tmp_path / 'out'}", *words) == 2
    assert sentence in capsys.readouterr().err


def test_a_folder_with_blanks_and_commas_is_a_folder(tmp_path):
    folder = tmp_path / "it's a, folder"
    assert composed("agreement", [f"set={folder}"]).cfg.set == str(folder)


def test_a_calibration_is_written_and_makes_bold_log_odds_modest(
    told, tmp_path, monkeypatch, capsys
):
    shipped = find_set("twin50")
    truth = shipped.truth()
    rng = np.random.default_rng(0)
    odds = {name: 3 * rng.normal(3.0 if yes else -3.0, 2.5) for name, yes in truth.items()}
    names = {id(one.clip): name for name, one in shipped.clips.items()}

    class Bold:
        def score(self, clip):
            logit = np.full(len(clip), odds[names[id(clip)]])
            valid = np.ones(len(clip), bool)
            progress = np.zeros(len(clip))
            return Score(
                success=logit > 0, progress=progress, valid=valid, model="b/1", logit=logit
            )

    monkeypatch.setattr("rewarder.entry.Composed.model", lambda _: Bold())
    monkeypatch.setattr(calibrate, "find_set", lambda _: shipped)
    path = tmp_path / "c.json"
    assert told(calibrate, "set=twin50", "precision=0.7", f"out={path}") == 0
    made = load_calibration(path)
    assert 0.05 < made.curve.a < 1.0
    assert made.precision_bound >= 0.7
    assert made.key.tasks == ("lift", "place", "push", "reach", "stack")
    assert "reward=calibrated reward@reward.model=heuristic" in capsys.readouterr().out


def test_the_printed_words_use_the_calibration(tmp_path):
    words = calibrate.usage("heuristic", tmp_path / "c.json").split()
    cfg = composed("agreement", words).cfg.reward
    assert cfg.calibration == str(tmp_path / "c.json")
    assert cfg.model._target_ == "rewarder.heuristic.HeuristicReward"


def test_shipped_sets_are_frozen_balanced_and_of_no_person():
    for name, count in (("twin50", 50), ("twin200", 200)):
        found = find_set(name)
        truth = found.truth()
        assert found.frozen
        assert (len(truth), sum(truth.values())) == (count, count // 2)
        assert all("twin" in said for said in found.info.raters.values())
        assert "simulated, no person" in found.info.raters["simulated_rater_a"]
        errors = found.between("twin", "simulated_rater_a")
        assert 1 - errors.share == pytest.approx(math.ceil(0.03 * count) / count)


def test_shipped_sets_hold_every_kind_of_hard_negative_and_share_no_scene():
    seeds = []
    for name in ("twin50", "twin200"):
        found = find_set(name)
        kinds = {clip.kind for clip in found.clips.values()}
        assert kinds >= {
            "hover", "near", "wrong", "pushed", "dropped", "occluded", "near_dark",
            "hover_shifted", "early", "noise", "done", "done_shifted",
        }  # fmt: skip
        seeds += [clip.origin["seed"] for clip in found.clips.values()]
    assert len(set(seeds)) == 250
    assert min(seeds) >= 5_000_000

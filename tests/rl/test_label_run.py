import numpy as np
import pytest

from rewarder.bradley_terry import PairSet, fit
from rewarder.clip_set import open_set
from rewarder.label_desk import AnswerBody
from rewarder.pairs import FILE, PairLabel, append_pairs, read_pairs
from rewarder.preference import FEATURES, MOMENTS, About, save_ensemble
from rewarder.reward import Score
from rl import label_run
from rl.label import save_score
from rl.label_pairs import ENSEMBLE, QUESTIONS, load_judge, questions
from rl.label_run import LABELS, Scored, desk_of, main, make_set, moments_of, pick
from rl.run_folder import EPISODES, RunFolder
from robot.camera import encode_jpeg
from robot.journal import Journal
from tests.rl.practice import fake_episode

GOAL = "Lift the red cube."
CAMERAS = label_run.WORDS["cameras"]


def score_of(level, size=8):
    return Score(
        success=np.zeros(size, bool),
        progress=np.full(size, level),
        valid=np.ones(size, bool),
        model="fake/1",
    )


@pytest.fixture
def run(tmp_path):
    """Ten episodes, each with more progress than the one before; the last four are successes."""
    folder = RunFolder.create(tmp_path, task="lift", config="", facts={})
    journal = Journal(folder.journal("arm01"))
    picture = encode_jpeg(np.full((16, 16, 3), 90, np.uint8))
    for number in range(10):
        episode = fake_episode(number=number, goal=GOAL)
        pictures = [picture] * len(episode.stamps)
        episode.frames["front"][:] = pictures
        episode.joint_pos[:] = number
        path = journal.seal(episode)
        save_score(folder.labels, path.stem, score_of(number / 10))
        line = {"file": folder.relative(path), "rewarded_success": number >= 6}
        folder.append(EPISODES, line)
    folder.close()
    return folder


def scored(level, *, rewarded):
    return Scored(path=label_run.RUNS, score=score_of(level), rewarded=rewarded)


def words(**given):
    return {**label_run.WORDS, "raters": "anna,ben", **given}


def test_hard_ones_come_first_and_both_kinds_in_turn():
    won = [scored(level, rewarded=True) for level in (0.9, 0.6, 0.8)]
    lost = [scored(level, rewarded=False) for level in (0.1, 0.5, 0.3)]
    chosen = pick([*won, *lost], 6, np.random.default_rng(0))
    assert [(e.rewarded, float(e.score.progress[0])) for e in chosen] == [
        (True, 0.6),
        (False, 0.5),
        (True, 0.8),
        (False, 0.3),
        (True, 0.9),
        (False, 0.1),
    ]


@pytest.mark.parametrize(("won", "lost", "kept"), [(9, 9, (4, 4)), (1, 9, (1, 7)), (9, 2, (6, 2))])
def test_as_many_successes_as_failures_are_picked_where_there_are(won, lost, kept):
    episodes = [scored(0.5, rewarded=n < won) for n in range(won + lost)]
    chosen = pick(episodes, 8, np.random.default_rng(0))
    wins = sum(episode.rewarded for episode in chosen)
    assert (wins, len(chosen) - wins) == kept


def test_a_clip_of_a_lift_ends_with_the_last_step_and_of_a_place_with_the_look_after():
    episode = fake_episode(steps=60)
    lift = moments_of(episode)
    assert len(lift) <= label_run.MOMENTS
    assert (lift.stamps[0], lift.stamps[-1]) == (0.0, 61.0)
    object.__setattr__(episode.info, "task", "place")
    assert moments_of(episode).stamps[-1] == 62.0


def test_a_set_names_its_raters_and_where_each_clip_comes_from(run):
    found = make_set(run, ["anna", "ben"], 6, 0)
    assert found.folder == run.path / LABELS
    assert tuple(found.info.raters) == ("anna", "ben")
    assert sorted(clip.origin["rank"] for clip in found.clips.values()) == list(range(6))
    names = {path.stem for path in run.episodes()}
    assert {clip.origin["episode"] for clip in found.clips.values()} <= names


def test_a_second_start_goes_on_with_the_same_clips_and_questions(run):
    first = desk_of(run, words(clips="6", pairs="3"))
    item = first.next("anna")
    later = desk_of(run, words(clips="9", pairs="3", seed="5"))
    assert later.next("anna") == item
    assert later.progress("anna") == first.progress("anna")


def goals(run):
    return {path.stem: GOAL for path in run.episodes()}


def test_people_are_asked_where_the_model_is_in_doubt(run):
    asked = questions(run, goals(run), 5, seed=0, judge=None)
    said = {label.pair: label for label in read_pairs(run.path / FILE)}
    assert asked.decided > 0
    assert all(said[pair].preferred == "tie" for pair in asked.pairs[:-1])
    assert {label.by for label in said.values()} == {"score of fake/1"}
    assert not any(label.person for label in said.values())


def test_a_pair_that_a_person_has_judged_is_no_candidate_again(run):
    first = questions(run, goals(run), 3, seed=0, judge=None)
    append_pairs(run.path / FILE, [PairLabel.of_person(p, "tie", "anna") for p in first.pairs])
    more = questions(run, goals(run), 6, seed=0, judge=None)
    assert list(more.pairs[: len(first.pairs)]) == list(first.pairs)
    assert len({pair.key for pair in more.pairs}) == len(more.pairs)


def test_an_ensemble_that_sees_nothing_leaves_no_question(run):
    rng = np.random.default_rng(0)
    pairs = PairSet(
        clips=rng.normal(size=(4, MOMENTS, len(FEATURES))),
        first=np.array([0, 1]),
        second=np.array([2, 3]),
        targets=np.array([1.0, 0.0]),
        weights=np.ones(2),
    )
    about = About(
        task="lift",
        horizon=8,
        k=1.0,
        low=0.0,
        high=1.0,
        threshold=None,
        pairs=2,
        people_pairs=0,
        accuracy=None,
    )
    save_ensemble(run.path / ENSEMBLE, fit(pairs, seed=0, steps=2), about)
    judge = load_judge(run, label_run.Path(CAMERAS))
    assert judge is not None
    assert questions(run, goals(run), 3, seed=0, judge=judge).pairs == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "name a run"),
        (["run=nowhere"], "no run folder nowhere"),
        (["run=x", "clips=many"], "expected a number"),
        (["run=x", "port=70000"], "port="),
        (["run=x", "freeze=maybe"], "freeze="),
        (["colour=red"], "known words"),
    ],
)
def test_wrong_words_end_with_2(capsys, monkeypatch, run, given, said):
    monkeypatch.setattr(label_run, "RUNS", run.path.parent)
    given = [word.replace("run=x", f"run={run.path.name}") for word in given]
    assert main(given) == 2
    assert said in capsys.readouterr().err


def test_a_name_that_no_rater_can_have_is_refused_and_leaves_nothing(run, capsys):
    assert main([f"run={run.path}", "raters=Anna Smith", "port=0"]) == 1
    assert "no name of a rater" in capsys.readouterr().err
    assert not (run.path / LABELS).exists()


def test_a_run_without_scores_says_what_to_do(tmp_path, capsys):
    folder = RunFolder.create(tmp_path, task="lift", config="", facts={})
    folder.close()
    assert main([f"run={folder.path}", "port=0"]) == 1
    assert "make relabel" in capsys.readouterr().err


def test_broken_questions_are_named(run, capsys):
    make_set(run, ["anna"], 4, 0)
    (run.path / QUESTIONS).write_text('["Lift it."]\n')
    assert main([f"run={run.path}", "pairs=2", "port=0"]) == 1
    assert QUESTIONS in capsys.readouterr().err


def test_labels_are_frozen_with_a_hash(run, capsys):
    desk = desk_of(run, words(clips="4"))
    for success in (True, False):
        item = desk.next("anna")
        desk.answer(said(item.key, success=success))
    assert main([f"run={run.path}", "freeze=yes"]) == 0
    digest = open_set(run.path / LABELS).frozen
    assert digest in capsys.readouterr().out


def said(key, *, success):
    return AnswerBody(rater="anna", item=key, success=success)

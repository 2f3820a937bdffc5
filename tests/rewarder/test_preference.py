import json
from dataclasses import replace

import httpx
import numpy as np
import pytest
from fastapi import FastAPI, Request
from hypothesis import given, settings
from hypothesis import strategies as st

from rewarder import train_preference
from rewarder.bradley_terry import PairSet, accuracy, ends_of, fit, forward, threshold_of
from rewarder.messages import clip_message
from rewarder.pair_judges import ScoreJudge
from rewarder.pairs import FILE, Pair, PairLabel, append_pairs
from rewarder.preference import (
    FEATURES,
    MOMENTS,
    About,
    PreferenceReward,
    clip_features,
    load_ensemble,
    save_ensemble,
    spread,
)
from rewarder.preference_api import preference_router
from rewarder.reward import NoScore, Score
from robot.http_server import answer_errors
from robot.journal import Episode, EpisodeInfo, Journal
from tests.rl.live import served

SIZE = len(FEATURES)
ABOUT = About(
    task="reach",
    horizon=3,
    k=1.0,
    low=-1.0,
    high=1.0,
    threshold=None,
    pairs=0,
    people_pairs=0,
    accuracy=None,
)


def clips_by_level(rng, count):
    """Return clips whose first feature says how well they went, and that level."""
    level = rng.uniform(-1, 1, count)
    clips = rng.normal(size=(count, MOMENTS, SIZE))
    clips[:, :, 0] = level[:, None] + 0.1 * rng.normal(size=(count, MOMENTS))
    return clips, level


def pairs_of(clips, level, rng, count):
    first, second = rng.integers(0, len(clips), (2, count))
    return PairSet(
        clips=clips,
        first=first,
        second=second,
        targets=np.where(first == second, 0.5, level[first] > level[second]),
        weights=np.ones(count),
    )


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    clips, level = clips_by_level(rng, 60)
    ensemble = fit(pairs_of(clips[:40], level[:40], rng, 120), seed=0, members=3, steps=150)
    return ensemble, pairs_of(clips[40:], level[40:], rng, 200)


def test_pairs_teach_an_order_that_holds_for_other_clips(trained):
    right, count = accuracy(*trained)
    assert right / count > 0.85


def test_the_slopes_are_those_of_the_sums():
    rng = np.random.default_rng(4)
    shapes = [(2, SIZE, 3), (2, 1, 3), (2, 3, 3), (2, 1, 3), (2, 3, 1)]
    layers, clips = [rng.normal(size=shape) for shape in shapes], rng.normal(size=(4, 5, SIZE))
    by_sum = rng.normal(size=(2, 4))
    found = forward(layers, clips)[1](by_sum)
    for number, layer in enumerate(layers):
        off = rng.normal(size=layer.shape)
        sums = [
            forward([*layers[:number], layer + by * off, *layers[number + 1 :]], clips)[0]
            for by in (1e-5, -1e-5)
        ]
        measured = (by_sum * (sums[0] - sums[1])).sum() / 2e-5
        assert measured == pytest.approx((found[number] * off).sum(), rel=1e-5)


def test_the_same_seed_gives_the_same_ensemble(trained):
    rng = np.random.default_rng(1)
    pairs = pairs_of(*clips_by_level(rng, 10), rng, 20)
    one, other = (fit(pairs, seed=3, members=2, steps=5) for _ in range(2))
    assert np.array_equal(one.w1, other.w1)


def test_a_persons_word_outweighs_a_models(trained):
    rng = np.random.default_rng(2)
    clips, level = clips_by_level(rng, 20)
    right = pairs_of(clips, level, rng, 60)
    both = replace(
        right,
        first=np.concatenate([right.first] * 2),
        second=np.concatenate([right.second] * 2),
        targets=np.concatenate([right.targets, 1.0 - right.targets]),
        weights=np.concatenate([np.full(60, 5.0), np.ones(60)]),
    )
    won, count = accuracy(fit(both, seed=0, members=3, steps=150), right)
    assert won / count > 0.85


def test_members_share_one_scale_on_what_they_were_trained_on(trained):
    ensemble, _ = trained
    rng = np.random.default_rng(0)
    rewards = ensemble.rewards(clips_by_level(rng, 60)[0][:40].reshape(-1, SIZE))
    assert rewards.mean(axis=1) == pytest.approx(np.zeros(3), abs=0.1)
    assert rewards.std(axis=1) == pytest.approx(np.ones(3), abs=0.1)


def test_members_differ_more_where_no_pair_led(trained):
    ensemble, held = trained
    near = held.clips.reshape(-1, SIZE)
    assert (
        ensemble.rewards(8.0 * near).std(axis=0).mean() > ensemble.rewards(near).std(axis=0).mean()
    )


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(0, 40), st.data())
def test_a_clip_that_ended_stays_as_it_was_last_seen(length, more, data):
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    rows = np.repeat(np.arange(float(length))[:, None], SIZE, axis=1)
    if not valid.any():
        with pytest.raises(NoScore):
            spread(rows, valid, length + more)
        return
    moments = spread(rows, valid, length + more)[:, 0]
    assert len(moments) == MOMENTS
    assert set(moments) <= set(np.flatnonzero(valid))
    assert (np.diff(moments) >= 0).all()
    assert moments[-1] == np.flatnonzero(valid)[-1]


def test_an_ensemble_is_read_back_as_it_was_written(trained, tmp_path):
    save_ensemble(tmp_path, trained[0], ABOUT)
    ensemble, about = load_ensemble(tmp_path)
    rows = np.ones((2, SIZE))
    assert about == ABOUT
    assert np.array_equal(ensemble.rewards(rows), trained[0].rewards(rows))


@pytest.mark.parametrize(
    ("file", "spoil", "said"),
    [
        ("preference.json", lambda data: b"{", "holds no preference reward"),
        ("preference.json", lambda data: data.replace(b"held", b"hold"), "other features"),
        ("preference.safetensors", lambda data: data[:50], "holds no preference reward"),
    ],
)
def test_a_folder_with_something_else_is_refused(trained, tmp_path, file, spoil, said):
    save_ensemble(tmp_path, trained[0], ABOUT)
    path = tmp_path / file
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=said):
        PreferenceReward(tmp_path)


def test_a_missing_model_says_what_writes_it(tmp_path):
    with pytest.raises(ValueError, match="make train-preference"):
        PreferenceReward(str(tmp_path))


def test_features_are_finite_and_of_the_order_of_one(clip, cameras):
    rows, valid = clip_features(clip, cameras)
    assert valid.all()
    assert rows.shape == (len(clip), SIZE)
    assert np.isfinite(rows).all()
    assert np.abs(rows).max() < 5.0


def model(trained, tmp_path, cameras, **about):
    save_ensemble(tmp_path, trained[0], replace(ABOUT, **about))
    return PreferenceReward(tmp_path, cameras)


def test_a_clip_gets_progress_and_no_success_without_a_threshold(trained, tmp_path, cameras, clip):
    score = model(trained, tmp_path, cameras).score(clip)
    assert ((score.progress >= 0.0) & (score.progress <= 1.0)).all()
    assert score.valid.all()
    assert not score.success.any()


def test_from_the_threshold_on_it_is_a_success(trained, tmp_path, cameras, clip):
    assert model(trained, tmp_path, cameras, threshold=0.0).score(clip).success.all()


def test_doubt_is_not_paid(trained, tmp_path, cameras, clip):
    sure = model(trained, tmp_path, cameras, k=0.0, low=-9.0, high=9.0).score(clip)
    wary = model(trained, tmp_path, cameras, k=2.0, low=-9.0, high=9.0).score(clip)
    assert (wary.progress < sure.progress).all()


def test_a_goal_of_another_task_gets_no_score(trained, tmp_path, cameras, clip):
    with pytest.raises(NoScore, match="trained on pairs of lift, not of reach"):
        model(trained, tmp_path, cameras, task="lift").score(clip)


def test_unseen_moments_are_not_valid(trained, tmp_path, cameras, clip):
    dark = replace(clip, frames={name: [b""] * len(clip) for name in clip.frames})
    score = model(trained, tmp_path, cameras, threshold=0.0).score(dark)
    assert not score.valid.any()
    assert not score.success.any()


def test_a_threshold_needs_enough_labels_of_both_kinds():
    progress = np.linspace(0, 1, 40)
    assert threshold_of(progress, progress > 0.5) == pytest.approx(progress[19])
    assert threshold_of(progress, progress > 0.95) is None
    assert threshold_of(progress, np.ones(40, bool)) is None
    assert threshold_of(progress, np.arange(40) % 2 == 0) is None


def test_the_ends_of_progress_are_not_the_same_even_where_all_is(trained):
    low, high = ends_of(trained[0], np.zeros((4, SIZE)), 1.0)
    assert high > low


def episode(number, clip):
    info = EpisodeInfo(
        episode=f"{number:06d}-0000",
        arm="arm01",
        task="reach",
        goal=clip.goal,
        seed=number,
        end="time_limit",
        started_at="2026-11-21T00:00:00+00:00",
        action_space="ee_delta",
        policy="random",
        greedy=False,
        git_revision="0",
        config={},
    )
    steps = len(clip) - 1
    return Episode(
        info=info,
        stamps=clip.stamps,
        joint_pos=clip.joint_pos,
        joint_target=clip.joint_target,
        frames=clip.frames,
        first_step=0,
        state={"joint_pos": np.zeros((steps + 1, 6), np.float32)},
        actions=np.zeros((steps, 4), np.float32),
        source=np.zeros(steps, np.uint8),
        guard_events=[[] for _ in range(steps)],
    )


@pytest.fixture
def run(tmp_path, film):
    """A run of six episodes that end the nearer, the higher their number, and their pairs."""
    cube = np.array([0.22, 0.03, 0.0125])
    journal = Journal(tmp_path / "run" / "journals" / "20261121_reach_arm01_0")
    for number in range(6):
        heights = np.linspace(0.16, 0.16 - 0.02 * number, 3)
        steps = [
            ([("cube", "red", cube)], np.add(cube, (0, 0, height)), 45.0, 45.0)
            for height in heights
        ]
        journal.seal(episode(number, film("Reach for the red cube.", steps)))
    names = [path.stem for path in journal.episodes()]
    pairs = [Pair("Reach for the red cube.", b, a) for i, b in enumerate(names) for a in names[:i]]
    labels = [PairLabel.of_person(pair, "first", "anna") for pair in pairs]
    append_pairs(tmp_path / "run" / FILE, labels)
    return tmp_path / "run"


def test_the_pairs_of_a_run_become_a_reward(run, tmp_path, capsys, film):
    assert train_preference.main([f"run={run}", f"out={tmp_path / 'out'}", "members=2"]) == 0
    assert "15 pairs, 15 of them by people; " in capsys.readouterr().out
    said = json.loads((tmp_path / "out" / "preference.json").read_text())
    assert (said["task"], said["pairs"], said["threshold"]) == ("reach", 15, None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["out=x"], "name the run"),
        (["run=nowhere", "out=x"], "no run folder nowhere"),
        (["pairs=3"], "known words"),
        (["run=.", "out=x", "members=1"], "members= from 2"),
        (["run=.", "out=x", "k=much"], "numbers"),
    ],
)
def test_wrong_words_end_with_2(capsys, words, said):
    assert train_preference.main(words) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_pairs_says_what_makes_them(tmp_path, capsys):
    assert train_preference.main([f"run={tmp_path}", "out=x"]) == 1
    assert "make label" in capsys.readouterr().err


class ByLength:
    """Prefers longer clips; has none of clips of one moment."""

    def score(self, clip):
        if len(clip) == 1:
            raise NoScore("one moment says nothing")
        size = len(clip)
        return Score(
            success=np.zeros(size, bool),
            progress=np.full(size, size / 10),
            valid=np.ones(size, bool),
            model="length/1",
        )


@pytest.fixture(scope="module")
def api():
    app = FastAPI()
    app.include_router(preference_router(ScoreJudge(ByLength())))
    answer_errors(app)

    @app.middleware("http")
    async def named(request: Request, call_next):
        request.state.request_id = "id-1"
        return await call_next(request)

    with served(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


def cut(clip, size):
    return replace(
        clip,
        stamps=clip.stamps[:size],
        frames={name: pictures[:size] for name, pictures in clip.frames.items()},
        joint_pos=clip.joint_pos[:size],
        joint_target=clip.joint_target[:size],
    )


def test_the_service_says_which_of_two_clips_went_better(api, clip):
    two = {"first": clip_message(clip), "second": clip_message(cut(clip, 2))}
    said = api.post("/preference", json=two).json()
    assert said["preferred"] == "first"
    assert said["probability"] == pytest.approx((said["forward"] + said["backward"]) / 2)
    assert (said["model"], said["request_id"]) == ("score of length/1", "id-1")


def test_two_equal_clips_are_a_tie(api, clip):
    two = {"first": clip_message(clip), "second": clip_message(clip)}
    assert api.post("/preference", json=two).json()["preferred"] == "tie"


def test_bad_pairs_are_refused_with_code_sentence_and_id(api, clip):
    good = clip_message(clip)
    other = {**good, "goal": "Lift the red cube."}
    bad = {**good, "stamps": []}
    cases = [
        ({"first": good}, 422, "second"),
        ({"first": good, "second": other}, 422, "two goals"),
        ({"first": good, "second": bad}, 422, "second.stamps"),
        ({"first": good, "second": clip_message(cut(clip, 1))}, 422, "one moment says nothing"),
    ]
    for body, status, said in cases:
        reply = api.post("/preference", json=body)
        assert reply.status_code == status
        assert reply.json().keys() == {"code", "message", "request_id"}
        assert said in reply.json()["message"]
    assert (
        api.post("/preference", content=b"{", headers={"Content-Type": "application/json"}).json()[
            "code"
        ]
        == "not_json"
    )

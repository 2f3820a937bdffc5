import json
import stat
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest

from rewarder.cache import clip_sha
from rewarder.messages import score_body
from rewarder.reward import Score
from rewarder.score_log import HEIGHT, ScoreLog, entry_of
from robot.camera import encode_jpeg
from robot.pictures import jpeg_size

DAY = datetime(2026, 11, 21, 12, tzinfo=UTC)
PICTURE = encode_jpeg(np.random.default_rng(0).integers(0, 255, (192, 256, 3), np.uint8))


@pytest.fixture
def clock():
    return SimpleNamespace(now=DAY)


@pytest.fixture
def score_log(tmp_path, clock):
    made = ScoreLog(
        tmp_path / "log", days=2, most_mb=1, secrets=["sk-123456"], now=lambda: clock.now
    )
    yield made
    made.close()


@pytest.fixture
def entry(clip):
    def make(request_id="r1", *, said=None, notes=None):
        score = Score(
            success=np.array([False, False, True]), progress=np.array([0.0, 0.5, 1.0]),
            valid=np.ones(3, bool), model="vlm#12", logit=np.array([np.nan, -1.5, 3.25]),
            notes={"prompt_sha": "abc", "calib_id": "k-1"} | (notes or {}),
        )  # fmt: skip
        body = score_body(score, latency_ms=7.0, request_id=request_id, clip=clip_sha(clip))
        return entry_of(clip, clip_sha(clip), said or body, request_id=request_id, latency_ms=7.0)

    return make


def lines(score_log, day="2026-11-21"):
    score_log.flush()
    text = (score_log.folder / f"scores-{day}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_says_who_judged_what_and_how(score_log, entry, clip):
    score_log.put(entry(), {"side": PICTURE, "front": PICTURE})
    [line] = lines(score_log)
    named = ("request_id", "clip", "model", "prompt_sha", "calib_id", "latency_ms")
    assert [line[n] for n in named] == ["r1", clip_sha(clip), "vlm#12", "abc", "k-1", 7.0]
    assert line["score"]["logit"] == [None, -1.5, 3.25]


def test_the_prompts_of_a_blends_parts_are_in_the_line(score_log, entry):
    score_log.put(entry(notes={"prompt_sha": "abc", "eyes.prompt_sha": "def"}), {})
    assert lines(score_log)[0]["prompt_sha"] == "abc def"


def test_what_the_cameras_saw_last_is_kept_small_and_once(score_log, entry):
    for _ in range(2):
        score_log.put(entry(), {"side": PICTURE, "front": PICTURE})
    first, second = lines(score_log)
    assert first["thumbnail"] == second["thumbnail"]
    assert jpeg_size((score_log.folder / first["thumbnail"]).read_bytes()) == (256, HEIGHT)


def test_a_clip_without_a_score_has_a_line_with_the_reason_and_no_figures(score_log, entry):
    score_log.put(entry(said="the endpoint is away"), {"front": b""})
    [line] = lines(score_log)
    assert (line["why"], line["score"], line["thumbnail"]) == ("the endpoint is away", None, None)


def test_a_secret_never_reaches_the_disk(score_log, entry):
    score_log.put(entry(said="answered 401: wrong key sk-123456"), {})
    score_log.put(entry(notes={"why": "sk-123456"}), {})
    said = (lines(score_log) and score_log.folder / "scores-2026-11-21.jsonl").read_text()
    assert "sk-123456" not in said
    assert said.count("[secret]") == 2


def test_secrets_are_those_of_the_environment(tmp_path, monkeypatch, entry):
    monkeypatch.setenv("VLM_TOKEN", "very-secret-word")
    score_log = ScoreLog(tmp_path, days=1, most_mb=1, now=lambda: DAY)
    score_log.put(entry(said="very-secret-word"), {})
    assert lines(score_log)[0]["why"] == "[secret]"
    score_log.close()


def test_only_their_owner_can_read_them(score_log, entry):
    score_log.put(entry(), {"front": PICTURE})
    lines(score_log)
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in score_log.folder.glob("s*")}
    assert modes == {0}
    assert stat.S_IMODE(score_log.folder.stat().st_mode) == 0o700


def test_each_day_has_a_file_and_old_ones_go(score_log, entry, clock):
    for day in range(4):
        clock.now = DAY + timedelta(days=day)
        score_log.put(entry(), {"front": PICTURE})
        score_log.flush()
    kept = sorted(path.name for path in score_log.folder.iterdir())
    assert kept == [
        "pictures-2026-11-23", "pictures-2026-11-24",
        "scores-2026-11-23.jsonl", "scores-2026-11-24.jsonl",
    ]  # fmt: skip


def test_a_day_is_bounded_also_over_a_restart(tmp_path, entry):
    for _ in range(2):
        score_log = ScoreLog(tmp_path, days=2, most_mb=0.005, secrets=[], now=lambda: DAY)
        for number in range(20):
            score_log.put(entry(f"r{number}"), {})
        score_log.close()
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.jsonl"))
    assert 0.005 * 2**20 <= size < 0.005 * 2**20 + 1500


def test_a_disk_that_fails_loses_lines_and_nothing_else_until_it_works_again(
    tmp_path, score_log, entry
):
    score_log.folder.write_text("in the way")
    score_log.put(entry("lost"), {"front": PICTURE})
    score_log.flush()
    score_log.folder.unlink()
    score_log.put(entry("kept"), {"front": PICTURE})
    assert [line["request_id"] for line in lines(score_log)] == ["kept"]


def test_a_line_after_half_a_line_is_whole(tmp_path, entry):
    path = tmp_path / "scores-2026-11-21.jsonl"
    path.write_text('{"request_id": "r0", "cl')
    score_log = ScoreLog(tmp_path, days=2, most_mb=1, secrets=[], now=lambda: DAY)
    score_log.put(entry("r1"), {})
    score_log.close()
    assert json.loads(path.read_text().splitlines()[-1])["request_id"] == "r1"
    assert score_log.find(request_id="r0") is None


def test_a_scored_line_is_found_by_request_and_the_newest_by_clip(score_log, entry, clip, clock):
    score_log.put(entry("r1"), {})
    score_log.flush()
    clock.now += timedelta(days=1)
    score_log.put(entry("r2"), {})
    score_log.put(entry("r3", said="away"), {})
    assert score_log.find(request_id="r1").score.logit == [None, -1.5, 3.25]
    assert score_log.find(clip=clip_sha(clip)).request_id == "r2"
    assert score_log.find(request_id="r3") is None
    assert score_log.find(request_id="r") is None


@pytest.mark.parametrize("how", [{"days": 0, "most_mb": 1}, {"days": 1, "most_mb": 0}])
def test_a_log_of_nothing_is_refused(tmp_path, how):
    with pytest.raises(ValueError, match="more than nothing"):
        ScoreLog(tmp_path, **how)

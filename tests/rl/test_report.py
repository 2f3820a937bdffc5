import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest

from rewarder.reward import Score
from rl.alarm import FROZEN, UNFROZEN, Alarm
from rl.audit import AUDITS
from rl.label import save_score
from rl.report import headline, main, parts, write_report
from robot.camera import encode_jpeg
from robot.journal import Episode, EpisodeInfo, Journal

STEPS = 8
RESULT = {
    "judge": "truth",
    "evaluation": "e",
    "episodes": 100,
    "successes": 94,
    "time_to_success_s": 2.5,
    "gentle_failure_rate": 0.5,
    "guard_events": {"step:elbow_flex": 3},
    "command": "python -m rl.evaluate run=x",
}


@dataclass
class Run:
    """A run folder that is written piece by piece."""

    folder: object

    def start(self, goal="Lift the red cube."):
        self.folder.mkdir()
        self.write("run.json", {"version": 1, "task": "lift", "goal": goal, "preset": "stiff"})
        self.write("state.json", {"env_steps": 400, "updates": 200, "wall_s": 75.0, "cpu_s": 90.0})
        return self

    def write(self, name, value):
        (self.folder / name).write_text(json.dumps(value))

    def append(self, name, lines):
        with (self.folder / name).open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def practise(self, outcomes):
        """Seal an episode for each outcome and write its line and its score."""
        journal = Journal(self.folder / "journals" / "arm01")
        for number, success in enumerate(outcomes):
            path = journal.seal(episode(f"{number:06d}-00000000", success=success))
            save_score(self.folder / "labels", path.stem, score(success=success))
            line = {"file": str(path.relative_to(self.folder)), "env_steps": STEPS * (number + 1)}
            line |= {"arm": "arm01", "steps": STEPS, "transitions": STEPS, "source": "policy"}
            line |= {"return": -float(number), "rewarded_success": number == 0, "greedy": True}
            line |= {"truth": truth(success=success), "guard_events": number}
            self.append("episodes.jsonl", [line])


def truth(*, success):
    return {"success": True, "success_at_s": 0.6} if success else {"success": False}


def score(*, success):
    shape = STEPS + 3
    return Score(
        success=np.full(shape, success),
        progress=np.linspace(0, 1, shape),
        valid=np.arange(shape) != 4,
        model="fake",
    )


def episode(name, *, success):
    moments = STEPS + 3
    picture = encode_jpeg(np.full((96, 96, 3), 90, np.uint8))
    info = EpisodeInfo(
        episode=name,
        arm="arm01",
        task="lift",
        goal="Lift the red cube.",
        seed=1,
        end="time_limit",
        started_at="2026-11-21T10:00:00+00:00",
        action_space="ee_delta",
        policy="learned/000001",
        greedy=True,
        git_revision="abc",
        config={},
        truth=truth(success=success),
    )
    return Episode(
        info=info,
        stamps=np.arange(moments) / 10,
        joint_pos=np.zeros((moments, 6)),
        joint_target=np.zeros((moments, 6)),
        frames={"front": [picture] * moments, "side": [picture] * (moments - 1) + [b""]},
        first_step=1,
        state={"thing": np.zeros((STEPS + 1, 3), np.float32)},
        actions=np.zeros((STEPS, 4), np.float32),
        source=np.zeros(STEPS, np.uint8),
        guard_events=[()] * STEPS,
    )


def hanging(name):
    """Return an episode in which the elbow stays 9 degrees short of where it shall be."""
    plain, moments = episode(name, success=False), 43
    target = np.zeros((moments, 6))
    target[:, 2] = -9.0
    return replace(
        plain,
        stamps=np.arange(moments) / 10,
        joint_pos=np.zeros((moments, 6)),
        joint_target=target,
        frames={},
        state={"thing": np.zeros((41, 3), np.float32)},
        actions=np.zeros((40, 4), np.float32),
        source=np.zeros(40, np.uint8),
        guard_events=[()] * 40,
    )


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "20261121_lift_1a2b3c4d").start()


def page(run):
    return write_report(run.folder).read_text()


def test_a_run_that_has_only_begun_has_a_page(run):
    text = page(run)
    assert "Lift the red cube." in text
    assert "Nothing has been judged yet" in text


def test_the_headline_is_the_evaluation_with_its_interval(run):
    run.write("results.json", RESULT)
    text = page(run)
    assert "94 of 100" in text
    assert "95 % interval: 88 % to 97 %" in text


def test_without_an_evaluation_practice_is_the_headline_and_says_so(run):
    run.practise([False, True, True])
    text = page(run)
    assert "2 of 3" in text
    assert "no evaluation yet" in text


def test_only_practice_without_exploration_counts():
    lines = [{"truth": {"success": True}, "greedy": False}, {"truth": {"success": False}}]
    assert headline(None, lines) is None


def test_the_first_the_best_and_a_failed_episode_can_be_watched(run):
    run.practise([False, False, True, False])
    text = page(run)
    titles = re.findall(r"<figure.*?<h2>(.*?)</h2>", text, re.DOTALL)
    assert titles == ["First episode", "Best episode", "Newest failure"]
    assert text.count("data:image/webp;base64,") == 3


def test_the_reward_stands_beside_the_frames_with_gaps_where_it_could_not_tell(run):
    run.practise([True])
    values = json.loads(re.search(r'data-progress="(.*?)"', page(run))[1])
    assert len(values) == STEPS + 3
    assert values[4] is None
    assert (values[0], values[-1]) == (0.0, 1.0)


def test_a_joint_that_stays_short_of_its_command_is_named_with_its_figures(run):
    journal = Journal(run.folder / "journals" / "arm01")
    for number in range(3):
        path = journal.seal(hanging(f"{number:06d}-00000000"))
        line = {"file": str(path.relative_to(run.folder)), "arm": "arm01", "steps": 40}
        run.append("episodes.jsonl", [{**line, "env_steps": 40 * (number + 1)}])
    text = page(run)
    assert re.search(r"arm01:</b> elbow_flex stays 9° short for 4 s.*\(3 of 3 episodes\)", text)
    assert "<td>elbow_flex</td><td>9.0</td>" in text
    assert "<td>wrist_flex</td><td>0.0</td>" in text


def test_a_damaged_episode_is_left_out(run):
    run.practise([False])
    next(run.folder.glob("journals/*/episodes/*.npz")).write_bytes(b"torn")
    assert "<figure" not in page(run)


def test_a_missing_score_leaves_the_pictures(run):
    run.practise([True])
    next((run.folder / "labels").iterdir()).unlink()
    assert "<figure" in page(run)


def test_false_alarms_of_the_reward_model_are_counted(run):
    run.practise([False, True, True])
    text = page(run)
    assert "<b>1</b>false alarm" in text
    assert "<b>2</b>missed" in text


def test_a_run_without_audits_shows_none(run):
    run.practise([False, True])
    assert "Audits of the rewarded" not in page(run)


def test_audits_stand_beside_the_truth(run):
    run.practise([False, True, True])
    told = (run.folder / "episodes.jsonl").read_text().splitlines()
    files = [json.loads(line)["file"] for line in told]
    audits = [{"file": file, "number": n, "policy": "a"} for n, file in enumerate(files)]
    for line, right in zip(audits, (False, True, None), strict=True):
        run.append(AUDITS, [{**line, "right": right}])
    text = page(run)
    assert "1 of the newest 2 confirmed" in text
    assert "1 could not be judged" in text
    assert "<td>denies</td><td>none</td>" in text
    assert "<td>confirms</td><td>a success</td>" in text
    assert "<td>no score</td><td>a success</td>" in text
    assert "Updates are frozen" not in text


def test_a_frozen_run_says_so_first_and_marks_where(run):
    run.practise([False, True] * 4)
    alarm = Alarm(run.folder)
    alarm.add(FROZEN, why="the judge confirms 0 of 5", episodes=6, env_steps=48)
    text = page(run)
    assert text.index("the judge confirms 0 of 5") < text.index("Success while practising")
    assert "updates frozen</span>" in text
    assert f"make unfreeze RUN={run.folder.name}" in text
    alarm.add(UNFROZEN, why="the red cup is gone", episodes=8)
    text = page(run)
    assert "Updates are frozen" not in text
    assert "the red cup is gone" in text


def test_a_full_page_asks_nobody_for_anything(run):
    run.practise([False, True] * 8)
    run.write("results.json", RESULT)
    trial = {"evaluation": "e", "success": True, "time_s": 2.0}
    run.append("results.jsonl", [trial, {**trial, "success": False}])
    run.append("metrics.jsonl", [{"wall_s": 10.0, "time/update_s": 6.0}])
    text = page(run)
    assert text.count('class="plot"') == 5
    asked = re.findall(r"""(?:\b(?:src|href|action)\s*=|\burl\()\s*["']?(.{5})|(@import)""", text)
    assert {address for address, _ in asked} == {"data:"}
    assert "default-src 'none'" in text
    assert len(text) < 3_000_000


def test_what_a_person_typed_is_text_and_never_markup(tmp_path):
    run = Run(tmp_path / "run").start(goal="<script>alert(1)</script>")
    assert "<script>alert" not in page(run)


def test_time_that_no_part_accounts_for_is_shown_as_other():
    last = {"wall_s": 10.0, "time/update_s": 6.0, "time/wait_s": 3.0}
    assert [(name, share) for name, _, share in parts([{}, last])] == [
        ("updating the policy", 0.6),
        ("waiting for the arms", 0.3),
        ("other", 0.1),
    ]


def test_the_command_says_where_the_page_is(run, capsys):
    assert main([f"run={run.folder}"]) == 0
    assert str(run.folder / "report.html") in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"), [([], 2), (["run="], 2), (["runn=x"], 2), (["run=/nowhere"], 2)]
)
def test_a_command_that_names_no_run_is_one_line(capsys, words, code):
    assert main(words) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_a_run_of_another_version_is_refused(run, capsys):
    run.write("run.json", {"version": 0})
    assert main([f"run={run.folder}"]) == 1
    assert "layout version 0" in capsys.readouterr().err

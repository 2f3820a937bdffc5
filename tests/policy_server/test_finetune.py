import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.scripts import lerobot_train
from safetensors.torch import load_file

from policy_server import finetune_openvla, tiny, tiny_openvla
from policy_server.backends.openvla import ActionRange, Prompter, shares_of
from policy_server.backends.openvla_model import architecture_of
from policy_server.finetune_lerobot import LAST
from policy_server.finetune_plan import KINDS
from policy_server.load import load_policy
from policy_server.policy import Policy, PolicyRequest
from policy_server.self_test import probe
from policy_server.tiny import make, small_pi
from rewarder.goal import paraphrases, task_goal
from rl.finetune import main
from rl.record_scripted import record
from robot.journal import Journal
from robot.recording.dataset import export

WORDS = {"task": "reach", "goal": "", "episodes": "1", "fps": "20", "noise": "0.1", "seed": "3"}
SIZE = 96

type Bases = Callable[[str], Path]
type Tune = Callable[..., Path]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("journal") / "reach"
    folder.mkdir()
    record(WORDS | {"size": str(SIZE)}, Journal(folder))
    export(Journal(folder), folder / "lerobot")
    return folder / "lerobot"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Bases:
    root, made = tmp_path_factory.mktemp("bases"), dict[str, Path]()

    def get(kind: str) -> Path:
        if kind not in made:
            one = tiny_openvla.make if kind == "openvla" else lambda out: make(kind, out)
            made[kind] = one(root / kind)
        return made[kind]

    return get


@pytest.fixture(autouse=True)
def own_logging():
    """LeRobot's trainer replaces the handlers of everybody's logging."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def tune(dataset: Path, base: Bases, tmp_path: Path) -> Tune:
    def run(policy: str, **words: object) -> Path:
        kind = KINDS[policy].name if policy in KINDS else policy
        given = {"base": base(kind), "batch_size": 4, "steps": 3, "out": tmp_path / "tuned"} | words
        given |= {"policy": policy, "dataset": dataset}
        with small_pi():
            assert main([f"{name}={value}" for name, value in given.items()]) == 0
        return Path(str(given["out"]))

    return run


def recorded(dataset: Path) -> tuple[list[PolicyRequest], np.ndarray]:
    """Return what was seen at every frame, and the commands that were sent."""
    frames = LeRobotDataset("local/reach", root=dataset)
    seen = [
        PolicyRequest(
            state={"joint_pos": frame["observation.state"].numpy()},
            goal=frame["task"],
            observed_at=float(index),
            images={
                name: (frame[f"observation.images.{name}"].permute(1, 2, 0).numpy() * 255)
                .round()
                .astype(np.uint8)
                for name in ("front", "side")
            },
        )
        for index, frame in enumerate(frames[index] for index in range(len(frames)))
    ]
    return seen, np.stack([frames[index]["action"].numpy() for index in range(len(frames))])


def served(folder: Path) -> Policy:
    with small_pi():
        return load_policy(str(folder))


def error(policy: Policy, dataset: Path, *, later: int = 0) -> float:
    """Return how far a policy's first rows are from what was recorded, degrees."""
    seen, actions = recorded(dataset)
    chunks = policy.infer_batch(seen)
    assert [chunk.refusal for chunk in chunks] == [""] * len(seen)
    wanted = actions[np.minimum(np.arange(len(actions)) + later, len(actions) - 1)]
    return float(np.abs(np.stack([chunk.actions[0] for chunk in chunks]) - wanted).mean())


def changed(base: Path, tuned: Path) -> set[str]:
    """Return the names of the weights that are not the base's."""
    before, after = (load_file(folder / "model.safetensors") for folder in (base, tuned))
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def edited(folder: Path, out: Path, **names: str) -> Path:
    """Return a copy of a checkpoint whose cameras have other names."""
    shutil.copytree(folder, out)
    text = (out / "config.json").read_text()
    for old, new in names.items():
        text = text.replace(f"images.{old}", f"images.{new}")
    (out / "config.json").write_text(text)
    return out


def test_act_learns_what_was_recorded_and_is_served(tune: Tune, base: Bases, dataset: Path):
    before = error(served(base("act")), dataset)
    tuned = tune("act", steps=12, batch_size=4, learning_rate=1e-3, freeze_vision=1)
    assert error(served(tuned), dataset) < 0.5 * before
    moved = changed(base("act"), tuned)
    assert not [name for name in moved if "backbone" in name]
    assert "model.action_head.weight" in moved


def test_openvla_learns_what_was_recorded_and_is_served(base: Bases, dataset: Path, tmp_path: Path):
    losses = finetune_openvla.finetune(
        base("openvla"),
        dataset,
        tmp_path / "tuned",
        camera="front",
        steps=30,
        batch_size=8,
        rank=8,
        learning_rate=1e-2,
        freeze_vision=True,
        device="cpu",
        seed=0,
    )
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    policy = served(tmp_path / "tuned")
    assert error(policy, dataset, later=3) < 0.5 * error(served(base("openvla")), dataset, later=3)
    moved = changed_shards(base("openvla"), tmp_path / "tuned")
    assert not [name for name in moved if "vision_backbone" in name or "lm_head" in name]
    assert any("q_proj" in name for name in moved)
    assert any("projector" in name for name in moved)


def changed_shards(base: Path, tuned: Path) -> set[str]:
    before, after = (
        {
            name: one
            for file in folder.glob("*.safetensors")
            for name, one in load_file(file).items()
        }
        for folder in (base, tuned)
    )
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_openvla_tokens_are_read_back_as_what_was_done(dataset: Path):
    plan = architecture_of(tiny_openvla.CONFIG)
    done = finetune_openvla.recorded(LeRobotDataset("local/reach", root=dataset), "reach")
    scale = ActionRange.of(done.facts, None)
    tokens = finetune_openvla.tokens_of(done.targets, scale, plan)
    again = scale.actions(shares_of(tokens, vocabulary=plan.vocabulary, bins=plan.bins))
    width = scale.high - scale.low
    inside = np.clip(done.targets, scale.low, scale.high)
    assert (np.abs(again - inside) <= 0.51 * width / (plan.bins - 1) + 1e-5).all()


def test_a_frozen_backbone_does_not_change_under_other_names_of_cameras(
    tune: Tune, base: Bases, dataset: Path, tmp_path: Path
):
    other = edited(base("smolvla"), tmp_path / "other", front="camera1", side="camera2")
    tuned = tune("smolvla", base=other, rename="front:camera1,side:camera2", expert_only=1)
    moved = changed(other, tuned)
    assert not [name for name in moved if ".vlm." in name]
    assert [name for name in moved if ".lm_expert." in name]
    policy = served(tuned)
    assert (policy.spec.images, policy.spec.image_size) == (("camera1", "camera2"), (SIZE, SIZE))
    assert policy.infer_batch([probe(policy.spec)])[0].refusal == ""


def test_pictures_are_normalised_by_the_names_that_the_policy_has_for_them(
    tune: Tune, base: Bases, tmp_path: Path
):
    other = edited(base("act"), tmp_path / "other", front="camera1", side="camera2")
    tuned = tune("act", base=other, rename="front:camera1,side:camera2", steps=1, batch_size=1)
    [file] = tuned.glob("policy_preprocessor_*normalizer*.safetensors")
    assert {"observation.images.camera1.mean", "observation.images.camera2.std"} <= set(
        load_file(file)
    )
    assert served(tuned).spec.images == ("camera1", "camera2")


def test_lora_is_merged_into_the_layers_it_adapts(tune: Tune, base: Bases):
    tuned = tune("smolvla", lora=4, learning_rate=1e-2)
    moved = changed(base("smolvla"), tuned)
    assert moved
    assert all(".lm_expert." in name or "action_" in name or "state_" in name for name in moved)
    assert not list(tuned.glob("adapter*"))
    assert served(tuned).spec.images == ("front", "side")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the sentences that a policy is given to read while it is trained."""
    update, said = lerobot_train.update_policy, set[str]()

    def reading(tracker, policy, batch, *args, **options):
        said.update(sentence.strip() for sentence in batch["task"])
        return update(tracker, policy, batch, *args, **options)

    monkeypatch.setattr(lerobot_train, "update_policy", reading)
    return said


def test_a_policy_that_reads_its_goal_learns_it_in_other_words(
    tune: Tune, read: set[str], dataset: Path
):
    tuned = tune("smolvla", steps=4)
    [known] = json.loads((tuned / "paraphrases.json").read_text()).values()
    assert set(known) == set(paraphrases(task_goal("reach")))
    assert read <= set(known)
    assert len(read) > 2
    assert recorded(dataset)[0][0].goal == str(task_goal("reach"))
    assert served(tuned).spec.horizon == 16


@pytest.mark.parametrize(("policy", "words"), [("act", {}), ("smolvla", {"paraphrase": 0})])
def test_a_policy_that_reads_none_or_shall_not_is_left_with_what_was_recorded(
    policy: str, words: dict[str, int], tune: Tune, read: set[str]
):
    tuned = tune(policy, steps=2, **words)
    assert read == {str(task_goal("reach"))}
    assert not (tuned / "paraphrases.json").exists()


def test_openvla_reads_other_words_at_each_look(tune: Tune, monkeypatch: pytest.MonkeyPatch):
    tokens, read = Prompter.tokens, set[str]()

    def reading(self: Prompter, goal: str) -> list[int]:
        read.add(goal)
        return tokens(self, goal)

    monkeypatch.setattr(Prompter, "tokens", reading)
    tuned = tune("openvla", steps=3, lora=2)
    [known] = json.loads((tuned / "paraphrases.json").read_text()).values()
    assert 2 < len(read) <= len(known)
    assert read <= set(known)


def test_a_run_that_was_cut_off_is_gone_on_with(
    tune: Tune, base: Bases, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    update, seen = lerobot_train.update_policy, list[int]()

    def cut_off(*args, **options):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return update(*args, **options)

    out = tmp_path / "tuned"
    words = ["policy=smolvla", f"base={base('smolvla')}", f"dataset={dataset}", f"out={out}"]
    monkeypatch.setattr(lerobot_train, "update_policy", cut_off)
    assert main([*words, "steps=5", "save_every=2", "batch_size=2"]) == 130
    assert not out.exists()
    assert (tmp_path / "tuned.part" / LAST).is_dir()
    assert main([*words, "steps=5"]) == 2
    seen.extend([1])
    assert main([f"out={out}", "steps=5", "resume=1"]) == 0
    assert len(seen) == 4 + 1 + 3
    assert [path.name for path in tmp_path.iterdir()] == ["tuned"]
    assert served(out).spec.horizon == 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["policy=gpt"], "known: act, diffusion"),
        (["dataset=nowhere"], "no meta/info.json"),
        (["steps=0"], "no whole number from 1 on"),
        (["learning_rate=nan"], "no positive number"),
        (["rename=front:side"], "different names"),
        (["rename=wrist:front"], "cameras of the dataset: front, side"),
        (["out="], "out=FOLDER"),
        (["out=."], "out=FOLDER"),
        (["expert_only=1"], "for smolvla, pi0, pi05"),
        (["lora=8"], "not for act"),
        (["resume=1"], "nothing to go on with"),
        (["rename=front:top,side:left"], "rename=front:front,side:side would use what there is"),
        (["policy=smolvla"], "is act, expected LeRobot's smolvla"),
        (["policy=openvla"], "is no OpenVLA"),
        (["base=/a/b/c"], "neither a folder nor a hub id"),
    ],
)
def test_words_that_cannot_be_meant_end_with_two(
    words: list[str], said: str, dataset: Path, base: Bases, tmp_path: Path, capsys
):
    given = ["policy=act", f"dataset={dataset}", f"base={base('act')}", f"out={tmp_path / 'out'}"]
    assert main([*given, *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_never_overwritten(dataset: Path, tmp_path: Path, capsys):
    assert main(["policy=act", f"dataset={dataset}", f"out={tmp_path}"]) == 2
    assert "there already" in capsys.readouterr().err


def test_weights_that_are_not_here_end_with_three(dataset: Path, tmp_path: Path, capsys):
    words = ["policy=act", f"dataset={dataset}", f"out={tmp_path / 'out'}", "base=nobody/nothing"]
    assert main(words) == 3
    assert "hf download nobody/nothing" in capsys.readouterr().err


def test_recordings_of_another_robot_end_with_two(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = shutil.copytree(dataset, tmp_path / "other")
    facts = json.loads((other / "meta" / "info.json").read_text())
    facts["features"]["action"]["shape"] = [7]
    (other / "meta" / "info.json").write_text(json.dumps(facts))
    assert main(["policy=act", f"dataset={other}", f"out={tmp_path / 'out'}"]) == 2
    assert "action of shape (7,), expected (6,)" in capsys.readouterr().err


def test_changes_of_joints_are_refused_because_targets_are_served(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    other = shutil.copytree(dataset, tmp_path / "other")
    facts = json.loads((other / "meta" / "journal.json").read_text())
    (other / "meta" / "journal.json").write_text(json.dumps(facts | {"actions": "delta"}))
    assert main(["policy=act", f"dataset={other}", f"out={tmp_path / 'out'}"]) == 2
    assert "actions=absolute" in capsys.readouterr().err


def test_a_training_that_diverges_leaves_nothing(
    dataset: Path, base: Bases, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = [f"dataset={dataset}", f"out={tmp_path / 'out'}", f"base={base('smolvla')}"]
    more = ["policy=smolvla", "steps=3", "batch_size=1", "learning_rate=1e30"]
    assert main([*words, *more]) == 1
    assert "lower learning_rate=" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("policy", [*KINDS, "openvla"])
def test_every_kind_is_served_as_it_was_written(
    policy: str, tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = {}
    if policy == "diffusion":
        # It is built for pictures of one size.
        monkeypatch.setattr(tiny, "PIXELS", SIZE)
        words["base"] = make("diffusion", tmp_path / "base")
    tuned = served(tune(policy, **words))
    [chunk] = tuned.infer_batch([probe(tuned.spec)])
    assert chunk.refusal == "" or policy == "pi0_fast"


@pytest.mark.slow
@pytest.mark.parametrize("policy", [name for name, kind in KINDS.items() if kind.lora])
def test_every_adapter_is_merged(policy: str, tune: Tune, base: Bases):
    tuned = tune(policy, lora=2, learning_rate=1e-3)
    moved = changed(base(KINDS[policy].name), tuned)
    assert moved
    assert not [name for name in moved if "lora" in name or "vision" in name or "visual" in name]
    adapted = served(tuned)
    assert len(adapted.infer_batch([probe(adapted.spec)])) == 1

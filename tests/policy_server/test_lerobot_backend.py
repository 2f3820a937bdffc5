import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.policies.utils import prepare_observation_for_inference
from safetensors.torch import load_file, save_file

from policy_server.backends import fast
from policy_server.backends.lerobot import LeRobotPolicy, noise
from policy_server.backends.lerobot_checkpoint import KINDS
from policy_server.best_of import best_of
from policy_server.policy import CheckpointError, Committed, PolicyRequest, PolicyUnavailable
from policy_server.tiny import CAMERAS, PIXELS, SPREAD, make, small_pi

ALL = tuple(KINDS)
GUIDED = ("smolvla", "pi0", "pi05")
INDEPENDENT = tuple(kind for kind in ALL if kind != "wall_x")
"""Kinds whose answer does not depend on what else is in the batch."""

type Folders = Callable[[str], Path]
type Policies = Callable[[str], LeRobotPolicy]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root, made = tmp_path_factory.mktemp("checkpoints"), dict[str, Path]()

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = make(kind, root / kind)
        return made[kind]

    return get


@pytest.fixture(scope="module")
def policy(folder: Folders) -> Policies:
    loaded: dict[str, LeRobotPolicy] = {}

    def get(kind: str) -> LeRobotPolicy:
        if kind not in loaded:
            with small_pi():
                loaded[kind] = LeRobotPolicy.load(folder(kind))
        return loaded[kind]

    return get


def request(seed: int = 0, **changes: Any) -> PolicyRequest:
    rng = np.random.default_rng(seed)
    light = rng.integers(0, 2) * 128
    fields = {
        "state": {"joint_pos": (20 * rng.standard_normal(6)).astype(np.float32)},
        "goal": "Lift the red cube." if seed % 2 else "Push it.",
        "observed_at": 10.0 + seed,
        "images": {
            name: rng.integers(light, light + 128, (PIXELS, PIXELS, 3), dtype=np.uint8)
            for name in CAMERAS
        },
    }
    return PolicyRequest(**(fields | changes))


def rows(policy: LeRobotPolicy, *requests: PolicyRequest) -> list[Any]:
    chunks = policy.infer_batch(requests)
    assert [chunk.refusal for chunk in chunks] == [""] * len(requests)
    return [chunk.actions for chunk in chunks]


def apart(one: Any, other: Any) -> float:
    """Return the largest difference in standard deviations of the recordings."""
    return float(np.max(np.abs(one - other) / np.array(SPREAD)))


def by_hand(folder: Path, asked: PolicyRequest) -> Any:
    """Return what LeRobot itself answers, by its own loader, picture code and processors."""
    config = PreTrainedConfig.from_pretrained(folder)
    overrides = fast.overrides(config) if config.type == "pi0_fast" else {}
    with small_pi():
        policy = get_policy_class(config.type).from_pretrained(folder)
    before, behind = make_pre_post_processors(config, str(folder), preprocessor_overrides=overrides)
    seen = {f"observation.images.{name}": image for name, image in asked.images.items()}
    seen["observation.state"] = asked.state["joint_pos"]
    batch = before(prepare_observation_for_inference(seen, torch.device("cpu"), asked.goal))
    if config.type == "diffusion":
        history = [key for key in batch if key.startswith("observation.")]
        batch |= {key: torch.stack([batch[key]] * config.n_obs_steps, dim=1) for key in history}
    shape = {"diffusion": ("horizon",), **dict.fromkeys(GUIDED, ("chunk_size", "max_action_dim"))}
    options = {}
    if config.type in shape:
        sizes = [getattr(config, name) for name in shape[config.type]]
        start = noise(asked, [*sizes, 6][:2], seed=0)
        options["noise"] = torch.tensor(start, dtype=torch.float32)[None]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return behind(policy.predict_action_chunk(batch, **options))[0].numpy()


@pytest.mark.parametrize("kind", ALL)
def test_an_answer_is_lerobots_own(kind: str, folder: Folders, policy: Policies):
    (answer,) = rows(policy(kind), request(1))
    np.testing.assert_allclose(answer, by_hand(folder(kind), request(1)), atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("kind", INDEPENDENT)
def test_a_batch_of_four_answers_like_four_singles(kind: str, policy: Policies):
    asked = [request(seed) for seed in range(4)]
    together = rows(policy(kind), *asked)
    alone = [rows(policy(kind), one)[0] for one in asked]
    assert apart(np.stack(together), np.stack(alone)) < 1e-5


@pytest.mark.parametrize("kind", ALL)
def test_a_spec_says_what_the_rows_are(kind: str, policy: Policies):
    spec = policy(kind).spec
    (answer,) = rows(policy(kind), request())
    assert answer.shape == (spec.horizon, spec.action_dim)
    assert (spec.action_space, spec.action_units) == ("joint_pos", ("deg",) * 5 + ("percent",))
    assert (spec.images, spec.image_size) == (CAMERAS, (PIXELS, PIXELS))
    assert len(spec.checkpoint) == len(spec.normalisation) == 12
    assert spec.reads_goal == (kind not in {"act", "diffusion"})
    assert spec.rtc == (("guided",) if kind in GUIDED else ())


@pytest.mark.parametrize("kind", ALL)
def test_an_answer_depends_on_the_picture(kind: str, policy: Policies):
    dark, bright = (
        {name: np.full((PIXELS, PIXELS, 3), value, np.uint8) for name in CAMERAS}
        for value in (20, 235)
    )
    (one,), (other,) = (rows(policy(kind), request(images=images)) for images in (dark, bright))
    assert apart(one, other) > 1e-4


@pytest.mark.parametrize("kind", ["smolvla", "diffusion"])
def test_noise_depends_on_the_observation_alone(kind: str, policy: Policies):
    one, same, later = rows(policy(kind), request(), request(), request(observed_at=99.0))
    assert apart(one, same) < 1e-5 < apart(one, later)


def test_more_requests_than_a_batch_holds_are_answered_in_order(policy: Policies):
    asked = [request(seed) for seed in range(11)]
    chunks = policy("act").infer_batch(asked)
    assert [chunk.observed_at for chunk in chunks] == [one.observed_at for one in asked]
    assert apart(chunks[10].actions, rows(policy("act"), asked[10])[0]) < 1e-5


def test_no_requests_have_no_answers(policy: Policies):
    assert policy("act").infer_batch([]) == []


def test_a_picture_of_another_size_is_resized(policy: Policies):
    double = {name: image.repeat(2, 0).repeat(2, 1) for name, image in request().images.items()}
    (plain,), (large,) = (rows(policy("act"), one) for one in (request(), request(images=double)))
    assert apart(plain, large) < 1e-5


WRONG = {
    "lacks joint_pos": {"state": {}},
    "joint_pos must be 6 finite numbers": {"state": {"joint_pos": np.zeros(7, np.float32)}},
    "joint_pos must be": {"state": {"joint_pos": np.full(6, np.nan, np.float32)}},
    "picture 'side' is missing": {"images": {"front": request().images["front"]}},
    "must be RGB bytes": {"images": dict.fromkeys(CAMERAS, np.zeros((64, 64), np.uint8))},
    "committed rows must be": {"committed": Committed(rows=np.zeros((3, 5), np.float32), delay=0)},
    "the delay must be": {"committed": Committed(rows=np.zeros((3, 6), np.float32), delay=4)},
}


@pytest.mark.parametrize("why", WRONG)
def test_a_wrong_request_fails_alone(why: str, policy: Policies):
    wrong, right = policy("act").infer_batch([request(2, **WRONG[why]), request(3)])
    assert why in wrong.refusal
    assert wrong.actions.shape == (0, 6)
    assert apart(right.actions, rows(policy("act"), request(3))[0]) < 1e-5


def test_rows_that_are_not_finite_are_no_chunk(folder: Folders):
    policy = LeRobotPolicy.load(folder("act"))
    with torch.no_grad():
        policy._policy.model.action_head.bias[0] = torch.nan
    (chunk,) = policy.infer_batch([request()])
    assert (chunk.refusal, len(chunk.actions)) == ("the policy's rows are not finite", 0)


def test_nothing_is_kept_from_one_arm_to_the_next(folder: Folders, tmp_path: Path):
    changed = copied(folder("act"), tmp_path, temporal_ensemble_coeff=0.01, n_action_steps=1)
    policy = LeRobotPolicy.load(changed)
    first, _, again = (rows(policy, request(seed))[0] for seed in (1, 2, 1))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("kind", GUIDED)
def test_guidance_carries_on_what_an_arm_is_doing(kind: str, policy: Policies):
    plain, other = rows(policy(kind), request(1), request(2))
    doing = request(1, committed=Committed(rows=other[:10], delay=6))
    (guided,) = rows(policy(kind), doing)
    assert apart(guided[:6], other[:6]) < 0.1 * apart(plain[:6], other[:6])
    assert apart(guided[10:], plain[10:]) > 0.0


@pytest.mark.parametrize("kind", GUIDED)
def test_each_arm_of_a_batch_continues_its_own_rows(kind: str, policy: Policies):
    plain = rows(policy(kind), *(request(seed) for seed in range(3)))
    doing = [
        request(0, committed=Committed(rows=plain[1][:9], delay=4)),
        request(1),
        request(2, committed=Committed(rows=plain[0][:5], delay=2)),
    ]
    together = rows(policy(kind), *doing)
    alone = [rows(policy(kind), one)[0] for one in doing]
    assert apart(np.stack(together), np.stack(alone)) < 1e-5
    assert apart(together[1], plain[1]) < 1e-5


def test_committed_rows_are_ignored_where_a_policy_cannot_be_guided(policy: Policies):
    (plain,) = rows(policy("act"), request())
    committed = Committed(rows=plain + 5, delay=2)
    np.testing.assert_array_equal(rows(policy("act"), request(committed=committed))[0], plain)


@pytest.mark.parametrize("kind", ["smolvla", "pi0"])
def test_half_precision_answers_nearly_the_same(kind: str, folder: Folders, policy: Policies):
    with small_pi():
        half = LeRobotPolicy.load(folder(kind), dtype="bfloat16")
    (one,), (other,) = (rows(each, request()) for each in (policy(kind), half))
    assert 0.0 < apart(one, other) < 0.2


@pytest.mark.parametrize("kind", ["act", "smolvla", "pi0", "pi0_fast"])
def test_weights_of_eight_bits_answer_nearly_the_same(kind: str, folder: Folders, policy: Policies):
    with small_pi():
        small = LeRobotPolicy.load(folder(kind), int8=True)
    (one,), (other,) = (rows(each, request()) for each in (policy(kind), small))
    assert apart(one, other) < 0.2
    held = {str(value.dtype) for value in small._policy.state_dict().values()}
    assert "torch.int8" in held


def test_an_unknown_precision_is_refused(folder: Folders):
    with pytest.raises(ValueError, match="no dtype 'int8'; known: float32, bfloat16"):
        LeRobotPolicy.load(folder("act"), dtype="int8")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("kind", ["act", "diffusion"])
def test_a_compiled_policy_answers_the_same(kind: str, folder: Folders, policy: Policies):
    compiled = LeRobotPolicy.load(folder(kind), compiled=True)
    assert apart(rows(compiled, request())[0], rows(policy(kind), request())[0]) < 1e-4


@pytest.mark.parametrize("kind", ["smolvla", "diffusion", "wall_x"])
def test_each_draw_is_another_answer_to_the_same_question(kind: str, policy: Policies):
    first, *others = rows(policy(kind), *(request(draw=draw) for draw in range(3)))
    np.testing.assert_allclose(first, rows(policy(kind), request())[0], atol=1e-4)
    assert min(apart(first, others[0]), apart(first, others[1]), apart(*others)) > 1e-3


def test_a_policy_that_draws_nothing_has_no_best_of_several(policy: Policies):
    with pytest.raises(PolicyUnavailable, match="draws its answers"):
        best_of(policy("act"), 2)


def test_the_best_of_several_is_nearest_to_what_an_arm_is_doing(policy: Policies):
    drawn = rows(policy("diffusion"), *(request(draw=draw) for draw in range(4)))
    doing = Committed(rows=drawn[2] + 0.1, delay=1)
    [chunk] = best_of(policy("diffusion"), 4).infer_batch([request(committed=doing)])
    np.testing.assert_allclose(chunk.actions, drawn[2], atol=1e-3)


def test_of_pi0_fast_s_answers_the_first_is_the_likeliest_and_others_are_drawn(
    policy: Policies, monkeypatch: pytest.MonkeyPatch
):
    model, asked = policy("pi0_fast")._policy.model, []
    sample = model.sample_actions_fast_kv_cache

    def noting(*given: Any, **named: Any) -> torch.Tensor:
        asked.append((len(given[2]), named["temperature"]))
        return sample(*given, **named)

    monkeypatch.setattr(model, "sample_actions_fast_kv_cache", noting)
    first, *_ = policy("pi0_fast").infer_batch([request(draw=draw) for draw in range(4)])
    assert asked == [(1, 0.0), (3, fast.TEMPERATURE)]
    np.testing.assert_array_equal(first.actions, rows(policy("pi0_fast"), request())[0])


# pi0-FAST: tokens that are no rows.


def tokens(policy: LeRobotPolicy) -> list[int]:
    """Return an answer as the model gives it."""
    model, kept = policy._policy.model, []
    sample = model.sample_actions_fast_kv_cache
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            model,
            "sample_actions_fast_kv_cache",
            lambda *given, **named: kept.append(sample(*given, **named)) or kept[-1],
        )
        rows(policy, request())
    return kept[0][0].tolist()


DAMAGES: dict[str, Callable[[list[int], int], list[int]]] = {
    "has no end": lambda answer, end: [token for token in answer if token != end],
    "does not begin with 'Action: '": lambda answer, _end: answer[1:],
    "are no actions": lambda answer, _end: [*answer[:3], 5, *answer[3:]],
    "coefficients, expected 16 x 6": lambda answer, end: [*answer[:6], end],
}


@pytest.mark.parametrize("why", DAMAGES)
def test_tokens_that_are_no_rows_are_no_chunk(
    why: str, policy: Policies, monkeypatch: pytest.MonkeyPatch
):
    answer, inner = tokens(policy("pi0_fast")), policy("pi0_fast")._policy
    end = inner._paligemma_tokenizer.convert_tokens_to_ids("|")
    damaged = DAMAGES[why](answer, end)
    both = [damaged + [0] * (len(answer) + 1 - len(damaged)), [*answer, 0]]
    monkeypatch.setattr(
        inner.model, "sample_actions_fast_kv_cache", lambda *_, **__: torch.tensor(both)
    )
    refused, answered = policy("pi0_fast").infer_batch([request(1), request(1)])
    assert why in refused.refusal
    assert (len(refused.actions), len(answered.actions)) == (0, 16)


def test_half_a_character_is_no_coefficient(policy: Policies):
    inner = policy("pi0_fast")._policy
    code = inner.action_tokenizer.bpe_tokenizer.convert_tokens_to_ids("Â")
    half = inner._paligemma_tokenizer.vocab_size - 1 - inner.config.fast_skip_tokens - code
    answer = tokens(policy("pi0_fast"))
    assert "do not add up to characters" in fast.trouble(
        inner, [*answer[:3], half, *answer[3:]], (16, 6)
    )


def test_decoding_is_bounded(policy: Policies, monkeypatch: pytest.MonkeyPatch):
    model = policy("pi0_fast")._policy
    monkeypatch.setattr(model.config, "max_decoding_steps", 4)
    (chunk,) = policy("pi0_fast").infer_batch([request()])
    assert chunk.refusal == "the answer has no end after 4 tokens"


# Checkpoints that are refused.


def copied(source: Path, out: Path, **changes: Any) -> Path:
    copy = Path(shutil.copytree(source, out / "copy"))
    facts = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(facts | changes))
    return copy


@pytest.mark.parametrize("end", ["preprocessor", "postprocessor"])
def test_a_checkpoint_without_statistics_is_refused(end: str, folder: Folders, tmp_path: Path):
    copy = copied(folder("act"), tmp_path)
    (path,) = copy.glob(f"policy_{end}*.safetensors")
    save_file({}, path)
    with pytest.raises(CheckpointError, match="no normalisation statistics of use"):
        LeRobotPolicy.load(copy)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "policy_preprocessor.json"])
def test_a_checkpoint_that_is_not_whole_is_refused(name: str, folder: Folders, tmp_path: Path):
    copy = copied(folder("act"), tmp_path)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        LeRobotPolicy.load(copy)


def test_a_checkpoint_for_another_robot_is_refused(folder: Folders, tmp_path: Path):
    action = {"action": {"type": "ACTION", "shape": [7]}}
    copy = copied(folder("act"), tmp_path, output_features=action)
    with pytest.raises(CheckpointError, match=r"another robot: its action has shape \(7,\)"):
        LeRobotPolicy.load(copy)


def test_a_checkpoint_that_lacks_a_weight_is_refused(folder: Folders, tmp_path: Path):
    path = copied(folder("act"), tmp_path) / "model.safetensors"
    weights = load_file(path)
    del weights["model.action_head.weight"]
    save_file(weights, path)
    with pytest.raises(CheckpointError, match="1 of the policy's are missing"):
        LeRobotPolicy.load(path.parent)


def test_a_large_policy_that_was_not_loaded_is_refused(folder: Folders, tmp_path: Path):
    path = copied(folder("pi0"), tmp_path) / "model.safetensors"
    weights = load_file(path)
    weights["model.action_in_proj.weight"] = torch.zeros(3, 3)
    save_file(weights, path)
    with small_pi(), pytest.raises(CheckpointError, match="were not loaded"):
        LeRobotPolicy.load(path.parent)


def test_another_kind_is_refused(folder: Folders, tmp_path: Path):
    copy = copied(folder("act"), tmp_path)
    (copy / "config.json").write_text(json.dumps({"type": "tdmpc"}))
    with pytest.raises(CheckpointError, match="is a tdmpc; this server knows act, diffusion"):
        LeRobotPolicy.load(copy)


def test_weights_and_statistics_are_named_by_their_hash(folder: Folders, tmp_path: Path):
    spec = LeRobotPolicy.load(folder("act")).spec
    copy = copied(folder("act"), tmp_path)
    (path,) = copy.glob("policy_postprocessor*.safetensors")
    save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    other = LeRobotPolicy.load(copy).spec
    assert spec.checkpoint == other.checkpoint
    assert spec.normalisation != other.normalisation
    assert replace(other, normalisation=spec.normalisation) == spec

"""LeRobot's own reward models as a `RewardModel`: its classifier, Robometer, TOPReward."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportMissingTypeStubs=false
# LeRobot's and torch's own types are partly unknown.

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import draccus
import numpy as np
import torch
from lerobot.configs import NormalizationMode
from lerobot.configs.rewards import RewardModelConfig
from lerobot.processor import PolicyProcessorPipeline
from lerobot.rewards.factory import get_reward_model_class, make_reward_pre_post_processors
from lerobot.rewards.robometer.modeling_robometer import (
    ROBOMETER_FEATURE_PREFIX,
    decode_progress_outputs,
)
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from rewarder.checkpoint import ModelUnavailable, fingerprint, folder_of
from rewarder.prompts import BadGoal, clean_goal
from rewarder.reward import Clip, NoScore, Score
from rewarder.view import View
from robot.pictures import any_picture
from robot.vision import Image

type Floats = NDArray[np.float64]
type Judge = Callable[["LeRobotReward", Clip, str, Sequence[int]], tuple[Floats, Floats]]
"""Returns log-odds and progress of some moments, each of shape (n,)."""

PICTURES = "observation.images."
BATCH = 16
MOMENTS = 8
"""Moments that a model of films is asked about where its configuration does not say."""
_STATISTICS = "classifier_preprocessor.json"


class LeRobotReward:
    """Scores clips by a reward model that LeRobot trained or published.

    A model of films is asked about a few moments; between two of them progress runs straight, and
    success holds where both show it.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        view: View,
        device: str = "cpu",
        success_above: float = 0.0,
    ) -> None:
        """Load a folder, or the hub's name of a checkpoint that was downloaded.

        `view` says which moments are sound, and is what models of films see; a classifier sees
        the cameras that it was trained on. `success_above` are the log-odds of a success. Raise
        `ModelUnavailable` for what cannot be loaded. A checkpoint names other models and may bring
        code: load only those that you trust.
        """
        folder = folder_of(checkpoint)
        self.config = _config(folder, device)
        self.model, self.before = _loaded(folder, self.config)
        self.view, self._above = view, success_above
        identity = folder.name if self.config.type == "topreward" else fingerprint(folder)
        self._name = f"lerobot-{self.config.type}/{identity}"

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore` for a goal or pictures it cannot be given."""
        try:
            goal = clean_goal(clip.goal)
        except BadGoal as error:
            raise NoScore(str(error)) from error
        faults = self.view.faults(clip)
        sound = [t for t, fault in enumerate(faults) if fault is None]
        logit, progress = np.full(len(clip), np.nan), np.zeros(len(clip))
        success, valid = np.zeros(len(clip), bool), np.isin(np.arange(len(clip)), sound)
        if sound:
            asked = self._asked(sound)
            with torch.inference_mode():
                logit[asked], said = KINDS[self.config.type](self, clip, goal, asked)
            progress[valid] = np.interp(sound, asked, said)
            success[valid] = _both(sound, asked, logit[asked] > self._above)
        return Score(
            success=success,
            progress=np.clip(progress, 0.0, 1.0),
            valid=valid,
            model=self._name,
            logit=logit,
            evidence={"valid_share": float(valid.mean())},
            notes={} if sound else {"why": next((f for f in faults if f), "no moment")},
        )

    def _asked(self, sound: Sequence[int]) -> list[int]:
        """Return which moments the model is asked about: all, or a few with first and last."""
        if self.config.type == "reward_classifier":
            return list(sound)
        most = self.config.max_frames or MOMENTS
        return [
            sound[i] for i in np.unique(np.linspace(len(sound) - 1, 0, most).round()).astype(int)
        ]

    def film(self, clip: Clip, moments: Sequence[int]) -> Tensor:
        """Return what the view shows of some moments, uint8, shape (1, n, 3, height, width)."""
        shown = [self.view.moment(clip, t) for t in moments]
        pictures = [picture for picture in shown if picture is not None]
        if len({picture.shape for picture in pictures}) != 1:
            raise NoScore("the pictures of this clip differ in size")
        return torch.tensor(np.stack(pictures)).permute(0, 3, 1, 2)[None]


def _classified(
    reward: LeRobotReward, clip: Clip, _: str, moments: Sequence[int]
) -> tuple[Floats, Floats]:
    """Return the log-odds of LeRobot's classifier, and their probabilities as progress."""
    config = reward.config
    logits: list[Floats] = []
    for at in range(0, len(moments), BATCH):
        batch = {
            key: torch.stack(
                [_camera(clip, key, t, tuple(feature.shape)) for t in moments[at : at + BATCH]]
            )
            for key, feature in config.input_features.items()
            if key.startswith(PICTURES)
        }
        ready = reward.before(batch)
        said = reward.model.predict([ready[key] for key in batch]).logits
        logits.append(np.asarray(said.double().cpu()))
    logit = np.concatenate(logits)
    return logit, 1.0 / (1.0 + np.exp(-logit))


def _robometer(
    reward: LeRobotReward, clip: Clip, goal: str, moments: Sequence[int]
) -> tuple[Floats, Floats]:
    """Return what Robometer's heads say after each picture of one film."""
    batch = reward.before({reward.config.image_key: reward.film(clip, moments), "task": [goal]})
    start = ROBOMETER_FEATURE_PREFIX
    inputs = {key.removeprefix(start): v for key, v in batch.items() if key.startswith(start)}
    # Its public `compute_reward` keeps the last picture's progress, and no success beside it.
    progress, success = reward.model._compute_rbm_logits(inputs)
    said = decode_progress_outputs(
        progress, None, is_discrete_mode=reward.config.use_discrete_progress
    )
    return np.asarray(success[0].double().cpu()), np.array(said["progress_pred"][0])


def _topreward(
    reward: LeRobotReward, clip: Clip, goal: str, moments: Sequence[int]
) -> tuple[Floats, Floats]:
    """Return how probable `True` is after each of the moments, as log-odds and as progress."""
    said: list[float] = []
    for end in range(1, len(moments) + 1):
        film = reward.film(clip, moments[:end])
        batch = reward.before({reward.config.image_key: film, "task": [goal]})
        said.append(float(reward.model.compute_reward(batch)[0]))
    log_p = np.minimum(np.array(said), -1e-9)
    return log_p - np.log(-np.expm1(log_p)), np.exp(log_p)


KINDS: Mapping[str, Judge] = {
    "reward_classifier": _classified,
    "robometer": _robometer,
    "topreward": _topreward,
}


def _camera(clip: Clip, key: str, t: int, shape: tuple[int, ...]) -> Tensor:
    """Return one camera's picture from 0 to 1, of shape (3, height, width); raise `NoScore`."""
    name = key.removeprefix(PICTURES)
    data = clip.frames[name][t] if name in clip.frames else b""
    picture: Image | None = any_picture(data)
    if picture is None:
        raise NoScore(f"the classifier looks at {name}; the clip has {', '.join(clip.frames)}")
    whole = torch.tensor(picture).permute(2, 0, 1)[None].float() / 255.0
    return torch.nn.functional.interpolate(whole, shape[1:], mode="area")[0]


def _both(
    sound: Sequence[int], asked: Sequence[int], shows: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return at which sound moments the asked ones before and after both show success."""
    before = np.searchsorted(asked, sound, side="right") - 1
    after = np.searchsorted(asked, sound)
    return shows[before] & shows[after]


def _config(folder: Path, device: str) -> Any:  # noqa: ANN401 - fields of many classes
    try:
        config: Any = RewardModelConfig.from_pretrained(folder)
    except (OSError, ValueError, draccus.ParsingError) as error:
        raise ModelUnavailable(f"{folder} is no reward model of LeRobot: {error}") from error
    if config.type not in KINDS:
        raise ModelUnavailable(
            f"{folder} is a {config.type}; known here: {', '.join(KINDS)}. SARM learns from "
            "demonstrations and loads CLIP from the hub"
        )
    config.device = device
    if config.type == "robometer":
        # Where it is not set LeRobot downloads the base model, to replace its weights.
        config.pretrained_path = str(folder)
    if config.type == "topreward":
        config.success_threshold = float("-inf")
    return config


def _loaded(folder: Path, config: Any) -> tuple[Any, Any]:  # noqa: ANN401 - classes of LeRobot
    """Return a reward model and what has to be done to a batch before it."""
    try:
        model = get_reward_model_class(config.type).from_pretrained(folder, config=config)
        if config.type != "topreward":
            _refuse_missing(model, folder / "model.safetensors")
        before = _before(folder, config)
    except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise ModelUnavailable(f"{folder} cannot be loaded: {error}") from error
    model.eval()
    return model, before


def _refuse_missing(model: torch.nn.Module, path: Path) -> None:
    """Raise `ModelUnavailable` unless every weight is the file's: LeRobot leaves others as drawn.

    Its own strict loading refuses what two names share.
    """
    state = model.state_dict()
    with safe_open(path, "pt") as file:
        names = set(file.keys())
    filled = {state[name].data_ptr() for name in names if name in state}
    missing = [name for name, value in state.items() if value.data_ptr() not in filled]
    if missing:
        raise ModelUnavailable(
            f"{path} lacks {len(missing)} of the model's weights, such as {missing[0]}; "
            "take a checkpoint that this version of LeRobot wrote"
        )


def _before(folder: Path, config: Any) -> Any:  # noqa: ANN401 - classes of LeRobot
    if config.type != "reward_classifier":
        return make_reward_pre_post_processors(config)[0]
    if (folder / _STATISTICS).is_file():
        return PolicyProcessorPipeline.from_pretrained(folder, config_filename=_STATISTICS)
    if config.normalization_mapping.get("VISUAL") != NormalizationMode.IDENTITY:
        raise ModelUnavailable(
            f"{folder} has no {_STATISTICS}, so that nobody knows how its pictures were "
            "normalised; save its processor beside it"
        )
    return make_reward_pre_post_processors(config)[0]

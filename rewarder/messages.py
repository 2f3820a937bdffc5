"""What the reward service and its clients say to each other: JSON, checked before use."""

import base64
import binascii
import math
from collections.abc import Mapping
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from rewarder.reward import MAX_STEPS, Clip, Score
from robot.pictures import jpeg_size
from robot.vision import CameraModel

MAX_BYTES = 8 * 1024 * 1024
"""Longest request body, whatever it holds."""
PATIENCE = "X-Patience-S"
"""The header that says how long a request waits for its answer, seconds."""
LONGEST_S = 600.0
"""A request may not be waited for longer than this."""
MAX_BATCH = 16
MAX_CAMERAS = 4
MAX_PIXELS = 1920 * 1080

type CameraName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
type Stamp = Annotated[float, Field(ge=-1e9, le=1e9)]
type JointRow = Annotated[
    list[Annotated[float, Field(ge=-1e4, le=1e4)]], Field(min_length=6, max_length=6)
]
type Metres = Annotated[float, Field(ge=-10.0, le=10.0)]
type Triple = Annotated[list[Metres], Field(min_length=3, max_length=3)]
type Pixels = Annotated[float, Field(gt=0.0, le=1e5)]


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class CameraBody(_Message):
    """A `CameraModel` in a request."""

    width: int = Field(ge=16, le=1920)
    height: int = Field(ge=16, le=1080)
    fx: Pixels
    fy: Pixels
    cx: Annotated[float, Field(ge=-1e5, le=1e5)]
    cy: Annotated[float, Field(ge=-1e5, le=1e5)]
    pos: Triple
    rot: Annotated[list[Triple], Field(min_length=3, max_length=3)]
    distortion: Annotated[list[Annotated[float, Field(ge=-10.0, le=10.0)]], Field(max_length=5)] = (
        Field(default_factory=list[float])
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        rot = np.array(self.rot)
        if not np.allclose(rot.T @ rot, np.eye(3), atol=1e-3):
            raise ValueError("rot must be a rotation matrix")
        if len(self.distortion) not in {0, 4, 5}:
            raise ValueError("distortion must have 0, 4 or 5 numbers")
        return self

    def model(self, name: str) -> CameraModel:
        """Return the camera."""
        return CameraModel(
            name=name,
            width=self.width,
            height=self.height,
            fx=self.fx,
            fy=self.fy,
            cx=self.cx,
            cy=self.cy,
            pos=np.array(self.pos),
            rot=np.array(self.rot),
            distortion=tuple(self.distortion),
        )


class ClipBody(_Message):
    """A `Clip` in a request."""

    goal: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    stamps: Annotated[list[Stamp], Field(min_length=1, max_length=MAX_STEPS)]
    frames: Annotated[dict[CameraName, list[str]], Field(min_length=1, max_length=MAX_CAMERAS)]
    """Base64 of a JPEG, or "" where a picture is missing."""
    joint_pos: Annotated[list[JointRow], Field(max_length=MAX_STEPS)]
    joint_target: Annotated[list[JointRow], Field(max_length=MAX_STEPS)]
    cameras: (
        Annotated[dict[CameraName, CameraBody], Field(min_length=1, max_length=MAX_CAMERAS)] | None
    ) = None
    """Where this arm's cameras stand; without it the service's own cameras count."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        count = len(self.stamps)
        rows = {"joint_pos": self.joint_pos, "joint_target": self.joint_target}
        rows |= {f"frames.{name}": pictures for name, pictures in self.frames.items()}
        for name, row in rows.items():
            if len(row) != count:
                raise ValueError(f"{name} has {len(row)} entries, stamps has {count}")
        if any(
            later < earlier for earlier, later in zip(self.stamps, self.stamps[1:], strict=False)
        ):
            raise ValueError("stamps must not go back")
        return self

    def clip(self) -> Clip:
        """Return the clip; raise ValueError where a picture is none."""
        cameras = None
        if self.cameras is not None:
            cameras = {name: body.model(name) for name, body in self.cameras.items()}
        return Clip(
            goal=self.goal,
            stamps=np.array(self.stamps, np.float64),
            frames={
                name: [_picture(text, f"frames.{name}[{t}]") for t, text in enumerate(pictures)]
                for name, pictures in self.frames.items()
            },
            joint_pos=np.array(self.joint_pos, np.float64),
            joint_target=np.array(self.joint_target, np.float64),
            cameras=cameras,
        )


class BatchBody(_Message):
    """Several clips in a request; each is checked by itself."""

    clips: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)]


class BatchAnswer(BaseModel):
    """What a batch is answered with: for each clip a `ScoreBody`, or what was wrong with it."""

    results: list[dict[str, Any]]
    request_id: str


class ScoreBody(BaseModel):
    """A `Score` in an answer."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, frozen=True)

    success: list[bool]
    progress: list[Annotated[float, Field(ge=0.0, le=1.0)]]
    valid: list[bool]
    model: str
    logit: list[float | None] | None = None
    """Log-odds of success, None where the model was not asked."""
    evidence: dict[str, float]
    notes: dict[str, str] = Field(default_factory=dict[str, str])
    latency_ms: float
    request_id: str
    clip: str = ""
    """Hash of the clip's content, by which feedback may name it."""
    cached: bool = False
    """Whether the service had scored this very clip before."""

    def score(self, count: int) -> Score:
        """Return the score of a clip of `count` observations; raise ValueError if of another."""
        rows = {name: getattr(self, name) for name in ("success", "progress", "valid", "logit")}
        for name, row in rows.items():
            if row is not None and len(row) != count:
                raise ValueError(f"{name} has {len(row)} entries, the clip {count}")
        return Score(
            success=np.array(self.success, bool),
            progress=np.array(self.progress, np.float64),
            valid=np.array(self.valid, bool),
            model=self.model,
            logit=None if self.logit is None else np.array(self.logit, np.float64),
            evidence=self.evidence,
            notes=self.notes,
        )


def clip_message(clip: Clip) -> dict[str, object]:
    """Return a clip as the JSON that `ClipBody` reads."""
    message: dict[str, object] = {
        "goal": clip.goal,
        "stamps": clip.stamps.tolist(),
        "frames": {
            name: [base64.b64encode(picture).decode("ascii") for picture in pictures]
            for name, pictures in clip.frames.items()
        },
        "joint_pos": clip.joint_pos.tolist(),
        "joint_target": clip.joint_target.tolist(),
    }
    if clip.cameras is not None:
        message["cameras"] = {name: camera_message(camera) for name, camera in clip.cameras.items()}
    return message


def score_message(score: Score, *, latency_ms: float, request_id: str) -> dict[str, object]:
    """Return a score as the JSON that `ScoreBody` reads; raise ValueError if it is not sane."""
    return score_body(score, latency_ms=latency_ms, request_id=request_id).model_dump()


def score_body(
    score: Score, *, latency_ms: float, request_id: str, clip: str = "", cached: bool = False
) -> ScoreBody:
    """Return a score as it is answered; raise ValueError if it is not sane."""
    evidence: Mapping[str, float] = score.evidence
    return ScoreBody(
        success=score.success.tolist(),
        progress=score.progress.tolist(),
        valid=score.valid.tolist(),
        model=score.model,
        logit=None if score.logit is None else _or_none(score.logit),
        evidence=dict(evidence),
        notes=dict(score.notes),
        latency_ms=round(latency_ms, 3),
        request_id=request_id,
        clip=clip,
        cached=cached,
    )


def _or_none(values: NDArray[np.float64]) -> list[float | None]:
    """Return numbers as JSON knows them, which has no NaN."""
    return [None if math.isnan(value) else value for value in values.tolist()]


def camera_message(camera: CameraModel) -> dict[str, object]:
    """Return a camera as the JSON that `CameraBody` reads."""
    names = ("width", "height", "fx", "fy", "cx", "cy")
    return {
        **{name: getattr(camera, name) for name in names},
        "pos": camera.pos.tolist(),
        "rot": camera.rot.tolist(),
        "distortion": list(camera.distortion),
    }


def _picture(text: str, where: str) -> bytes:
    """Return the bytes of a base64 JPEG; raise ValueError if it is none or larger than allowed."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{where} is not base64") from error
    if not data:
        return data
    size = jpeg_size(data)
    if size is None:
        raise ValueError(f"{where} is not a JPEG")
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(
            f"{where} has {size[0]}x{size[1]} pixels; at most {MAX_PIXELS} are allowed"
        )
    return data

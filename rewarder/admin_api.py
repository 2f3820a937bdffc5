"""What people tell the reward service: verdicts on its scores, and which model is to answer.

`POST /feedback`, `GET /agreement`, `POST /calibrate` and `POST /swap`.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from typing import Annotated, Self

from fastapi import APIRouter, Request
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from rewarder.agreement import Agreement
from rewarder.calibration import Calibrated, Calibration, Key, calibrate
from rewarder.checkpoint import ModelUnavailable
from rewarder.curves import BadCalibration
from rewarder.desk import Answer, invalid
from rewarder.feedback import FeedbackFull, FeedbackStore, agreements, labelled
from rewarder.host import Host
from rewarder.ladder import RUNG
from rewarder.openapi import responds, takes
from rewarder.reward import NoScore, RewardModel
from rewarder.score_log import Entry, ScoreLog
from robot.access import RefusedError
from robot.http_server import json_body
from robot.tokens import Role

MAX_BODY = 4096
ROLES: Mapping[str, Role] = {
    "/feedback": Role.OPERATE,
    "/calibrate": Role.ADMIN,
    "/swap": Role.ADMIN,
}
"""What a token has to be for; every other path needs one that may view."""

type Setting = Annotated[str, StringConstraints(max_length=500)] | bool | int | float
type Load = Callable[[str, Mapping[str, Setting]], RewardModel]
"""Returns the model of a name with some settings changed; raises `ModelUnavailable`."""


class _Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


class FeedbackBody(_Message):
    """A person's verdict on a clip, named by the request that scored it or by its hash."""

    request_id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    clip: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")] | None = None
    """The newest score of it counts."""
    success: bool
    """Whether its last moment shows the goal reached."""

    @model_validator(mode="after")
    def _names_one(self) -> Self:
        if (self.request_id is None) == (self.clip is None):
            raise ValueError("name the clip by request_id or by clip, not by both")
        return self


class FeedbackAnswer(BaseModel):
    """What a verdict is about."""

    request_id: str
    clip: str
    model: str
    said: bool | None
    """The model's own verdict, None where it could not judge."""
    success: bool


class ShareBody(BaseModel):
    """Some of so many, with Wilson's 95 % interval."""

    hits: int
    of: int
    share: float | None
    lower: float
    upper: float


class ModelAgreement(BaseModel):
    """How far one model agrees with people; "no verdict" counts as "no success"."""

    model: str
    calib_id: str
    clips: int
    accuracy: ShareBody
    kappa: float | None
    judged: ShareBody
    precision: ShareBody
    recall: ShareBody
    false_successes: ShareBody
    auc: float | None
    shortfalls: list[str]
    """What keeps it from passing gate G3."""


class AgreementAnswer(BaseModel):
    """How far models agree with the feedback so far, each with the verdicts on its own scores."""

    models: list[ModelAgreement]


class CalibrateBody(_Message):
    """What a calibration has to hold."""

    precision: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8
    """The lower bound of the precision that the threshold has to meet."""
    days: Annotated[int, Field(ge=1, le=365)] = 90
    """For so long it holds."""


class CalibrateAnswer(BaseModel):
    """What was fitted, and counts from here on."""

    calib_id: str
    threshold: float
    precision_bound: float
    recall: float
    clips: int
    left_out: int
    expires: date
    file: str
    """Name it after a restart: `reward=calibrated reward.calibration=FILE`."""


class SwapBody(_Message):
    """Which model is to answer: a name of `conf/reward/`, and settings of it that differ."""

    reward: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
    settings: Annotated[dict[str, Setting], Field(max_length=16)] = Field(
        default_factory=dict[str, Setting]
    )
    """By dotted names, such as `model.model`; a class is no setting."""


class SwapAnswer(BaseModel):
    """Which model answers."""

    reward: str


MODELS = (
    FeedbackBody, FeedbackAnswer, ShareBody, ModelAgreement, AgreementAnswer,
    CalibrateBody, CalibrateAnswer, SwapBody, SwapAnswer,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Records:
    """Where a service keeps what it said, and what people said of it."""

    score_log: ScoreLog | None = None
    feedback: FeedbackStore | None = None


class Office:
    """Does what people ask for; every method may take its time and is run in a thread."""

    def __init__(self, host: Host, records: Records, load: Load | None) -> None:
        """Change the model of `host`, by `load` where others can be had."""
        self._host, self._log, self._load = host, records.score_log, load
        self._feedback = records.feedback

    def keep(self, said: FeedbackBody, by: str) -> FeedbackAnswer:
        """Keep a verdict; raise `RefusedError` where it is about nothing that is known."""
        entry = self._entry(said)
        try:
            kept = self._store.keep(entry, success=said.success, by=by)
        except FeedbackFull as error:
            raise RefusedError(409, "full", str(error)) from error
        except OSError as error:
            raise RefusedError(503, "not_kept", f"the verdict is not kept: {error}") from error
        verdict = kept.verdict()
        return FeedbackAnswer(
            request_id=entry.request_id,
            clip=entry.clip,
            model=verdict.model,
            said=verdict.said,
            success=said.success,
        )

    def agreement(self) -> AgreementAnswer:
        """Return how far models agree with people; raise `RefusedError` where none were heard."""
        found = agreements(self._store.all())
        return AgreementAnswer(models=[_agreement(*judge, one) for judge, one in found.items()])

    def calibrate(self, asked: CalibrateBody) -> CalibrateAnswer:
        """Fit the model that answers to the feedback and use that; raise `RefusedError`."""
        serving, bare = self._host.serving, self._host.bare_model
        try:
            found = labelled(self._store.all(), self._key(bare))
            fitted_on = f"feedback on {found.key.model}"
            made = calibrate(found, fitted_on, precision=asked.precision, days=asked.days)
        except BadCalibration as error:
            raise RefusedError(409, "not_calibrated", str(error)) from error
        path = self._store.folder / "calibrations" / f"{made.calib_id}.json"
        try:
            made.save(path)
        except OSError as error:
            raise RefusedError(503, "not_kept", f"no calibration is kept: {error}") from error
        self._swap(serving.name, lambda: Calibrated(bare, made))
        return _calibrated(made, left_out=found.left_out, file=str(path))

    def swap(self, asked: SwapBody) -> SwapAnswer:
        """Answer with another model; raise `RefusedError` where it cannot be had."""
        load = self._load
        if load is None:
            raise RefusedError(409, "unavailable", "this service was given its one model")
        self._swap(asked.reward, lambda: load(asked.reward, asked.settings))
        return SwapAnswer(reward=self._host.serving.name)

    @property
    def _store(self) -> FeedbackStore:
        if self._feedback is None:
            raise RefusedError(409, "no_feedback", "this service keeps none: set feedback=FOLDER")
        return self._feedback

    def _entry(self, said: FeedbackBody) -> Entry:
        if self._log is None:
            raise RefusedError(409, "no_log", "this service keeps no log of scores: set log.folder")
        entry = self._log.find(request_id=said.request_id or "", clip=said.clip or "")
        if entry is None:
            raise RefusedError(404, "not_found", "no score of that clip is in the log (any more)")
        return entry

    def _key(self, bare: RewardModel) -> Key:
        """Return what log-odds of a model mean today, by the last clip that came."""
        clip = self._host.last_clip
        if clip is None:
            raise RefusedError(409, "not_calibrated", "no clip has come yet since the start")
        try:
            score = bare.score(clip)
            key = Key.of(clip, score)
        except NoScore as error:
            raise RefusedError(503 if error.retry else 409, "no_score", str(error)) from error
        if RUNG in score.notes:
            why = "a ladder's rungs have log-odds of their own: serve one of them to calibrate it"
            raise RefusedError(409, "not_calibrated", why)
        return key

    def _swap(self, name: str, load: Callable[[], RewardModel]) -> None:
        try:
            self._host.swap(name, load)
        except ModelUnavailable as error:
            raise RefusedError(409, "unavailable", str(error)) from error


def admin_router(office: Office) -> APIRouter:
    """Return the routes of an office."""
    router = APIRouter()

    @router.post("/feedback", openapi_extra=takes(FeedbackBody, answers=FeedbackAnswer))
    async def feedback(request: Request) -> Answer:  # pyright: ignore[reportUnusedFunction]
        said = await _read(FeedbackBody, request)
        by = request.state.caller.token
        return (await asyncio.to_thread(office.keep, said, by)).model_dump()

    @router.get("/agreement", openapi_extra=responds(AgreementAnswer))
    async def agreement() -> Answer:  # pyright: ignore[reportUnusedFunction]
        return (await asyncio.to_thread(office.agreement)).model_dump()

    @router.post("/calibrate", openapi_extra=takes(CalibrateBody, answers=CalibrateAnswer))
    async def calibrated(request: Request) -> Answer:  # pyright: ignore[reportUnusedFunction]
        asked = await _read(CalibrateBody, request)
        return (await asyncio.to_thread(office.calibrate, asked)).model_dump(mode="json")

    @router.post("/swap", openapi_extra=takes(SwapBody, answers=SwapAnswer))
    async def swap(request: Request) -> Answer:  # pyright: ignore[reportUnusedFunction]
        asked = await _read(SwapBody, request)
        return (await asyncio.to_thread(office.swap, asked)).model_dump()

    return router


async def _read[T: BaseModel](kind: type[T], request: Request) -> T:
    content = await json_body(request, max_bytes=MAX_BODY)
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        raise invalid(error) from error


def _agreement(model: str, calib_id: str, found: Agreement) -> ModelAgreement:
    said = asdict(found) | {"model": model, "calib_id": calib_id, "shortfalls": found.shortfalls}
    return ModelAgreement.model_validate(said)


def _calibrated(made: Calibration, *, left_out: int, file: str) -> CalibrateAnswer:
    names = ("calib_id", "threshold", "precision_bound", "recall", "clips", "expires")
    said = {name: getattr(made, name) for name in names}
    return CalibrateAnswer.model_validate(said | {"left_out": left_out, "file": file})

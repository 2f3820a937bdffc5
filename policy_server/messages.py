"""Observations and chunks as messages: openpi's dictionaries, and one reserved part of our own.

A request names pictures, state and sentence as any openpi client does; `_rt` may add `seq`,
`session`, `step0`, `observed_at`, `slack_ms`, `rows_left`, `underflows`, `inference_delay`,
`prefix` and `reset`. A reply has `actions`, and `seq`, `step0` and `observed_at` again.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from policy_server.cameras import CameraMismatch, camera_map, short_name
from policy_server.policy import Committed, PolicyRequest, PolicySpec
from policy_server.scheduler import Answer
from robot.pictures import any_picture, jpeg_size

RT = "_rt"
JPEG = "__jpeg__"
CAPABILITIES = ("jpeg", "rtc", "seq", "reset")
MAX_GOAL, MAX_NAME = 2000, 64
"""Characters."""
MAX_SIDE, MIN_SIDE = 4096, 8
"""Pixels of a picture."""
MAX_PIXELS = 2_100_000
"""Of a JPEG: Full HD. A few kB can hold more than is decoded within a tick."""
MAX_SCANS = 32
"""Of a JPEG: a progressive one has about ten, and each costs a pass over all pixels."""
START_OF_SCAN = b"\xff\xda"
MAX_CAMERAS = 8
_SENTENCES = ("prompt", "task", "instruction", "goal")


class BadRequest(ValueError):
    """A message that is no observation; the text says what was received and expected."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """A request as it came over a wire."""

    request: PolicyRequest
    seq: int | None
    """The client's number; None for clients that know nothing of it."""
    session: str | None
    """What the client calls itself, where it does."""
    step0: int
    """The client's step at which the observation was made."""
    slack_s: float
    rows_left: int | None
    """Rows that the client had yet, where it says so."""
    underflows: int
    """How often they have run out in this episode."""
    cameras: Mapping[str, str]
    """The client's camera for each of the policy's."""


def metadata(spec: PolicySpec) -> dict[str, object]:
    """Return what a server says at first."""
    return {"capabilities": list(CAPABILITIES), "spec": asdict(spec), **asdict(spec)}


def is_reset(message: Mapping[str, object]) -> bool:
    """Return whether a message says that an episode is over, and no more."""
    own = message.get(RT)
    asks = cast("Mapping[str, object]", own).get("reset") if isinstance(own, Mapping) else None
    # An array is neither true nor false, and compares with a text element by element.
    is_said = isinstance(asks, int) and bool(asks)
    endpoint = message.get("endpoint")
    return is_said or (isinstance(endpoint, str) and endpoint == "reset")


def question(message: Mapping[str, object], spec: PolicySpec, *, now: float) -> Question:
    """Return what a message asks; raise `BadRequest`."""
    own = _own(message)
    pictures, vectors = _leaves({name: v for name, v in message.items() if name != RT})
    try:
        cameras = camera_map(spec.images, pictures, blank=spec.blank_images)
    except CameraMismatch as error:
        raise BadRequest(str(error)) from error
    images = {name: _picture(key, pictures[key]) for name, key in cameras.items()}
    return Question(
        request=PolicyRequest(
            state=_state(vectors, spec),
            goal=_goal(message),
            observed_at=_number(own, "observed_at", now),
            images=images,
            committed=_committed(own, spec),
        ),
        seq=_count(own, "seq") if "seq" in own else None,
        session=_session(own),
        step0=_count(own, "step0"),
        slack_s=_slack(own),
        rows_left=_count(own, "rows_left") if "rows_left" in own else None,
        underflows=_count(own, "underflows"),
        cameras=cameras,
    )


def reply(asked: Question, answer: Answer, *, total_s: float) -> dict[str, object]:
    """Return the message that carries a chunk."""
    message: dict[str, object] = {
        "actions": answer.chunk.actions,
        "policy_timing": {"infer_ms": 1e3 * answer.infer_s},
        "server_timing": {
            "wait_ms": 1e3 * answer.waited_s,
            "infer_ms": 1e3 * answer.infer_s,
            "total_ms": 1e3 * total_s,
            "batch": answer.batch,
        },
    }
    if asked.seq is not None:
        observed_at = asked.request.observed_at
        message[RT] = {"seq": asked.seq, "step0": asked.step0, "observed_at": observed_at}
    return message


def refusal(code: str, text: str, *, seq: int | None) -> dict[str, object]:
    """Return the message that says why there is no chunk."""
    return {"type": "error", "error": code, "message": text, "seq": seq}


def seq_of(message: Mapping[str, object]) -> int | None:
    """Return the number of a message that may be wrong in every other way."""
    own = message.get(RT)
    seq = cast("Mapping[str, object]", own).get("seq") if isinstance(own, Mapping) else None
    return seq if type(seq) is int and 0 <= seq < 2**53 else None


def _own(message: Mapping[str, object]) -> Mapping[str, object]:
    own = message.get(RT, {})
    if not isinstance(own, Mapping):
        raise BadRequest(f"{RT} is a {type(own).__name__}; expected a map")
    return cast("Mapping[str, object]", own)


def _leaves(message: Mapping[str, object]) -> tuple[dict[str, object], dict[str, NDArray[Any]]]:
    """Return pictures and vectors by short name, wherever a message has put them."""
    pictures: dict[str, object] = {}
    vectors: dict[str, NDArray[Any]] = {}
    for key, value in _flat(message):
        if isinstance(value, Mapping) or (isinstance(value, np.ndarray) and value.ndim >= 3):
            pictures[short_name(key)] = value
        elif isinstance(value, np.ndarray | np.generic | list | float | int):
            vectors[short_name(key)] = _array(key, cast("object", value))
    if len(pictures) > MAX_CAMERAS:
        raise BadRequest(f"received {len(pictures)} pictures; expected {MAX_CAMERAS} at most")
    return pictures, vectors


def _array(key: str, value: object) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:
        raise BadRequest(f"{key} is no array: {error}") from error


def _flat(message: Mapping[str, object], within: str = "") -> Iterator[tuple[str, object]]:
    for key, value in message.items():
        if isinstance(value, Mapping) and JPEG not in value:
            inner = cast("Mapping[str, object]", value)
            yield from _flat(inner, within="images/" if key == "images" else "")
        else:
            yield within + str(key), value


def _picture(key: str, value: object) -> NDArray[np.uint8]:
    """Return a picture as RGB, shape (height, width, 3)."""
    if isinstance(value, Mapping):
        value = _from_jpeg(key, cast("Mapping[str, object]", value))
    image = cast("NDArray[Any]", value)
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim == 3 and image.shape[2] != 3 and image.shape[0] == 3:
        image = np.moveaxis(image, 0, 2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise BadRequest(
            f"picture {key} is {image.dtype} of shape {image.shape}; "
            "expected uint8 of shape (height, width, 3)"
        )
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in image.shape[:2]):
        raise BadRequest(
            f"picture {key} has shape {image.shape}; expected sides of {MIN_SIDE} to {MAX_SIDE}"
        )
    return image


def _from_jpeg(key: str, value: Mapping[str, object]) -> NDArray[np.uint8]:
    data = value.get(JPEG)
    if not isinstance(data, bytes):
        raise BadRequest(f"picture {key} has no bytes under {JPEG}")
    width, height = jpeg_size(data) or (0, 0)
    if width * height > MAX_PIXELS or data.count(START_OF_SCAN) > MAX_SCANS:
        raise BadRequest(
            f"picture {key} is a JPEG of {width}x{height} pixels in "
            f"{data.count(START_OF_SCAN)} scans; expected {MAX_PIXELS} and {MAX_SCANS} at most"
        )
    image = any_picture(data, max_side=MAX_SIDE)
    if image is None:
        raise BadRequest(f"picture {key} is no whole JPEG of at most {MAX_SIDE} pixels a side")
    return image


def _state(vectors: Mapping[str, NDArray[Any]], spec: PolicySpec) -> dict[str, NDArray[np.float32]]:
    """Return the policy's state vectors; a client with one vector for all may call it `state`."""
    whole = vectors.get("state")
    sizes = list(spec.state.values())
    if whole is not None and not set(spec.state) <= set(vectors):
        if whole.shape != (sum(sizes),):
            raise BadRequest(f"state has shape {whole.shape}; expected ({sum(sizes)},)")
        parts = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
        vectors = dict(zip(spec.state, parts, strict=True))
    missing = [name for name in spec.state if name not in vectors]
    if missing:
        raise BadRequest(
            f"the policy reads {', '.join(spec.state)}, received "
            f"{', '.join(vectors) or 'no vectors'}: {', '.join(missing)} missing"
        )
    return {name: _vector(name, vectors[name], size) for name, size in spec.state.items()}


def _vector(name: str, value: NDArray[Any], size: int) -> NDArray[np.float32]:
    if value.shape != (size,) or value.dtype.kind not in "fiu":
        raise BadRequest(f"{name} is {value.dtype} of shape {value.shape}; expected ({size},)")
    vector = value.astype(np.float32)
    if not np.isfinite(vector).all():
        raise BadRequest(f"{name} is not finite")
    return vector


def _goal(message: Mapping[str, object]) -> str:
    for name in _SENTENCES:
        text = message.get(name)
        if text is None:
            continue
        if not isinstance(text, str) or len(text) > MAX_GOAL or not text.isprintable():
            raise BadRequest(f"{name} is no sentence of at most {MAX_GOAL} printable characters")
        return text
    return ""


def _committed(own: Mapping[str, object], spec: PolicySpec) -> Committed | None:
    prefix = own.get("prefix")
    if prefix is None:
        return None
    rows = _array("prefix", prefix)
    fits = rows.ndim == 2 and rows.shape[1] == spec.action_dim and rows.dtype.kind == "f"
    if not fits or len(rows) > spec.horizon or not np.isfinite(rows).all():
        raise BadRequest(
            f"prefix has shape {rows.shape}; expected finite rows of shape (n, {spec.action_dim}), "
            f"n at most {spec.horizon}"
        )
    delay = _count(own, "inference_delay")
    if not len(rows):
        return None
    return Committed(rows=rows.astype(np.float32), delay=min(delay, len(rows)))


def _slack(own: Mapping[str, object]) -> float:
    slack_ms = own.get("slack_ms")
    return math.inf if slack_ms is None else _number(own, "slack_ms", 0.0) / 1e3


def _session(own: Mapping[str, object]) -> str | None:
    session = own.get("session")
    if session is not None and not (isinstance(session, str) and len(session) <= MAX_NAME):
        raise BadRequest(f"session is no name of at most {MAX_NAME} characters")
    return session


def _count(own: Mapping[str, object], name: str) -> int:
    value = own.get(name, 0)
    if type(value) is not int or not 0 <= value < 2**53:
        raise BadRequest(f"{name} is no count")
    return value


def _number(own: Mapping[str, object], name: str, default: float) -> float:
    value = own.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadRequest(f"{name} is no number")
    return float(value)


def rows_of(message: Mapping[str, object], spec: PolicySpec) -> NDArray[np.float32]:
    """Return the rows of a reply, shape (n, action_dim); raise `BadRequest`."""
    rows = message.get("actions")
    if not isinstance(rows, np.ndarray):
        raise BadRequest("the reply has no actions")
    array = cast("NDArray[Any]", rows)
    fits = (
        array.dtype.kind == "f"
        and array.ndim == 2
        and len(array)
        and array.shape[1] == spec.action_dim
    )
    if not fits or not np.isfinite(array).all():
        raise BadRequest(
            f"the reply has actions of shape {array.shape}; expected finite (n, {spec.action_dim})"
        )
    return array.astype(np.float32)

"""The forms that speak JSON: `/live`, OpenVLA's `/act` with arrays as json_numpy has them."""

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from policy_server.messages import JPEG, BadRequest, Question
from policy_server.policy import PolicySpec
from policy_server.scheduler import Answer

_DTYPES = ("|u1", "uint8", "<f4", "float32", "<f8", "float64")


def live_message(body: bytes) -> dict[str, object]:
    """Return `{images: {name: base64 of a JPEG}, state: […], task: …}` as a message."""
    return _message(any_map(body))


def _message(facts: Mapping[str, object]) -> dict[str, object]:
    images = facts.get("images", {})
    if not isinstance(images, dict):
        raise BadRequest("images is no map of names")
    pictures = cast("dict[str, object]", images)
    message: dict[str, object] = {
        "images": {str(name): {JPEG: _base64(name, data)} for name, data in pictures.items()},
        "prompt": facts.get("task", facts.get("prompt")),
    }
    if "state" in facts:
        message["state"] = _numbers("state", facts["state"])
    return message


def live_reply(spec: PolicySpec, asked: Question, answer: Answer) -> dict[str, object]:
    """Return the answer to `/live`."""
    return {
        "action_chunk": answer.chunk.actions.tolist(),
        "horizon": len(answer.chunk.actions),
        "latency_ms": 1e3 * (answer.waited_s + answer.infer_s),
        "checkpoint": spec.checkpoint,
        "expected_image_keys": list(spec.images),
        "received_image_keys": sorted(asked.cameras.values()),
    }


def act_message(body: bytes, spec: PolicySpec) -> dict[str, object]:
    """Return OpenVLA's `{image, instruction}` as a message; `encoded` holds the same as text."""
    facts = any_map(body)
    if "encoded" in facts:
        if not isinstance(facts["encoded"], str):
            raise BadRequest("encoded is no text")
        facts = any_map(facts["encoded"].encode())
    if "image" not in facts and "full_image" not in facts:
        raise BadRequest(f"received {', '.join(facts) or 'nothing'}; expected image, instruction")
    message: dict[str, object] = {"prompt": facts.get("instruction")}
    image = _json_numpy("image", facts.get("image", facts.get("full_image")))
    message["images"] = {spec.images[0] if spec.images else "image": image}
    if "state" in facts:
        message["state"] = _json_numpy("state", facts["state"])
    return message


def act_reply(answer: Answer) -> bytes:
    """Return the next action as json_numpy has it, or a list of them where there are several."""
    rows = [_as_json_numpy(row) for row in answer.chunk.actions]
    return json.dumps(rows[0] if len(rows) == 1 else rows).encode()


def swap_name(body: bytes) -> str:
    """Return the policy that `{policy: name}` asks for."""
    name = any_map(body).get("policy")
    if not isinstance(name, str) or not name:
        raise BadRequest("expected {policy: name}")
    return name


def line_message(facts: Mapping[str, object], spec: PolicySpec) -> dict[str, object]:
    """Return `{image: base64 of a JPEG, state: […]}`, or with `images` by name, as a message."""
    if "image" in facts and "images" not in facts:
        facts = {**facts, "images": {spec.images[0] if spec.images else "image": facts["image"]}}
    return _message(facts)


def any_map(body: bytes) -> dict[str, Any]:
    """Return a JSON object; raise `BadRequest` where there is none."""
    try:
        facts: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is no JSON") from error
    if not isinstance(facts, dict):
        raise BadRequest(f"the body is a {type(facts).__name__}; expected a map")
    return cast("dict[str, Any]", facts)


def _base64(name: object, data: object) -> bytes:
    try:
        return base64.b64decode(data if isinstance(data, str) else "", validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadRequest(f"picture {name} is no base64") from error


def _numbers(name: str, value: object) -> NDArray[np.float32]:
    values = cast("list[object]", value) if isinstance(value, list) else [None]
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise BadRequest(f"{name} is no list of numbers")
    return np.asarray(values, np.float32)


def _json_numpy(name: str, value: object) -> NDArray[Any]:
    """Return an array from `{__numpy__: base64, dtype, shape}`."""
    if isinstance(value, list):
        return _numbers(name, cast("object", value))
    facts = cast("dict[str, object]", value if isinstance(value, dict) else {})
    dtype, shape = facts.get("dtype"), facts.get("shape")
    if dtype not in _DTYPES or not isinstance(shape, list):
        raise BadRequest(f"{name} is no json_numpy array of {', '.join(_DTYPES[1::2])}")
    data = _base64(name, facts.get("__numpy__"))
    sizes = [size for size in cast("list[object]", shape) if type(size) is int and size >= 0]
    fits = len(sizes) == len(cast("list[object]", shape)) <= 4
    if not fits or math.prod(sizes) * np.dtype(str(dtype)).itemsize != len(data):
        raise BadRequest(f"{name} has {len(data)} bytes; its shape and dtype say otherwise")
    return np.frombuffer(data, np.dtype(str(dtype))).reshape(sizes)


def _as_json_numpy(row: NDArray[np.float32]) -> dict[str, object]:
    data = base64.b64encode(row.tobytes()).decode()
    return {"__numpy__": data, "dtype": row.dtype.str, "shape": list(row.shape)}

"""Who else an arm needs: its own process, the policy server, the rewarder."""

import os
import time
from collections.abc import Iterable, Mapping
from typing import Any, cast

import httpx

from robot.arm import JOINTS
from robot.arm_config import ArmConfig
from robot.doctor.report import Check, failure, good, warning
from robot.tokens import TokenError, own_token

DEADLINE_S = 2.0
SLOW_S = 0.15
HOT_C, WARM_C = 70.0, 60.0
LATE_S = 0.02
SHORT_DEG = 5.0

type State = Mapping[str, Any]
"""What an arm's process says of itself, as JSON."""


def own_headers() -> dict[str, str]:
    """Return what this machine shows to its arms' processes."""
    try:
        token = own_token()
    except TokenError:
        return {}
    return {"Authorization": f"Bearer {token}"} if token else {}


def state_of(config: ArmConfig) -> State | None:
    """Return what the arm's process says of itself; None where none answers."""
    try:
        answer = _get(f"{config.url}/state", own_headers())
        answer.raise_for_status()
        content: object = answer.json()
    except (httpx.HTTPError, ValueError):
        return None
    return cast("State", content) if isinstance(content, dict) else None


def check_process(config: ArmConfig, owner: str | None, state: State | None) -> list[Check]:
    """Return what an arm's process says of its servos; nothing where none owns the port."""
    if state is None:
        if owner is None:
            return []
        sentence = f"{owner} owns the port, and {config.url} does not answer"
        fix = f"end that process, then make arm ARM_ID={config.arm_id}"
        return [failure("bus.owner", sentence, fix)]
    said = f"the arm's process owns the port (mode {state.get('mode')}); its figures follow"
    return [good("bus.owner", said), *_health(state)]


def check_modes(config: ArmConfig, state: State) -> Iterable[Check]:
    """Return what an arm's process says of its mode, its faults and its pace."""
    if state.get("mode") == "STOP":
        yield failure(
            "safety.stopped",
            f"{config.arm_id} is stopped: {state.get('reason')}",
            "mend the cause, then reset it on the dashboard: make dashboard",
        )
    for fault in list(state.get("faults") or [])[-3:]:
        yield warning("safety.fault", str(fault), "make doctor again once the process has ended")
    late = float(state.get("late_s") or 0.0)
    if late > LATE_S:
        yield warning(
            "safety.late",
            f"a cycle came {1000 * late:.0f} ms late; expected below 20",
            "end what computes beside the arm",
        )
    yield from _tracking(state)


def check_service(group: str, variable: str, *, start: str, token: str) -> list[Check]:
    """Return whether the service that a variable names answers, and how fast."""
    url = os.environ.get(variable)
    if not url:
        return [good(f"{group}.none", f"{variable} is not set: none is asked for")]
    given = os.environ.get(token)
    headers = {"Authorization": f"Bearer {given}"} if given else {}
    started = time.monotonic()
    try:
        status = _get(f"{url.rstrip('/')}/ready", headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        sentence = f"{url} does not answer: {type(error).__name__}"
        return [failure(f"{group}.silent", sentence, f"{start}, or correct {variable} in .env")]
    seconds = time.monotonic() - started
    if status.status_code == 401:
        sentence = f"{url} does not accept this machine's token"
        return [failure(f"{group}.token", sentence, f"the same {token} on both machines")]
    if status.status_code >= 400:
        sentence = f"{url}/ready answers {status.status_code}"
        return [failure(f"{group}.unwell", sentence, start)]
    if seconds > SLOW_S:
        sentence = f"{url} takes {1000 * seconds:.0f} ms to answer; expected below 150"
        return [warning(f"{group}.slow", sentence, "a wired network, or a nearer host")]
    return [good(f"{group}.ready", f"{url} answers within {1000 * seconds:.0f} ms")]


def _get(url: str, headers: Mapping[str, str]) -> httpx.Response:
    # Who drives an arm asks without the environment's proxies, too.
    return httpx.get(url, headers=headers, timeout=DEADLINE_S, trust_env=False)


def _health(state: State) -> Iterable[Check]:
    health = state.get("health")
    if not isinstance(health, dict):
        return
    figures = cast("Mapping[str, list[float]]", health)
    for joint, temperature in zip(JOINTS, figures.get("temperature_c", []), strict=False):
        if temperature >= WARM_C:
            make = failure if temperature >= HOT_C else warning
            yield make(
                "bus.hot",
                f"{joint} is {temperature:.0f} °C; it switches off at {HOT_C:.0f} °C",
                "make park, and let it cool; then less load or a slower task",
            )


def _tracking(state: State) -> Iterable[Check]:
    sent, measured = state.get("sent"), state.get("joint_pos")
    if not (isinstance(sent, list) and isinstance(measured, list)):
        return
    goals, found = cast("list[float]", sent), cast("list[float]", measured)
    for joint, goal, position in list(zip(JOINTS, goals, found, strict=False))[:5]:
        if abs(goal - position) > SHORT_DEG and state.get("mode") == "HOLD":
            yield warning(
                "safety.short",
                f"{joint} stays {abs(goal - position):.0f}° short of what was sent",
                "look for what blocks it, then for a loose horn or gear; less load",
            )

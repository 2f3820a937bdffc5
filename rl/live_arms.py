"""What a dashboard knows of arms: their processes asked again and again, and stops handed on."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import httpx
import structlog

from robot.access import is_loopback

log = structlog.get_logger(__name__)

PERIOD_S = 0.1
PICTURE_S = 0.1
BACK_OFF_S = 1.0
DEADLINE_S = 1.0
STOP_TRIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmAddress:
    """Where one arm's process is asked."""

    arm_id: str
    url: str
    cameras: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an arm's process answered to a request that is handed on."""

    status: int
    message: str
    absent: bool = False
    """Whether nobody on this machine listens where the arm's process would, or ever did."""


class Arms(Protocol):
    """The arms of a dashboard."""

    def known(self, arm_id: str) -> bool:
        """Return whether there is such an arm."""
        ...

    def snapshot(self) -> Sequence[Mapping[str, object]]:
        """Return what is known of each arm, ready for JSON."""
        ...


class ArmLink:
    """One arm's process, asked ten times a second by a thread of its own."""

    def __init__(self, address: ArmAddress, *, token: str | None = None) -> None:
        """Begin to ask; `token` is what its process wants of those who look."""
        self.address = address
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Proxies of the environment are for the internet, not for an arm.
        self._client = httpx.Client(
            base_url=address.url, timeout=DEADLINE_S, headers=headers, trust_env=False
        )
        # A stop waits behind nothing, not even for a client to be made.
        self._orders = httpx.Client(
            base_url=address.url,
            timeout=DEADLINE_S,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._state: Mapping[str, Any] | None = None
        self._trouble = "not asked yet"
        self._answered_at = float("-inf")
        self._was_there = False
        self._round_trip_s = 0.0
        self._pictures: dict[str, tuple[float, bytes]] = {}
        self._locks = {camera: threading.Lock() for camera in address.cameras}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True, name=address.arm_id)
        self._thread.start()

    def snapshot(self) -> dict[str, object]:
        """Return what is known of the arm; `state` is None where its process does not answer."""
        silent_s = time.monotonic() - self._answered_at
        return {
            "arm": self.address.arm_id,
            "cameras": list(self.address.cameras),
            "state": self._state,
            "trouble": self._trouble,
            "silent_s": None if self._state is None else round(silent_s, 2),
            "round_trip_ms": round(1000 * self._round_trip_s, 1),
        }

    def picture(self, camera: str) -> bytes | None:
        """Return the newest JPEG of a camera, at most 100 ms old; None where there is none."""
        with self._locks[camera]:
            asked_at, picture = self._pictures.get(camera, (float("-inf"), b""))
            if time.monotonic() - asked_at < PICTURE_S:
                return picture or None
            try:
                answer = self._client.get(f"/frames/{camera}.jpg")
                picture = answer.content if answer.status_code == 200 else b""
            except httpx.HTTPError:
                picture = b""
            self._pictures[camera] = (time.monotonic(), picture)
        return picture or None

    def stop(self) -> Answer:
        """Stop the arm; needs no token."""
        answer = Answer(status=502, message="not asked")
        for _ in range(STOP_TRIES):
            answer = self._post("/stop", {"reason": "the dashboard's stop button"}, None)
            if answer.status < 400:
                break
        log.info("stop handed on", arm=self.address.arm_id, status=answer.status)
        return answer

    def reset(self, token: str | None) -> Answer:
        """Leave STOP for HOLD, with the token of a person who may."""
        return self._post("/reset", {}, token)

    def close(self) -> None:
        """End the asking."""
        self._ended.set()
        self._thread.join(2 * DEADLINE_S)
        self._client.close()
        self._orders.close()

    def _post(self, path: str, content: Mapping[str, object], token: str | None) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            answer = self._orders.post(path, json=content, headers=headers)
        except httpx.HTTPError as error:
            said = f"{self.address.arm_id} does not answer ({type(error).__name__})"
            return Answer(status=502, message=said, absent=self._is_absent(error))
        return Answer(status=answer.status_code, message=_message(answer))

    def _is_absent(self, error: httpx.HTTPError) -> bool:
        # Out of reach is not absent: on another machine an arm may be moving.
        here = is_loopback(self._client.base_url.host)
        return here and isinstance(error, httpx.ConnectError) and not self._was_there

    def _ask(self) -> None:
        wait_s = 0.0
        while not self._ended.wait(wait_s):
            started = time.monotonic()
            try:
                answer = self._client.get("/state")
                self._was_there = True
                answer.raise_for_status()
                content: object = answer.json()
            except (httpx.HTTPError, ValueError) as error:
                self._lose(error)
                wait_s = BACK_OFF_S
                continue
            self._round_trip_s = time.monotonic() - started
            self._answered_at = time.monotonic()
            self._state = cast("Mapping[str, Any]", content) if isinstance(content, dict) else None
            self._trouble = "" if self._state is not None else "its state is no object"
            wait_s = max(0.0, PERIOD_S - self._round_trip_s)

    def _lose(self, error: Exception) -> None:
        refused = isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (
            401,
            403,
        )
        arm_id = self.address.arm_id
        self._state = None
        self._trouble = (
            f"{arm_id}'s process takes another token: set ARM_TOKEN for the dashboard"
            if refused
            else f"{arm_id}'s process does not answer: make arm ARM_ID={arm_id}"
        )


class LinkedArms:
    """All arms of a dashboard."""

    def __init__(self, addresses: Sequence[ArmAddress], *, token: str | None = None) -> None:
        """Begin to ask all of them."""
        self.links = {a.arm_id: ArmLink(a, token=token) for a in addresses}

    def known(self, arm_id: str) -> bool:
        """Return whether there is such an arm."""
        return arm_id in self.links

    def snapshot(self) -> list[dict[str, object]]:
        """Return what is known of each arm, ready for JSON."""
        return [link.snapshot() for link in self.links.values()]

    def stop(self, arm_ids: Sequence[str]) -> dict[str, Answer]:
        """Stop arms, all at the same time."""
        answers: dict[str, Answer] = {}

        def stop(arm_id: str) -> None:
            answers[arm_id] = self.links[arm_id].stop()

        threads = [threading.Thread(target=stop, args=(arm_id,)) for arm_id in arm_ids]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return answers

    def close(self) -> None:
        """End the asking."""
        for link in self.links.values():
            link.close()


def _message(answer: httpx.Response) -> str:
    try:
        content: object = answer.json()
    except ValueError:
        return f"status {answer.status_code}"
    if isinstance(content, dict):
        said = cast("Mapping[str, object]", content).get("message")
        if isinstance(said, str):
            return said
    return f"status {answer.status_code}"

"""The reward service as a `RewardModel`."""

import json
import time

import httpx
from pydantic import ValidationError

from rewarder.messages import LONGEST_S, MAX_BYTES, PATIENCE, ScoreBody, clip_message
from rewarder.reward import Clip, NoScore, Score
from rewarder.view import View

MAX_ANSWER_BYTES = 1024 * 1024
HEALTH_TIMEOUT_S = 1.0
_JSON = {"Content-Type": "application/json"}
_RETRY = {401, 403, 408, 429}
"""Refusals that do not mean that the clip itself is wrong; a server's faults (5xx) are too."""


class RemoteReward:
    """Asks a reward service for scores; whatever is not a sane answer in time is no score.

    It never repeats a question: `NoScore.retry` tells the caller whether that makes sense, and the
    caller waits as long as it likes.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 10.0,
        token: str | None = None,
        view: View | None = None,
    ) -> None:
        """Ask the service at `url`, e.g. `http://127.0.0.1:18080`, and wait `timeout_s` at most.

        With a `view`, only the small pictures that it shows are sent, as a vision-language model
        wants them; a geometric model needs them as the cameras took them.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"REWARDER_URL must begin with http:// or https://, not {url!r}")
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._view = view
        # What nobody waits for any more need not be scored.
        headers = {PATIENCE: f"{min(timeout_s, LONGEST_S):g}"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        # Proxies of the environment are for the internet, not for a service on this network.
        self._http = httpx.Client(base_url=self.url, headers=headers, trust_env=False)

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore` on anything but a sane answer in time."""
        sent = clip if self._view is None else self._view.shrink(clip)
        status, content = self._post("/score", _encoded(sent))
        if status != 200:
            retry = status in _RETRY or status >= 500
            raise NoScore(f"{self.url} answered {status}: {_message_of(content)}", retry=retry)
        try:
            return ScoreBody.model_validate_json(content).score(len(clip))
        except ValidationError as error:
            wrong = error.errors()[0]
            where = ".".join(str(part) for part in wrong["loc"])
            raise self._garbage(f"{where} {wrong['msg']}") from error
        except ValueError as error:
            raise self._garbage(str(error)) from error

    def available(self) -> bool:
        """Return whether the service answers at all, within a second."""
        try:
            return self._http.get("/health", timeout=HEALTH_TIMEOUT_S).is_success
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and content of an answer that came whole before the deadline."""
        deadline = time.monotonic() + self._timeout_s
        content = bytearray()
        try:
            with self._http.stream(
                "POST", path, content=body, headers=_JSON, timeout=self._timeout_s
            ) as answer:
                for part in answer.iter_bytes():
                    content += part
                    # httpx limits the wait for each part only.
                    if time.monotonic() > deadline:
                        raise self._late()
                    if len(content) > MAX_ANSWER_BYTES:
                        raise self._garbage(f"more than {MAX_ANSWER_BYTES} bytes")
                return answer.status_code, bytes(content)
        except httpx.TimeoutException as error:
            raise self._late() from error
        except httpx.HTTPError as error:
            raise NoScore(f"{self.url} cannot be reached: {error}", retry=True) from error

    def _late(self) -> NoScore:
        return NoScore(f"{self.url} gave no answer within {self._timeout_s:g} s", retry=True)

    def _garbage(self, what: str) -> NoScore:
        return NoScore(f"{self.url} answered something else than a score: {what}", retry=True)


def _encoded(clip: Clip) -> bytes:
    """Return a clip as a request body; raise `NoScore` where no service would take it."""
    try:
        body = json.dumps(clip_message(clip), allow_nan=False).encode()
    except ValueError as error:
        raise NoScore(f"the clip holds a number that is not finite: {error}") from error
    if len(body) > MAX_BYTES:
        raise NoScore(f"the clip takes {len(body)} bytes; a request may have {MAX_BYTES}")
    return body


def _message_of(content: bytes) -> str:
    """Return what an error answer says, in one short line."""
    try:
        text = str(json.loads(content)["message"])
    except (ValueError, KeyError, TypeError):
        text = content[:200].decode("utf-8", "replace")
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())[:500]

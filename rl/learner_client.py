"""An arm's end of `rl.service`: sealed episodes go out until they arrive, policies come in."""

import random
import threading
from collections.abc import Mapping
from pathlib import Path

import httpx
import structlog

from rl.fleet import Snapshot

log = structlog.get_logger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
PULL_S = 2.0
"""A newer policy is asked for this often."""
UPLOADED = "uploaded.txt"
"""In a journal: the names of the episodes that the learner has, or refuses for good."""


class LearnerAway(Exception):
    """The learner cannot be reached at the moment, or cannot take more."""


class LearnerClient:
    """HTTP calls to a learner's service, each with a deadline."""

    def __init__(self, url: str, *, token: str | None = None, timeout_s: float = 5.0) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.url = url
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_s, trust_env=False)

    def goal(self) -> str:
        """Return the goal sentence that the learner's run practises."""
        return str(self._ask("GET", "/health").raise_for_status().json()["goal"])

    def upload(self, arm: str, name: str, data: bytes) -> str | None:
        """Send one sealed episode; return why it is refused for good, if it is."""
        answer = self._ask("PUT", f"/episodes/{name}", params={"arm": arm}, content=data)
        if answer.is_success:
            return None
        if answer.status_code in (401, 408, 429) or answer.is_server_error:
            raise LearnerAway(f"{self.url} answers {answer.status_code}: {_detail(answer)}")
        return f"{answer.status_code}: {_detail(answer)}"

    def newer(self, version: int | None) -> Snapshot | None:
        """Return the learner's policy if it is another than `version`."""
        known = {"if-none-match": f'"{version}"'}
        head = self._ask("GET", "/policy.json", headers=known)
        if head.is_error or not head.content:
            return None
        weights = self._ask("GET", "/policy.safetensors")
        if not weights.is_success or weights.headers["etag"] != head.headers["etag"]:
            return None
        version = int(head.headers["etag"].strip('"'))
        return Snapshot(version=version, head=head.content, weights=weights.content)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Response:
        try:
            return self._http.request(method, path, params=params, headers=headers, content=content)
        except httpx.HTTPError as error:
            raise LearnerAway(f"{self.url} cannot be reached: {error}") from error


class Courier:
    """Carries an arm's episodes to the learner and policies back; the arm never waits for it."""

    def __init__(
        self, client: LearnerClient, arm: str, *, first_wait_s: float = FIRST_WAIT_S
    ) -> None:
        self._client, self._arm, self._first_wait_s = client, arm, first_wait_s
        self._todo: list[Path] = []
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.snapshot: Snapshot | None = None
        """The newest policy that has come."""
        self.trouble: str | None = None
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Return how many episodes have yet to arrive."""
        return len(self._todo)

    def send(self, path: Path) -> None:
        """Have a sealed episode uploaded."""
        self._todo.append(path)
        self._wake.set()

    def close(self, *, patience_s: float = 0.0) -> None:
        """Stop, after at most `patience_s` for what is pending; the rest stays in the journal."""
        waited = threading.Event()
        while self._todo and patience_s > 0 and not self.trouble:
            waited.wait(0.05)
            patience_s -= 0.05
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout=10.0)

    def _work(self) -> None:
        wait_s = self._first_wait_s
        while not self._stopping.is_set():
            try:
                self._carry()
            except LearnerAway as error:
                self.trouble = str(error)
                # Jitter keeps several arms from coming back in step.
                self._stopping.wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
                wait_s = min(LONGEST_WAIT_S, 2 * wait_s)
            else:
                self.trouble, wait_s = None, self._first_wait_s
                self._wake.wait(PULL_S)
                self._wake.clear()

    def _carry(self) -> None:
        while self._todo and not self._stopping.is_set():
            path = self._todo[0]
            refused = self._client.upload(self._arm, path.name, path.read_bytes())
            if refused:
                log.warning("episode refused", episode=path.name, reason=refused)
            with (path.parent.parent / UPLOADED).open("a", encoding="utf-8") as names:
                names.write(path.name + "\n")
            self._todo.pop(0)
        version = self.snapshot.version if self.snapshot else None
        self.snapshot = self._client.newer(version) or self.snapshot


def not_uploaded(journal: Path) -> list[Path]:
    """Return the sealed episodes of a journal that no learner has yet."""
    names = journal / UPLOADED
    done = set(names.read_text(encoding="utf-8").split()) if names.is_file() else set[str]()
    return sorted(
        path for path in (journal / "episodes").glob("[!.]*.npz") if path.name not in done
    )


def _detail(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]

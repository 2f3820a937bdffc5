"""Any OpenAI-compatible endpoint that shows pictures to a model (vLLM, SGLang), as a `VisionModel`.

Each question is one chat completion of a single token, of which the likeliest are read.
"""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import httpx
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rewarder.answers import log_sum
from rewarder.prompts import BadGoal, Prompt
from rewarder.reward import NoScore
from rewarder.vision_model import Answer, Question
from robot.camera import encode_jpeg
from robot.vision import Image

TOP = 20
"""Tokens whose probability is asked for: the most that servers give."""
AT_ONCE = 16
"""Questions that wait for an answer together; the others queue here."""
MAX_ANSWER_BYTES = 1024 * 1024
_WRONG_QUESTION = {400, 413, 415, 422}
"""Refusals that mean the question; all others mean the server or how it is called."""


class _Body(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False, frozen=True)


class _Token(_Body):
    token: str
    logprob: float = Field(le=1e-3)


class _Place(_Body):
    top_logprobs: list[_Token] = Field(min_length=1)


class _LogProbs(_Body):
    content: list[_Place] = Field(min_length=1)


class _Choice(_Body):
    logprobs: _LogProbs


class _Completion(_Body):
    choices: list[_Choice] = Field(min_length=1)


class Breaker:
    """Opens after failures in a row, then lets one call in every while through to try."""

    def __init__(
        self, *, failures: int, rest_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Open after so many `failures`, for `rest_s` at a time."""
        self._most, self._rest_s, self._clock = failures, rest_s, clock
        self._failures, self._until = 0, 0.0
        self._lock = threading.Lock()

    def admit(self) -> None:
        """Raise `NoScore` while it is open."""
        with self._lock:
            if self._failures < self._most:
                return
            left, now = self._until - self._clock(), self._clock()
            if left > 0:
                raise NoScore(
                    f"{self._failures} failures in a row; asked again in {left:.0f} s", retry=True
                )
            # This one tries; the others go on waiting for what becomes of it.
            self._until = now + self._rest_s

    def failed(self) -> None:
        """Count a failure."""
        with self._lock:
            self._failures += 1
            self._until = self._clock() + self._rest_s

    def worked(self) -> None:
        """Close it."""
        with self._lock:
            self._failures = 0


class OpenAiVL:
    """Asks a served model; whatever is not a sane answer in time is no score."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        engine: str,
        token: str | None,
        timeout_s: float,
        breaker: Breaker,
    ) -> None:
        """Ask `model` at `url`, which ends in /v1, and wait `timeout_s` for a set of questions.

        `engine` is what serves it, with its version: a calibration belongs to all three.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"VLM_URL must begin with http:// or https://, not {url!r}")
        self._url, self._model, self._timeout_s = url.rstrip("/"), model, timeout_s
        self._breaker = breaker
        self._name = f"{model} {engine}"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        # Reading the machine's certificates takes longer than many an answer.
        self._trust = httpx.create_ssl_context(trust_env=False)

    @property
    def name(self) -> str:
        """Return the model, and what serves it."""
        return self._name

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return an answer to each; raise `NoScore` unless all come whole before the deadline.

        An answer that is none of the prompt's, as far as the server tells, has a mass of 0.
        """
        bodies = [self._body(question) for question in questions]
        self._breaker.admit()
        try:
            contents = asyncio.run(self._post_all(bodies))
            pairs = zip(contents, questions, strict=True)
            answers = [self._answer(content, question.prompt) for content, question in pairs]
        except NoScore as error:
            (self._breaker.failed if error.retry else self._breaker.worked)()
            raise
        self._breaker.worked()
        return answers

    async def _post_all(self, bodies: Sequence[bytes]) -> list[bytes]:
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                httpx.AsyncClient(
                    headers=self._headers,
                    timeout=self._timeout_s,
                    limits=httpx.Limits(max_connections=AT_ONCE),
                    trust_env=False,
                    verify=self._trust,
                ) as http,
            ):
                return await asyncio.gather(*(self._post(http, body) for body in bodies))
        except (TimeoutError, httpx.TimeoutException) as error:
            raise NoScore(
                f"{self._url} gave no answer within {self._timeout_s:g} s", retry=True
            ) from error
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise NoScore(f"{self._url} cannot be reached: {why}", retry=True) from error

    async def _post(self, http: httpx.AsyncClient, body: bytes) -> bytes:
        content = bytearray()
        headers = {"Content-Type": "application/json"}
        path = f"{self._url}/chat/completions"
        async with http.stream("POST", path, content=body, headers=headers) as answer:
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > MAX_ANSWER_BYTES:
                    raise self._garbage(f"more than {MAX_ANSWER_BYTES} bytes")
        if answer.status_code != 200:
            said = " ".join(content[:300].decode("utf-8", "replace").split())
            raise NoScore(
                f"{self._url} answered {answer.status_code}: {said}",
                retry=answer.status_code not in _WRONG_QUESTION,
            )
        return bytes(content)

    def _body(self, question: Question) -> bytes:
        """Return a question as a request; raise `NoScore` where it cannot be put to a chat."""
        if not question.prompt.chat:
            raise NoScore(
                "a chat endpoint cannot continue a text as it stands; set progress=letter"
            )
        try:
            text = question.prompt.about(question.goal)
        except BadGoal as error:
            raise NoScore(str(error)) from error
        content = [*map(_picture, question.pictures), {"type": "text", "text": text}]
        request = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": True,
            "top_logprobs": TOP,
        }
        return json.dumps(request).encode()

    def _answer(self, content: bytes, prompt: Prompt) -> Answer:
        try:
            tokens = _Completion.model_validate_json(content).choices[0].logprobs.content[0]
        except ValidationError as error:
            wrong = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in wrong["loc"])
            raise self._garbage(f"{where} {wrong['msg']}".strip()) from error
        said = [(token.token, token.logprob) for token in tokens.top_logprobs]
        sums = [_log_sum_of(said, spellings) for spellings in prompt.answers]
        return Answer(log_probs=np.array(sums))

    def _garbage(self, what: str) -> NoScore:
        return NoScore(
            f"{self._url} answered something else than a token with the {TOP} likeliest ones "
            f"(vLLM: --max-logprobs {TOP}): {what}",
            retry=True,
        )


def _picture(image: Image) -> Mapping[str, object]:
    data = base64.b64encode(encode_jpeg(image, quality=90)).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{data}"}}


def _log_sum_of(said: Sequence[tuple[str, float]], spellings: Sequence[str]) -> float:
    """Return the log-probability of the spellings among the tokens that the server told of."""
    return log_sum(np.array([value for token, value in said if token in spellings]))

"""Questions of several threads, put to a model together."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import prometheus_client as prometheus

from rewarder.vision_model import Answer, Question

GATHER_S = 0.004
"""How long a model that was asked by several at a time waits for others that are about to ask."""
_TOGETHER = prometheus.Histogram(
    "rewarder_batch_size", "Questions that were put to a model together",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)  # fmt: skip

type Ask = Callable[[Sequence[Question]], list[Answer]]


@dataclass(slots=True, eq=False)
class _Asking:
    """One thread's questions, and what became of them."""

    questions: Sequence[Question]
    answers: list[Answer] = field(default_factory=list[Answer])
    error: Exception | None = None
    is_settled: bool = False


class Gather:
    """Asks for all threads that wait while the model is at work, so that they share its batches.

    Whoever gets its turn asks for the others too. A question that makes the model fail costs its
    own thread the answer, and the others nothing.
    """

    def __init__(
        self,
        ask: Ask,
        *,
        most: int,
        pause: Callable[[], object] = lambda: time.sleep(GATHER_S),
    ) -> None:
        """Put up to `most` questions to `ask` at once, or those of one thread where it has more.

        `pause` waits a moment for others, where there were several the last time.
        """
        self._ask, self._most, self._pause = ask, most, pause
        self._waiting: list[_Asking] = []
        self._entry, self._turn = threading.Lock(), threading.Lock()
        self._is_shared = False

    @property
    def waiting(self) -> int:
        """Return how many threads wait for their questions to be put."""
        return len(self._waiting)

    def __call__(self, questions: Sequence[Question]) -> list[Answer]:
        """Return an answer to each; raise what the model raises over these very questions."""
        mine = _Asking(questions)
        with self._entry:
            self._waiting.append(mine)
        with self._turn:
            if not mine.is_settled and self._is_shared:
                self._pause()
            while not mine.is_settled:
                self._settle(self._next_batch())
        if mine.error is not None:
            raise mine.error
        return mine.answers

    def _next_batch(self) -> list[_Asking]:
        """Return those who have waited the longest and have no more than `most` questions."""
        with self._entry:
            count, total = 1, len(self._waiting[0].questions)
            for asking in self._waiting[1:]:
                total += len(asking.questions)
                if total > self._most:
                    break
                count += 1
            batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self._is_shared = len(batch) > 1
        return batch

    def _settle(self, batch: Sequence[_Asking]) -> None:
        questions = [question for asking in batch for question in asking.questions]
        try:
            answers = self._ask(questions)
        except Exception as error:  # noqa: BLE001 - each thread raises its own
            if len(batch) > 1:
                # Who is to blame shows when they are asked for one by one.
                for asking in batch:
                    self._settle([asking])
                return
            batch[0].error = error
        else:
            _TOGETHER.observe(len(questions))
            for asking in batch:
                count = len(asking.questions)
                asking.answers, answers = answers[:count], answers[count:]
        for asking in batch:
            asking.is_settled = True

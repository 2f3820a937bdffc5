"""What a vision-language model is asked about pictures and a goal, and how its words are read."""

import hashlib
import re
from dataclasses import dataclass

MAX_GOAL = 200
"""Longest goal sentence, characters."""
LETTERS = "ABCDEFGHIJKLMNOPQRST"
"""Marks for progress from 0 (A) to 1 (T): single tokens, which numbers such as 10 are not."""


class BadGoal(ValueError):
    """The goal sentence is not one to put before a model."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One way to ask: a text with `{goal}`, and the answers that are listened for."""

    text: str
    answers: tuple[tuple[str, ...], ...]
    """For each answer, the spellings that count as it; each has to be a single token."""
    chat: bool = True
    """Whether it goes into the chat template; otherwise the text is continued as it stands."""

    def about(self, goal: str) -> str:
        """Return the question about a goal; raise `BadGoal`."""
        return self.text.format(goal=clean_goal(goal))

    @property
    def sha(self) -> str:
        """Return the first 12 hex digits of the hash of all that belongs to the prompt."""
        said = repr((self.text, self.answers, self.chat))
        return hashlib.sha256(said.encode()).hexdigest()[:12]


YES_NO = Prompt(
    "Goal: {goal}\nHas the robot reached this goal? Answer Yes or No.",
    (("Yes", "yes", " Yes", " yes", "YES"), ("No", "no", " No", " no", "NO")),
)
"""Success: the log-odds of yes over no."""
LETTER = Prompt(
    "Goal: {goal}\nHow far has the robot come, from A, nothing done, to T, goal reached? "
    "Answer with one letter.",
    tuple((letter, f" {letter}") for letter in LETTERS),
)
"""Progress: the expectation over the letters, which says more than the likeliest of them
(arXiv 2607.05391: 87.4 % against 70.8 % for a printed judgement)."""
TRUE = Prompt(
    "The pictures show a robot arm at work. The goal {goal} has been reached. Decide whether the "
    "above statement is True or not. The answer is:",
    ((" True", "True"), (" False", "False")),
    chat=False,
)
"""Progress as the probability of True, without a chat template (TOPReward, arXiv 2602.19313)."""

_SPECIAL = re.compile(r"<\|[^|]*\|>|<(?:s|/s|pad|bos|eos|unk|image|video)>", re.IGNORECASE)


def clean_goal(goal: str) -> str:
    """Return a goal on one line; raise `BadGoal` if it is empty, too long or holds model tokens."""
    words = " ".join(goal.split())
    if not words:
        raise BadGoal("the goal is empty; expected a sentence such as 'Lift the red cube.'")
    if len(words) > MAX_GOAL:
        raise BadGoal(f"the goal has {len(words)} characters; at most {MAX_GOAL} are read")
    special = _SPECIAL.search(words)
    if special:
        raise BadGoal(f"the goal holds a model's special token: {special.group()!r}")
    if not words.isprintable():
        raise BadGoal("the goal holds characters that cannot be printed")
    return words

"""Goal sentences: which task, thing and place they name, and which sentences are understood."""

import re
from dataclasses import dataclass
from typing import Literal, cast

from robot.scene import COLOURS, Item, Layout

type Kind = Literal["cube", "bowl", "marker"]

FORMS = {
    "reach": "Reach for the {thing} cube.",
    "push": "Push the {thing} cube to the {place} marker.",
    "lift": "Lift the {thing} cube.",
    "place": "Put the {thing} cube in the {place} bowl.",
    "stack": "Stack the {thing} cube on the {place} cube.",
}
"""The sentence of each task; `{thing}` and `{place}` stand for colours."""

REACH_HEIGHT = 0.06
"""Height of the target point of a reach over the thing's centre, metres."""

_COLOUR = "(?:" + "|".join(COLOURS) + ")"
_PATTERNS = {
    "reach": r"(?:reach(?: for)?|(?:go|move|bring the gripper) (?:to|over|above))"
    r" the (?P<thing>{c}) cube",
    "push": r"(?:push|slide|move|shove) the (?P<thing>{c}) cube"
    r" (?:to|onto|on) the (?P<place>{c}) (?P<kind>marker)",
    "lift": r"(?:lift|pick up|pick|raise|grasp)(?: up)? the (?P<thing>{c}) cube(?: up)?",
    "place": r"(?:put|place|drop) the (?P<thing>{c}) cube"
    r" (?:in|into|inside) the (?P<place>{c}) (?P<kind>bowl)",
    "stack": r"(?:stack|put|place) the (?P<thing>{c}) cube"
    r" (?:on|onto|on top of) the (?P<place>{c}) (?P<kind>cube)",
}
_OTHER_WORDS = {
    "reach": (
        "Reach the {thing} cube.",
        "Go to the {thing} cube.",
        "Move above the {thing} cube.",
        "Bring the gripper over the {thing} cube.",
    ),
    "push": (
        "Slide the {thing} cube onto the {place} marker.",
        "Move the {thing} cube to the {place} marker.",
        "Shove the {thing} cube on the {place} marker.",
        "Please push the {thing} cube onto the {place} marker.",
    ),
    "lift": (
        "Pick up the {thing} cube.",
        "Raise the {thing} cube.",
        "Lift the {thing} cube up.",
        "Grasp the {thing} cube.",
    ),
    "place": (
        "Place the {thing} cube inside the {place} bowl.",
        "Drop the {thing} cube into the {place} bowl.",
        "Put the {thing} cube into the {place} bowl.",
        "Please place the {thing} cube in the {place} bowl.",
    ),
    "stack": (
        "Put the {thing} cube on top of the {place} cube.",
        "Place the {thing} cube on the {place} cube.",
        "Stack the {thing} cube onto the {place} cube.",
        "Please put the {thing} cube on the {place} cube.",
    ),
}
"""Of each task, sentences that mean the same as its form."""
_QUOTED = 80
"""Characters of a sentence that an error repeats."""


class UnknownGoal(ValueError):
    """The sentence names no task that is known here."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal sentence and what it names."""

    task: str
    thing: Item
    place: Item | None = None

    def __post_init__(self) -> None:
        if self.place and self.place.colour == self.thing.colour:
            raise UnknownGoal(
                f"the {self.thing} and the {self.place} have one colour and cannot be told apart; "
                "give them two different colours"
            )

    def __str__(self) -> str:
        place = self.place.colour if self.place else ""
        return FORMS[self.task].format(thing=self.thing.colour, place=place)

    @property
    def layout(self) -> Layout:
        """Return what has to lie on the table."""
        return Layout(thing=self.thing, place=self.place)


def task_goal(task: str, thing: str = "red", place: str = "blue") -> Goal:
    """Return the goal of a task with these colours; raise `UnknownGoal` for an unknown task."""
    if task not in FORMS:
        raise UnknownGoal(f"unknown task {task!r}; known: {', '.join(FORMS)}")
    return parse_goal(FORMS[task].format(thing=thing, place=place))


def paraphrases(goal: Goal) -> tuple[str, ...]:
    """Return sentences that `parse_goal` reads as this goal, its own form first."""
    place = goal.place.colour if goal.place else ""
    forms = (FORMS[goal.task], *_OTHER_WORDS[goal.task])
    return tuple(form.format(thing=goal.thing.colour, place=place) for form in forms)


def in_other_words(sentence: str) -> tuple[str, ...]:
    """Return a sentence and those that name its goal; itself alone where it names none of ours."""
    try:
        goal = parse_goal(sentence)
    except UnknownGoal:
        return (sentence,)
    return tuple(dict.fromkeys((sentence, *paraphrases(goal))))


def closed_goals() -> tuple[Goal, ...]:
    """Return every goal that the sentences of `FORMS` can name."""
    return tuple(
        task_goal(task, thing, place)
        for task, form in FORMS.items()
        for thing in COLOURS
        for place in (COLOURS if "{place}" in form else ("",))
        if place != thing
    )


def parse_goal(sentence: str) -> Goal:
    """Return what a sentence names; raise `UnknownGoal` with the known forms otherwise."""
    words = re.sub(r"\s+", " ", sentence.strip().lower()).rstrip(".!")
    words = re.sub(r"^please ", "", words)
    for task, pattern in _PATTERNS.items():
        found = re.fullmatch(pattern.format(c=_COLOUR), words)
        if found:
            parts = found.groupdict()
            kind = cast(Kind | None, parts.get("kind"))
            place = Item(kind, parts["place"]) if kind else None
            return Goal(task, Item("cube", parts["thing"]), place)
    forms = "; ".join(form.format(thing="COLOUR", place="COLOUR") for form in FORMS.values())
    raise UnknownGoal(
        f"the goal {sentence[:_QUOTED]!r} is not understood; "
        f"known forms: {forms} (COLOUR: {', '.join(COLOURS)})"
    )

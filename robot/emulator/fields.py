"""Values out of a request's JSON: of the kind that is expected, or an error that says so."""

import math
from collections.abc import Mapping
from typing import cast

from robot.arm import JOINTS

type Fields = Mapping[str, object]


def joint_of(fields: Fields) -> str:
    """Return the joint that a request names."""
    joint = fields.get("joint")
    if joint not in JOINTS:
        raise ValueError(f"joint is {joint!r}; expected one of {', '.join(JOINTS)}")
    return cast("str", joint)


def number_of(fields: Fields, name: str) -> float:
    """Return a finite number."""
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; expected a number")
    return float(value)


def whole_of(fields: Fields, name: str) -> int:
    """Return a whole number, 0 or more where it is used as such."""
    value = fields.get(name)
    if type(value) is not int:
        raise ValueError(f"{name} is {value!r}; expected a whole number")
    return value

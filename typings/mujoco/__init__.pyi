"""MuJoCo's module is compiled and carries no types."""

from typing import Any

def __getattr__(name: str) -> Any: ...

from collections.abc import Callable
from typing import Any

def packb(
    o: object, *, default: Callable[[Any], object] | None = None, use_bin_type: bool = True
) -> bytes: ...
def unpackb(
    packed: bytes,
    *,
    raw: bool = False,
    strict_map_key: bool = True,
    object_hook: Callable[[dict[Any, Any]], object] | None = None,
) -> object: ...

"""Time as control code sees it: wall time for real arms; the twin's clock advances its physics."""

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock, in seconds, that can be waited on."""

    def now(self) -> float:
        """Return the current time."""
        ...

    def sleep_until(self, moment: float) -> None:
        """Return when `moment` is reached; return at once if it has passed."""
        ...


class WallClock:
    """The monotonic clock of this machine."""

    def now(self) -> float:
        """Return seconds since an arbitrary moment."""
        return time.monotonic()

    def sleep_until(self, moment: float) -> None:
        """Sleep until `moment`."""
        remaining = moment - time.monotonic()
        if remaining > 0:
            time.sleep(remaining)

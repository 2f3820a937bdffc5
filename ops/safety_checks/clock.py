"""A clock for checks that need none to pass."""


class SetClock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        """Start anywhere but at 0."""
        self.time = 1000.0

    def now(self) -> float:
        """Return the time that was set."""
        return self.time

    def sleep_until(self, moment: float) -> None:
        """Be at `moment` at once."""
        self.time = max(self.time, moment)

class SetClock:
    """A clock that is set by hand, and is at once where somebody waits for."""

    def __init__(self):
        self.time = 100.0

    def now(self):
        return self.time

    def sleep_until(self, moment):
        self.time = max(self.time, moment)

"""Who drives an arm, and how long ago they were heard of."""

import math


class Heartbeats:
    """Signs of life of clients; a policy and a person may each have one that drives."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._heard: dict[str, float] = {}
        self._drivers: dict[bool, str | None] = {False: None, True: None}

    def beat(self, client: str, *, now: float) -> None:
        """Note that `client` lives."""
        self._heard[client] = now

    def leave(self, client: str) -> None:
        """Note that `client` has gone for good."""
        self._heard[client] = -math.inf

    def drive(self, client: str, *, human: bool, now: float) -> None:
        """Make `client` the one whose silence counts; asking to drive is a sign of life."""
        self._drivers[human] = client
        self.beat(client, now=now)

    def driver(self, *, human: bool) -> str | None:
        """Return who drives as a person or as a policy."""
        return self._drivers[human]

    def silence(self, *, human: bool, now: float) -> float:
        """Return the seconds since the driver was heard of; infinite where there is none."""
        driver = self._drivers[human]
        return now - self._heard[driver] if driver is not None else math.inf

    def alive(self, *, now: float, within_s: float) -> tuple[str, ...]:
        """Return the clients that were heard of lately, and forget those that are long gone."""
        self._heard = {
            client: at
            for client, at in self._heard.items()
            if now - at < 60.0 or client in self._drivers.values()
        }
        return tuple(sorted(c for c, at in self._heard.items() if now - at <= within_s))

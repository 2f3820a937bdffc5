"""Six emulated servos on a pseudo-terminal, moved by the twin; they fail on request, and judge."""

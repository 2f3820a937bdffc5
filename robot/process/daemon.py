"""The process of one arm: `make arm ARM_ID=arm01`.

It is two. The parent loads LeRobot's driver, shows that the limits hold, and forks the arm's
process (`robot.process.service`): seconds that are spent once, so that an arm's process that dies
is back in a moment, stopped. Ctrl-C or SIGTERM parks the arm and lets go of it; a second one does
not hurry that.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from robot.process.supervisor import Serve, keep_alive

SERVICE = "robot.process.service"
SINGLE = {"OMP_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""What keeps libraries from starting threads as they are loaded: none of them outlives a fork."""
FORKS_LOADED = sys.platform == "linux"
"""Apple's frameworks cannot be used any more after a fork: on a Mac each child loads its own."""


def main(argv: Sequence[str], *, service: str = SERVICE, forks_loaded: bool = FORKS_LOADED) -> int:
    """Keep the arm that words name served; return the exit code."""
    os.environ.update(SINGLE)
    if forks_loaded:
        return import_module(service).main(argv, live=keep_alive)

    def load_and_serve(died: str) -> int:
        def live(serve: Serve) -> int:
            return serve(died)

        return import_module(service).main(argv, live=live)

    return keep_alive(load_and_serve)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

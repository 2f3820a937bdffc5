"""`robot.process.daemon` with servos that need no bus; `python -m tests.robot.fake_daemon`."""

import sys

from robot.process.daemon import main

if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "fresh"]
    # As on a Mac, where what is loaded cannot be forked.
    fresh = words != sys.argv[1:]
    sys.exit(main(words, service="tests.robot.fake_service", forks_loaded=not fresh))

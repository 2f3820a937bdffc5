"""One arm and its eyes: what it senses, what it may do, how it is reached, what is kept of it."""

import os
import sys

# Read when mujoco is imported: drawing the twin needs no screen, and Mesa draws small pictures
# faster without threads of its own.
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("LP_NUM_THREADS", "0")

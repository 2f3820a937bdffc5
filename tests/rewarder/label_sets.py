"""A small set of clips to judge, and a desk for it."""

import cv2
import numpy as np

from rewarder.clip_set import SetClip, SetInfo, add_clip, create_set
from rewarder.label_desk import LabelDesk
from rewarder.pairs import Pair
from rewarder.reward import Clip
from robot.camera import encode_jpeg

GOAL = "Lift the red cube."
RATERS = ("anna", "ben")
MOMENTS = 3


def picture(number, moment):
    image = np.full((48, 48, 3), (200, 190, 170), np.uint8)
    cv2.circle(image, (8 + 4 * number, 40 - 12 * moment), 5, (200, 30, 30), -1)
    return encode_jpeg(image)


def make_desk(folder, *, clips=5, pairs=2):
    """Return a desk for a new set; pairs are of the clips with the lowest ranks."""
    info = SetInfo(
        name="test",
        raters=dict.fromkeys(RATERS, "a program that presses keys"),
        reference="anna",
        command="pytest",
        seed=None,
        cameras=("front", "side"),
        tasks=("lift",),
    )
    create_set(folder / "set", info)
    for number in range(clips):
        clip = Clip(
            goal=GOAL,
            stamps=np.arange(float(MOMENTS)),
            frames={
                name: [picture(number, t) for t in range(MOMENTS)] for name in ("front", "side")
            },
            joint_pos=np.full((MOMENTS, 6), float(number)),
            joint_target=np.zeros((MOMENTS, 6)),
        )
        origin = {"episode": f"{number:06d}-00", "rank": number}
        add_clip(folder / "set", SetClip(clip=clip, task="lift", kind="rewarded", origin=origin))
    return open_desk(folder, pairs=pairs)


def open_desk(folder, *, pairs=2):
    """Return a desk for the set that `make_desk` made, as another process would open it."""
    asked = [Pair(GOAL, "000000-00", f"{n + 1:06d}-00") for n in range(pairs)]
    return LabelDesk(folder / "set", asked, folder / "pairs.jsonl")

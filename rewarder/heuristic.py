"""Success and progress from colour-tracked pictures and encoders, without any learned model."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rewarder.goal import Goal, UnknownGoal, parse_goal
from rewarder.reward import Clip, NoScore, Score
from rewarder.shaping import PROGRESS, Moment, Vector, distance
from robot.arm import Joints, to_radians
from robot.camera import Frame
from robot.kinematics import (
    LINKS,
    forward,
    jaw_centre,
    jaw_gap,
    tool_position,
)
from robot.pictures import whole_picture
from robot.tracking import Estimates, Tracker
from robot.vision import CameraModel, FrameSanity, Image

MODEL = "heuristic/1"
GRIPPER = LINKS.index("gripper")
REMEMBERED_S = 1.0
"""How long the last seen position of a hidden thing still counts."""
STEP_S = 0.1
"""From one step of a policy to the next."""
SQUEEZE_RAD = 0.04
"""How far the command lies below the opening of jaws that are blocked by something."""
HELD_RAD = (0.02, 0.30)
"""Openings at which a cube can be between the jaws, whatever its yaw."""
HELD_APART = 0.03
"""Farthest that a held thing seems from the middle between the jaws, metres."""


def looks_held(joint_pos: Joints, joint_target: Joints, thing: Vector, jaw: Vector) -> bool:
    """Return whether jaws with the middle `jaw` (3,) squeeze the thing at `thing` (3,)."""
    opening = float(to_radians(joint_pos)[5])
    squeezing = opening - float(to_radians(joint_target)[5]) >= SQUEEZE_RAD
    fits = HELD_RAD[0] <= opening <= HELD_RAD[1]
    return bool(squeezing and fits and distance(thing, jaw) < HELD_APART)


class Judge:
    """Watches one attempt at one goal, observation by observation."""

    def __init__(self, goal: Goal, cameras: Mapping[str, CameraModel]) -> None:
        """Judge by the pictures of these cameras; all of them are needed at every observation."""
        self._cameras = dict(cameras)
        self._tracker = Tracker(cameras, goal.layout)
        self._sanity = FrameSanity()
        self._progress = PROGRESS[goal.task]
        self._needs_place = goal.place is not None
        self._thing_seen_at = -np.inf
        self._place_seen = False
        self._before: tuple[float, Vector] | None = None
        self.moment: Moment | None = None
        """What was known at the newest observation."""

    def update(
        self, images: Mapping[str, Image], joint_pos: Joints, joint_target: Joints, stamp: float
    ) -> tuple[bool, float, bool]:
        """Return (success, progress from 0 to 1, valid) after one observation.

        `images` are RGB, by camera. It is not valid, and the other two mean nothing, where a
        picture is missing or faulty, or where thing or place have not been seen.
        """
        taken = {name: Frame(image=image, stamp=stamp) for name, image in images.items()}
        faults = self._sanity.faults(taken, joint_pos)
        sound = {name: image for name, image in images.items() if name not in faults}
        estimates = self._tracker.update(sound)
        success, progress, known = self.consider(estimates, joint_pos, joint_target, stamp)
        return success, progress, known and sound.keys() >= self._cameras.keys()

    def consider(
        self, estimates: Estimates, joint_pos: Joints, joint_target: Joints, stamp: float
    ) -> tuple[bool, float, bool]:
        """Return what `update` does, from what another tracker made of the pictures."""
        self.moment = moment = self._moment(estimates, joint_pos, joint_target, stamp)
        success, progress = self._progress(moment)
        # From a remembered position nothing can be said to have been reached.
        return success and estimates.thing.seen, progress, self._known(estimates, stamp)

    def _known(self, estimates: Estimates, stamp: float) -> bool:
        if estimates.thing.seen:
            self._thing_seen_at = stamp
        if estimates.place is not None and estimates.place.seen:
            self._place_seen = True
        recent = stamp - self._thing_seen_at <= REMEMBERED_S
        return recent and (self._place_seen or not self._needs_place)

    def _moment(
        self, estimates: Estimates, joint_pos: Joints, joint_target: Joints, stamp: float
    ) -> Moment:
        thing = estimates.thing.pos
        moved = _moved(self._before, (stamp, thing))
        self._before = (stamp, thing)
        jaw = jaw_centre(joint_pos)
        return Moment(
            tool=tool_position(joint_pos),
            jaw=jaw,
            across=forward(joint_pos).rot[GRIPPER, :, 0],
            gap=jaw_gap(float(joint_pos[5])),
            command=float(joint_target[5]),
            held=looks_held(joint_pos, joint_target, thing, jaw),
            thing=thing,
            place=None if estimates.place is None else estimates.place.pos,
            moved=moved,
        )


def _moved(before: tuple[float, Vector] | None, now: tuple[float, Vector]) -> float:
    """Return how far a thing comes in a step, metres; infinite where it was not there before.

    A look comes seconds after the last step, and sees what the arm hid until then a little aside.
    """
    if before is None:
        return math.inf
    return distance(now[1], before[1]) * min(1.0, STEP_S / max(now[0] - before[0], 1e-6))


class HeuristicReward:
    """Scores clips by geometry: colours, known cameras, encoders."""

    def __init__(self, cameras: Mapping[str, CameraModel] | None = None) -> None:
        """Use these cameras for clips that do not bring their own."""
        self._cameras = dict(cameras or {})

    def score(self, clip: Clip) -> Score:
        """Return the score of a clip; raise `NoScore` for an unknown goal or unknown cameras."""
        if not (np.isfinite(clip.joint_pos).all() and np.isfinite(clip.joint_target).all()):
            raise NoScore("the clip holds a joint value that is not finite")
        cameras = self._cameras_of(clip)
        judge = Judge(_goal(clip.goal), cameras)
        count = len(clip)
        success, progress, valid = np.zeros(count, bool), np.zeros(count), np.zeros(count, bool)
        moments: list[Moment] = []
        for t in range(count):
            images = _pictures(clip, cameras, t)
            success[t], progress[t], valid[t] = judge.update(
                images, clip.joint_pos[t], clip.joint_target[t], float(clip.stamps[t])
            )
            if judge.moment is not None and valid[t]:
                moments.append(judge.moment)
        return Score(
            success=success & valid,
            progress=progress,
            valid=valid,
            model=MODEL,
            evidence=_evidence(moments, valid),
        )

    def _cameras_of(self, clip: Clip) -> Mapping[str, CameraModel]:
        known = self._cameras if clip.cameras is None else clip.cameras
        used = {name: camera for name, camera in known.items() if name in clip.frames}
        if not used:
            raise NoScore(
                f"no camera of the clip ({', '.join(clip.frames) or 'none'}) is known here "
                f"({', '.join(known) or 'none'}); calibrate them with `make calibrate-camera`"
            )
        return used


def _goal(sentence: str) -> Goal:
    try:
        return parse_goal(sentence)
    except UnknownGoal as error:
        raise NoScore(str(error)) from error


def _pictures(clip: Clip, cameras: Mapping[str, CameraModel], t: int) -> dict[str, Image]:
    """Return the sound pictures of one observation, by camera."""
    decoded = {
        name: whole_picture(clip.frames[name][t], camera.width, camera.height)
        for name, camera in cameras.items()
    }
    return {name: image for name, image in decoded.items() if image is not None}


def _evidence(moments: list[Moment], valid: NDArray[np.bool_]) -> dict[str, float]:
    evidence = {"valid_share": float(valid.mean())}
    if moments:
        last = moments[-1]
        evidence["held_share"] = float(np.mean([moment.held for moment in moments]))
        evidence["highest_m"] = max(float(moment.thing[2]) for moment in moments)
        evidence["nearest_m"] = min(moment.from_jaw for moment in moments)
        if last.place is not None:
            evidence["thing_to_place_m"] = distance(last.thing[:2], last.place[:2])
    return evidence

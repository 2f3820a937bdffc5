"""What is wrong with the cameras of an arm: rate, gaps, bad pictures, mistaken identity."""

from collections.abc import Iterable, Mapping
from typing import cast

import numpy as np

from robot.doctor.camera_watch import DRAWN, Image, Watched
from robot.doctor.report import Check, failure, good, warning

SLOW_SHARE, BAD_SHARE = 0.9, 0.6
"""Share of the promised rate below which a camera is worth a word, or is of no use."""
LATE_FRAMES = 3
"""A gap of so many frames is one that shows in a recording."""
FAULTY_SHARE = 0.2
FROZEN_S = 1.0
_MENDS = {
    "black": "take the lens cap off, give it light, and look whether another program has it",
    "over-exposed": "turn the light away from the lens, or lower the exposure",
    "blurred": "clean the lens, and turn it until the table is sharp",
    "wrong size": "the width and height that this camera has, in conf/arm/",
    "frozen": "plug the camera in again, at another USB port",
}


def judge(
    name: str, setting: Mapping[str, object], seen: Watched, *, alone: bool, where: str
) -> list[Check]:
    """Return what is wrong with one camera, or that nothing is."""
    if not seen.stamps:
        sentence = f"{name} gives no picture: {seen.error or 'none came'}"
        fix = f"lerobot-find-cameras {setting.get('type')}, then correct cameras.{name} in {where}"
        return [failure("cameras.missing", sentence, fix, device_missing=True)]
    checks = [*_identity(name, setting, where), *_rate(name, setting, seen, alone=alone)]
    checks += _pictures(name, setting, seen)
    height, width = cast("Image", seen.last).shape[:2]
    return checks or [
        good("cameras.rate", f"{name}: {seen.rate:.1f} pictures/s, {width} by {height}")
    ]


def check_cameras(
    cameras: Mapping[str, Mapping[str, object]], seen: Mapping[str, Watched], where: str
) -> list[Check]:
    """Return what is wrong with the cameras of an arm, one by one and together."""
    checks: list[Check] = []
    for name, setting in cameras.items():
        checks += judge(name, setting, seen[name], alone=len(cameras) == 1, where=where)
    return checks + list(_same(seen, where))


def details(seen: Mapping[str, Watched]) -> dict[str, object]:
    """Return the figures of all cameras for JSON."""
    return {
        name: {
            "pictures": len(watched.stamps),
            "rate": round(watched.rate, 2),
            "longest_gap_s": round(watched.longest_gap_s, 3),
            "faults": sorted(set(watched.faults)),
        }
        for name, watched in seen.items()
    }


def _identity(name: str, setting: Mapping[str, object], where: str) -> Iterable[Check]:
    path = setting.get("index_or_path")
    if setting.get("type") == "opencv" and (
        isinstance(path, int) or str(path).startswith("/dev/video")
    ):
        yield warning(
            "cameras.name",
            f"{name} is {path}: the number may change with every plug, and pictures swap",
            f"index_or_path: one of ls /dev/v4l/by-path, for cameras.{name} in {where}",
        )


def _rate(
    name: str, setting: Mapping[str, object], seen: Watched, *, alone: bool
) -> Iterable[Check]:
    promised = float(cast("float", setting.get("fps") or 30))
    mend = (
        f"more light, or a lower fps for {name}"
        if alone
        else f"{name} at another USB controller, fourcc: MJPG, or a smaller picture"
    )
    if seen.error:
        yield failure(
            "cameras.lost",
            f"{name} stopped after {seen.stamps[-1] - seen.stamps[0]:.0f} s: {seen.error}",
            mend,
        )
    if seen.rate < SLOW_SHARE * promised:
        make = failure if seen.rate < BAD_SHARE * promised else warning
        together = "" if alone else " with all cameras running"
        sentence = f"{name} gives {seen.rate:.1f} pictures/s{together}; expected {promised:g}"
        yield make("cameras.slow", sentence, mend)
    elif seen.longest_gap_s > (LATE_FRAMES + 0.5) / promised:
        missing = seen.longest_gap_s * promised - 1
        sentence = f"{name} left out {missing:.0f} pictures in a row once"
        yield warning("cameras.gap", sentence, mend)


def _pictures(name: str, setting: Mapping[str, object], seen: Watched) -> Iterable[Check]:
    for fault in sorted(set(seen.faults)):
        count = seen.faults.count(fault)
        if count >= FAULTY_SHARE * seen.looked:
            sentence = f"{name}: {count} of {seen.looked} pictures looked at are {fault}"
            yield failure(
                f"cameras.{fault.replace(' ', '_').replace('-', '_')}", sentence, _MENDS[fault]
            )
    if setting.get("type") not in DRAWN and seen.still_s > FROZEN_S:
        sentence = f"{name} gave the same picture for {seen.still_s:.1f} s"
        yield failure("cameras.frozen", sentence, _MENDS["frozen"])


def _same(seen: Mapping[str, Watched], where: str) -> Iterable[Check]:
    names = [name for name, watched in seen.items() if watched.last is not None]
    for index, name in enumerate(names):
        for other in names[index + 1 :]:
            if np.array_equal(cast("Image", seen[name].last), cast("Image", seen[other].last)):
                sentence = f"{name} and {other} give the same picture: one device under two names"
                yield failure("cameras.same", sentence, f"correct cameras.{other} in {where}")

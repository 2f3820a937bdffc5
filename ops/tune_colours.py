"""`make tune-colours`: what the colour masks take for red, green and blue, beside the frames."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from robot.scene import COLOURS, Item, Layout
from robot.vision import HSV_RANGES, HsvRange, HsvRanges, Image, colour_mask, frame_fault, to_hsv

OK, FAILED = 0, 1
SCALE_TO = 384
"""Height of the written pictures, pixels: small frames are enlarged to be looked at."""


def side_by_side(image: Image, ranges: HsvRanges = HSV_RANGES) -> Image:
    """Return an RGB picture with, to its right, what each mask keeps of it."""
    hsv = to_hsv(image)
    kept = [image * (colour_mask(hsv, ranges[colour]) > 0)[..., None] for colour in COLOURS]
    row = np.concatenate([image, *kept], axis=1)
    factor = max(1, SCALE_TO // image.shape[0])
    return row.repeat(factor, axis=0).repeat(factor, axis=1).astype(np.uint8)


def summary(image: Image, ranges: HsvRanges = HSV_RANGES) -> str:
    """Return one line: the picture's fault, or how many pixels have which colour."""
    fault = frame_fault(image)
    if fault:
        return f"useless picture: {fault}"
    hsv = to_hsv(image)
    counts = {colour: cv2.countNonZero(colour_mask(hsv, ranges[colour])) for colour in COLOURS}
    return ", ".join(f"{count} px {colour}" for colour, count in counts.items())


def patch_range(image: Image, box: Sequence[int]) -> str:
    """Return the range of hue, saturation and value in a box (x, y, width, height) of a picture."""
    x, y, width, height = box
    patch = image[y : y + height, x : x + width]
    if patch.size == 0:
        raise ValueError(
            f"the patch {list(box)} lies outside the picture of {image.shape[1]}x{image.shape[0]}"
        )
    values = to_hsv(patch).reshape(-1, 3)
    low, high = np.percentile(values, [2, 98], axis=0).round().astype(int)
    return f"hue {low[0]}-{high[0]}, saturation {low[1]}-{high[1]}, value {low[2]}-{high[2]}"


def parse_range(text: str) -> tuple[str, HsvRange]:
    """Return colour and range from `green=42,90,30:88,255,255`."""
    colour, _, bounds = text.partition("=")
    try:
        low, high = ([int(value) for value in bound.split(",")] for bound in bounds.split(":"))
        (h0, s0, v0), (h1, s1, v1) = low, high
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not COLOUR=H,S,V:H,S,V (low:high)"
        ) from error
    if colour not in COLOURS:
        raise argparse.ArgumentTypeError(f"unknown colour {colour!r}; known: {', '.join(COLOURS)}")
    return colour, ((h0, s0, v0), (h1, s1, v1))


def twin_frames(seed: int, width: int, height: int) -> dict[str, Image]:
    """Return the twin's pictures of two layouts that together show all colours."""
    # MuJoCo is there with the `train` extra only; a bench computer tunes its colours without it.
    from robot.twin import Twin  # noqa: PLC0415

    layouts = {
        "bowl": Layout(thing=Item("cube", "red"), place=Item("bowl", "blue")),
        "stack": Layout(thing=Item("cube", "green"), place=Item("cube", "red")),
    }
    frames: dict[str, Image] = {}
    for name, layout in layouts.items():
        twin = Twin(layout, image_size=(height, width))
        twin.reset(seed)
        frames |= {f"{name}_{camera}": frame.image for camera, frame in twin.frames().items()}
    return frames


def read_frames(paths: Sequence[Path]) -> dict[str, Image]:
    """Return picture files as RGB by name; raise ValueError for a file that is none."""
    frames: dict[str, Image] = {}
    for path in paths:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise ValueError(f"{path} is not a picture that can be read (PNG or JPEG)")
        frames[path.stem] = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)
    return frames


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make tune-colours", description=__doc__)
    parser.add_argument("images", type=Path, nargs="*", help="pictures; none: the twin's own")
    parser.add_argument("--out", type=Path, default=Path("masks"), help="folder for the PNGs")
    parser.add_argument("--seed", type=int, default=0, help="layout of the twin's table")
    parser.add_argument(
        "--image-size", type=int, nargs=2, default=(96, 96), metavar=("WIDTH", "HEIGHT")
    )
    parser.add_argument(
        "--try",
        dest="ranges",
        type=parse_range,
        action="append",
        default=[],
        metavar="COLOUR=H,S,V:H,S,V",
    )
    parser.add_argument("--patch", type=int, nargs=4, metavar=("X", "Y", "WIDTH", "HEIGHT"))
    return parser


def _with_tried(tried: Sequence[tuple[str, HsvRange]]) -> HsvRanges:
    """Return the ranges with those of the command line in place of the colours they name."""
    replaced = {
        name: tuple(bounds for other, bounds in tried if other == name) for name, _ in tried
    }
    return {**HSV_RANGES, **replaced}


def main(argv: Sequence[str] | None = None) -> int:
    """Write each frame with its masks beside it; return the exit code."""
    args = _parser().parse_args(argv)
    ranges = _with_tried(args.ranges)
    try:
        frames = (
            read_frames(args.images) if args.images else twin_frames(args.seed, *args.image_size)
        )
        args.out.mkdir(parents=True, exist_ok=True)
        for name, image in frames.items():
            path = args.out / f"{name}_masks.png"
            picture = cv2.cvtColor(side_by_side(image, ranges), cv2.COLOR_RGB2BGR)
            path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
            patch = f"; patch: {patch_range(image, args.patch)}" if args.patch else ""
            print(f"{path}: {summary(image, ranges)}{patch}")
    except (OSError, ValueError) as error:
        print(f"no masks written: {error}", file=sys.stderr)
        return FAILED
    return OK


if __name__ == "__main__":
    sys.exit(main())

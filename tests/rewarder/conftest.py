"""Drawn tables, and a reward service on a real socket."""

import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from rewarder.reward import Clip
from rewarder.server import SERVICE
from rewarder.service import create_app
from robot.camera import encode_jpeg
from robot.http_server import server_of
from robot.kinematics import inverse
from robot.scene import CUBE_EDGE
from robot.service_main import announce
from robot.tokens import OneToken
from robot.vision import CameraModel, load_cameras

CAMERAS = Path(__file__).parents[2] / "conf" / "cameras" / "twin.yaml"
RGB = {"red": (204, 20, 20), "green": (15, 150, 30), "blue": (15, 40, 204)}
LIMIT = np.array([100.0, 97.0, 95.0, 93.0, 155.0, 100.0])
TURN = np.linspace(0, 2 * np.pi, 24)
RING = np.stack([np.cos(TURN), np.sin(TURN), np.zeros(24)], axis=-1)
CORNERS = np.stack(np.meshgrid(*[[-0.5, 0.5]] * 3), axis=-1).reshape(-1, 3)
SHAPES = {
    "cube": CORNERS * CUBE_EDGE,
    "bowl": np.concatenate([RING * 0.053, RING * 0.053 + (0, 0, 0.022)]),
    "marker": RING * 0.016,
}


def draw(camera: CameraModel, items, tool) -> np.ndarray:
    """Return a picture of (shape, colour, position) items, and of a knob above the tool."""
    grain = np.random.default_rng(0).integers(-25, 25, (camera.height, camera.width, 1))
    image = np.broadcast_to(150 + grain, (camera.height, camera.width, 3)).astype(np.uint8)
    image = np.ascontiguousarray(image)
    for shape, colour, pos in items:
        pixels = camera.project(SHAPES[shape] + pos)[0]
        hull = cv2.convexHull(np.round(pixels * 16).astype(np.int32))
        cv2.fillConvexPoly(image, hull, RGB[colour], lineType=cv2.LINE_AA, shift=4)
    knob = np.round(camera.project(np.add(tool, (0, 0, 0.08)))[0]).astype(int)
    cv2.circle(image, knob.tolist(), 3, (240, 200, 40), -1)
    return image


def joints_at(tool, gripper: float) -> np.ndarray:
    """Return joints that bring the tool there, fingers down."""
    start = np.array([0.0, -40.0, 38.0, 88.0, 90.0, gripper])
    for _ in range(30):
        start = inverse(np.asarray(tool), start=start, lower=-LIMIT, upper=LIMIT, roll=90.0)
    return start


@pytest.fixture(scope="session")
def cameras() -> Mapping[str, CameraModel]:
    return load_cameras(CAMERAS)


@pytest.fixture(scope="session")
def film(cameras) -> Callable[..., Clip]:
    """Make a clip of steps, each (items, tool position, measured gripper, commanded gripper)."""

    def make(goal, steps, *, hz=10.0):
        joints = [joints_at(tool, measured) for _, tool, measured, _ in steps]
        targets = [np.array([*row[:5], step[3]]) for row, step in zip(joints, steps, strict=True)]
        return Clip(
            goal=goal,
            stamps=np.arange(len(steps)) / hz,
            frames={
                name: [encode_jpeg(draw(camera, items, tool)) for items, tool, *_ in steps]
                for name, camera in cameras.items()
            },
            joint_pos=np.array(joints),
            joint_target=np.array(targets),
        )

    return make


@pytest.fixture(scope="session")
def clip(film) -> Clip:
    """Reach for a red cube: at first away from it, then at the target point."""
    cube = np.array([0.22, 0.03, 0.0125])
    items = [("cube", "red", cube)]
    steps = [(items, np.add(cube, (0, 0, height)), 45.0, 45.0) for height in (0.14, 0.09, 0.06)]
    return film("Reach for the red cube.", steps)


@contextmanager
def _running(app, port_file):
    server = server_of(app)
    with SERVICE.listen("127.0.0.1", 0, token=None, allow_remote=False) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://{announce(port_file, listening)}"
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Callable:
    """Serve a model on a real socket: `with served(model, token=...) as url`."""
    port_file = tmp_path_factory.mktemp("served") / "port"

    def serve(model, *, token=None, **options):
        tokens = {"tokens": OneToken(token)} if token else {}
        return _running(create_app(model, **tokens, **options), port_file)

    return serve

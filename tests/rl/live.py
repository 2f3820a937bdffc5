"""An arm's process that is none, and a dashboard, both on real sockets."""

import threading
from contextlib import contextmanager

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from rl.live_arms import ArmAddress, LinkedArms
from rl.live_dashboard import create_app
from rl.live_runs import LiveRun
from robot.camera import encode_jpeg
from robot.http_server import listen, server_of

PICTURE = encode_jpeg(np.full((48, 64, 3), (200, 60, 40), np.uint8))
TOKEN = "operate-operate-operate-operate-operate"


class FakeArm:
    """Answers like an arm's process, and remembers what it was told."""

    def __init__(self):
        self.begin()
        self.app = FastAPI()
        self.app.get("/health")(self.health)
        self.app.get("/ready")(self.health)
        self.app.get("/state")(self.state)
        self.app.get("/frames/{camera}.jpg")(self.frame)
        self.app.post("/stop")(self.stop)
        self.app.post("/reset")(self.reset)

    def begin(self):
        self.mode, self.reason, self.asked = "RUN", "train-arm01 drives it", []
        self.stamp, self.pictures = 0.0, 0

    async def health(self):
        return {"status": "ok"}

    async def state(self):
        self.stamp += 0.1
        goal = [10.0, -20.0, 30.0, 40.0, 0.0, 50.0]
        return {
            "stamp": self.stamp,
            "mode": self.mode,
            "reason": self.reason,
            "joint_pos": [10.0, -20.0, 21.0, 40.0, 0.0, 50.0],
            "joint_target": goal,
            "sent": goal,
            "health": {
                "load": [0.1] * 6,
                "current_a": [0.1] * 6,
                "voltage_v": [7.4] * 6,
                "temperature_c": [33.0, 41.0, 66.0, 35.0, 31.0, 36.0],
            },
            "faults": ["elbow_flex stays 9° short for 2 s"],
            "events": {"step:elbow_flex": 12},
            "clients": ["train-arm01"],
            "calibration": "abcdef012345",
            "cycle_s": 0.002,
            "late_s": 0.003,
        }

    async def frame(self, camera: str):
        self.pictures += 1
        return Response(PICTURE, media_type="image/jpeg", headers={"X-Stamp": "1.0"})

    async def stop(self, request: Request):
        self.asked.append(("stop", await request.json()))
        self.mode, self.reason = "STOP", "the dashboard's stop button"
        return {"mode": self.mode}

    async def reset(self, request: Request):
        given = request.headers.get("authorization")
        self.asked.append(("reset", given))
        if given != f"Bearer {TOKEN}":
            return JSONResponse({"code": "unauthorised", "message": "send a token"}, 401)
        self.mode, self.reason = "HOLD", "reset"
        return {"mode": self.mode}


@contextmanager
def served(app):
    """Serve an application on a free port; its address."""
    server = server_of(app)
    with listen("127.0.0.1", 0, guarded=False) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


@contextmanager
def dashboard(urls, runs, *, links=None):
    """Serve a dashboard of arms by name and address; its address."""
    found = [ArmAddress(arm_id=n, url=url, cameras=("front",)) for n, url in urls.items()]
    arms = LinkedArms(found)
    try:
        with served(create_app(arms, LiveRun(runs), links or {})) as url:
            yield url
    finally:
        arms.close()

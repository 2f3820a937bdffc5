"""What runs on this network is reached past the proxies of the environment."""

import ast
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from rl.live_arms import ArmAddress, ArmLink
from rl.live_dashboard import Service
from robot.arm_config import ArmConfig
from robot.doctor.camera_watch import ServedCamera
from robot.doctor.links import check_service, state_of
from tests.rl.live import PICTURE, FakeArm, dashboard, served

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path
    for package in ("rl", "envs", "rewarder", "policy_server", "robot", "ops")
    for path in (ROOT / package).rglob("*.py")
)
ASKS = {"get", "post", "put", "delete", "request", "stream", "Client", "AsyncClient"}


@pytest.fixture
def arm(monkeypatch):
    """Serve an arm where the environment names a proxy that is not there; its address."""
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with served(FakeArm().app) as url:
        yield url


def test_the_environment_s_proxy_would_be_in_the_way(arm):
    with pytest.raises(httpx.ConnectError):
        httpx.get(arm)


def test_the_dashboard_stops_and_sees_an_arm(arm):
    address = ArmAddress(arm_id="arm01", url=arm, cameras=("front",))
    with closing(ArmLink(address)) as link:
        assert link.stop().status == 200
        assert link.picture("front") == PICTURE


def test_the_dashboard_reaches_services(arm, tmp_path):
    with dashboard({}, tmp_path, links={"REWARDER": Service(arm)}) as url:
        assert httpx.get(f"{url}/run", trust_env=False).json()["links"]["REWARDER"]["ok"]


def test_the_doctor_reaches_processes_and_services(arm, monkeypatch):
    monkeypatch.setenv("REWARDER_URL", arm)
    config = replace(ArmConfig.load("arm01"), port_number=httpx.URL(arm).port)
    assert state_of(config)["mode"] == "RUN"
    [check] = check_service("rewarder", "REWARDER_URL", start="make", token="REWARDER_TOKEN")
    assert check.code in {"rewarder.ready", "rewarder.slow"}


def test_the_doctor_sees_an_arm_s_cameras(arm):
    with closing(ServedCamera(arm, "front", 0.1, {})) as camera:
        assert camera.next(1.0).shape == (48, 64, 3)


def test_no_client_trusts_the_environment():
    trusting = [f"{path.relative_to(ROOT)}:{line}" for path in SOURCES for line in _trusting(path)]
    assert trusting == []


def _trusting(path):
    """Return the lines on which a file asks by HTTP as the environment says."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(ast.Name("httpx"), name)) if name in ASKS:
                given = {word.arg: word.value for word in node.keywords}
                if not isinstance(given.get("trust_env"), ast.Constant):
                    yield node.lineno

"""Us and the alternatives, measured in one run: `make bench`.

`ARGS="--only learner guard env"` is the quick part.

Speeds are of alternating rounds in one process, so that a ratio holds where single figures drift.
`lift` and `realtime` train until 80 % of the last 40 practice episodes truly succeeded, exploration
and all; they take about 20 and 15 minutes. `cycle`, `jitter` and `recorder` are of emulated arms
and take 2, 1 and 6 minutes.
"""

import argparse
import atexit
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ops.bench_learner import measure
from robot.revision import git_revision

WINDOW, ENOUGH = 40, 0.8
GIVE_UP_S = 900
ROUNDS, ROUND_S = 5, 2.0
COMMANDS = 20_000
RECORD_S = 300.0

type Row = Mapping[str, object]


def bench_learner() -> list[Row]:
    """Compare updates a CPU second with stock SB3 and the same networks."""
    rows = [measure(hidden) for hidden in ([256, 256], [128, 128])]
    return [
        {
            "what": f"updates per CPU second, {row.hidden}, batch {row.batch_size}",
            "ours": row.updates_per_cpu_s,
            "other": row.sb3_updates_per_cpu_s,
            "than": "SB3 SAC, same LayerNorm networks",
            "ratio": row.ratio,
            **asdict(row),
        }
        for row in rows
    ]


def bench_guard() -> list[Row]:
    """Time the guard on a random walk."""
    from envs.twin_env import SAFETY  # noqa: PLC0415 - each part brings its own imports
    from robot.guard import Guard  # noqa: PLC0415
    from robot.limits import SafetyLimits  # noqa: PLC0415

    guard, rng = Guard(SafetyLimits.load(SAFETY)), np.random.default_rng(0)
    last = np.array([0.0, -30.0, 20.0, 85.0, 90.0, 30.0])
    times: list[float] = []
    for _ in range(COMMANDS):
        wanted = last + rng.uniform(-8, 8, 6)
        start = time.perf_counter()
        command = guard.check(wanted, last=last, measured=last, dt=0.05)
        times.append(1e6 * (time.perf_counter() - start))
        last = command.joint_target
    p50, p99 = np.percentile(times, [50, 99])
    row: Row = {"what": "guard, microseconds a command (p50, p99)", "ours": round(float(p50), 1)}
    return [{**row, "p99_us": round(float(p99), 1), "commands": len(times)}]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One way to simulate an arm and its table, with two frames a step."""

    step: Callable[[], object]
    step_s: float
    """Simulated seconds a step."""
    text: str


def bench_env() -> list[Row]:
    """Compare environment steps with raw MuJoCo, and with so101-nexus's PickLift.

    PickLift's step is shorter than ours, so that it is compared by simulated time as well.
    """
    ours, raw, nexus = sides = (_ours(), _raw(), _nexus())
    rounds = [[_rate(side.step) for side in sides] for _ in range(ROUNDS + 1)][1:]
    rates = dict(zip(sides, zip(*rounds, strict=True), strict=True))
    steps, seconds = "environment steps a second", "simulated seconds a second"
    return [
        compare(steps, rates[ours], rates[raw], than=raw.text),
        compare(steps, rates[ours], rates[nexus], than=nexus.text),
        compare(
            seconds,
            [rate * ours.step_s for rate in rates[ours]],
            [rate * nexus.step_s for rate in rates[nexus]],
            than=nexus.text,
        ),
    ]


def _rate(step: Callable[[], object]) -> float:
    """Return steps a second, over `ROUND_S` seconds."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < ROUND_S:
        step()
        count += 1
    return count / (time.perf_counter() - start)


def compare(what: str, ours: Sequence[float], other: Sequence[float], *, than: str) -> Row:
    """Return medians over the rounds; the ratio is the median of the rounds' ratios."""
    ratios = [a / b for a, b in zip(ours, other, strict=True)]
    return {
        "what": f"{what}, 2 frames of 96x96 a step",
        "ours": round(statistics.median(ours), 2),
        "other": round(statistics.median(other), 2),
        "than": than,
        "ratio": round(statistics.median(ratios), 2),
    }


def _ours() -> Side:
    from envs.arm_env import STEP_S  # noqa: PLC0415
    from envs.twin_env import make_task_env  # noqa: PLC0415

    env, rng = make_task_env("lift"), np.random.default_rng(0)
    env.reset(seed=0)

    def step() -> None:
        late = env.step(rng.uniform(-1, 1, 4).astype(np.float32))[3]
        if late:
            env.reset()

    return Side(step=step, step_s=STEP_S, text="this environment")


def _raw() -> Side:
    import mujoco  # noqa: PLC0415

    from envs.arm_env import STEP_S  # noqa: PLC0415
    from rewarder.goal import task_goal  # noqa: PLC0415
    from robot.twin_model import PRESETS, TIMESTEP_S, shared_model  # noqa: PLC0415

    model = shared_model(task_goal("lift").layout, PRESETS["stiff"])
    data, renderer = mujoco.MjData(model), mujoco.Renderer(model, 96, 96)
    atexit.register(renderer.close)
    physics_steps = round(STEP_S / TIMESTEP_S)

    def step() -> None:
        mujoco.mj_step(model, data, physics_steps)
        for camera in ("front", "side"):
            renderer.update_scene(data, camera)
            renderer.render()

    text = f"{physics_steps} mj_step and the frames of the same model, nothing else"
    return Side(step=step, step_s=STEP_S, text=text)


def _nexus() -> Side:
    from so101_nexus.config import PickConfig, RenderConfig  # noqa: PLC0415
    from so101_nexus.mujoco.pick_env import PickLiftEnv  # noqa: PLC0415
    from so101_nexus.observations import (  # noqa: PLC0415
        JointPositions,
        OverheadCamera,
        WristCamera,
    )
    from so101_nexus.rendering import RenderingQuality  # noqa: PLC0415

    from envs.arm_env import STEP_S  # noqa: PLC0415

    cameras = [WristCamera(width=96, height=96), OverheadCamera(width=96, height=96)]
    plain = RenderConfig(quality=RenderingQuality(msaa_samples=0, shadows=False))
    # Its types of observations and steps are partly unknown.
    env: Any = PickLiftEnv(PickConfig(observations=[JointPositions(), *cameras], render=plain))
    env.reset(seed=0)
    env.action_space.seed(0)
    # Renderers that are collected at exit, after OpenGL has ended, complain.
    atexit.register(env.close)
    text = f"so101-nexus PickLift, no shadows, {env.control_dt:g} s a step against our {STEP_S:g} s"
    return Side(step=lambda: env.step(env.action_space.sample()), step_s=env.control_dt, text=text)


def bench_lift() -> list[Row]:
    """Compare the time until lift works: four arms on Ray, in one process, and `SAC.learn()`."""
    ray = _train("task=lift", "cluster=ray")
    rows: list[Row] = [{"what": "seconds to 80 % on lift, cluster=ray", "ours": ray}]
    others = {
        "cluster=local": _train("task=lift", "cluster=local"),
        "SB3 SAC.learn(), same networks, observations and update ratio": _learn("lift"),
    }
    rows += [
        {
            "what": "seconds to 80 % on lift",
            "ours": ray,
            "other": other,
            "than": name,
            "ratio": _ratio(other, ray),
        }
        for name, other in others.items()
    ]
    return rows


def bench_realtime() -> list[Row]:
    """Compare four arms with one at the pace of real arms, on reach."""
    pace = ("task=reach", "arm.realtime=true", "steps=20000")
    four, one = _train(*pace), _train(*pace, "arms=[arm01]")
    return [
        {
            "what": "seconds to 80 % on reach at real-time pace, four arms",
            "ours": four,
            "other": one,
            "than": "one arm",
            "ratio": _ratio(one, four),
        }
    ]


def _ratio(other: float | None, ours: float | None) -> float | None:
    return round(other / ours, 2) if other and ours else None


def _train(*overrides: str) -> float | None:
    """Return the seconds from a training run's start until its practice succeeds, if it does."""
    with tempfile.TemporaryDirectory() as runs:
        words = [*overrides, f"runs={runs}", "evaluation_episodes=0"]
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "rl.train", *words], stdout=subprocess.DEVNULL
        )
        try:
            while process.poll() is None and time.monotonic() - started < GIVE_UP_S:
                if works(_practised(Path(runs))):
                    return round(time.monotonic() - started, 1)
                time.sleep(1.0)
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    return None


def _practised(runs: Path) -> list[bool]:
    """Return the truth about every episode so far."""
    lines = [
        line for file in runs.glob("*/episodes.jsonl") for line in file.read_text().splitlines()
    ]
    return [bool(json.loads(line)["truth"]["success"]) for line in lines if line.endswith("}")]


def works(done: Sequence[bool]) -> bool:
    """Return whether enough of the newest episodes succeeded."""
    return len(done) >= WINDOW and sum(done[-WINDOW:]) >= ENOUGH * WINDOW


def _learn(task: str) -> float | None:
    """Return what `_train` returns, of Stable-Baselines3's own loop."""
    from ops.bench_sb3 import seconds_to_success  # noqa: PLC0415

    return seconds_to_success(task, works=works, give_up_s=GIVE_UP_S)


def bench_cycle() -> list[Row]:
    """Compare an arm's whole cycle with LeRobot's own on one emulated bus."""
    from ops.bench_arm import cycle  # noqa: PLC0415

    return cycle()


def bench_jitter() -> list[Row]:
    """Measure how late the cycles of four arms' processes begin."""
    from ops.bench_arm import jitter  # noqa: PLC0415

    return jitter()


def bench_recorder(seconds: float = RECORD_S) -> list[Row]:
    """Count what a recording of two cameras drops, and what it costs."""
    from ops.bench_recorder import recorder  # noqa: PLC0415

    return recorder(seconds)


PARTS: Mapping[str, Callable[[], list[Row]]] = {
    "learner": bench_learner,
    "guard": bench_guard,
    "env": bench_env,
    "lift": bench_lift,
    "realtime": bench_realtime,
    "cycle": bench_cycle,
    "jitter": bench_jitter,
    "recorder": bench_recorder,
}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    text = "seconds that `recorder` records, %(default)g unless given"
    parser.add_argument("--recorder-s", type=float, default=RECORD_S, help=text)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    parts = {**PARTS, "recorder": partial(bench_recorder, options.recorder_s)}
    rows: list[Row] = []
    for name in options.only:
        print(f"{name} ...", file=sys.stderr)
        for row in parts[name]():
            rows.append({"part": name, **row})
            print(line_of(row))
    if options.json:
        options.json.write_text(json.dumps(_result(rows), indent=2) + "\n")
    return 0


def line_of(row: Row) -> str:
    """Return a row as a line to read."""
    text = f"{row['what']}: {row['ours']}"
    if "p99_us" in row:
        text += f", {row['p99_us']}"
    if "other" in row:
        text += f" against {row['other']} ({row['than']}), ratio {row['ratio']}"
    if row.get("asked"):
        text += f"; asked: {row['asked']}"
    return text


def _result(rows: list[Row]) -> dict[str, Any]:
    return {
        "command": f"python -m ops.bench {' '.join(sys.argv[1:])}".strip(),
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        "git_revision": git_revision(),
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())

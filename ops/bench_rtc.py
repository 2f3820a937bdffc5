"""What Real-Time Chunking does for arms whose policy is far away: `make bench-rtc`.

The scripted expert is served over the real wire and does the place task on emulated arms at 20 Hz,
with and without continued rows, at several added delays. Success is the emulators' ground truth.
`python -m ops.bench_rtc arm=emulated steps=8000 delays=0,100,200 json=docs/rtc.json`.
"""

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from rl.statistics import wilson
from robot.journal import Episode, read_episode
from robot.revision import git_revision
from robot.words import UsageError, parse_words

ROOT = Path(__file__).resolve().parent.parent
KNOWN = {
    **{"arm": "emulated", "arms": "arm01,arm02,arm03,arm04", "steps": "8000", "seed": "0"},
    **{"delays": "0,100,200", "rtc": "1,0", "json": ""},
}
READY_S = 60.0
HZ = 20.0
THRESHOLD = "policy.threshold=0.9"
"""The expert cannot see what it imagines: it is asked again as soon as may be."""
TITLE = "the scripted expert, served: place on arms at 20 Hz"

type Row = Mapping[str, object]


@contextmanager
def expert(task: str = "place") -> Generator[str]:
    """Serve the scripted expert for a task on a free port and yield its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = [f"policy=scripted:{task}", f"port={port}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "policy_server.server", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_ready(f"http://127.0.0.1:{port}/readyz")
        yield f"ws://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


def _await_ready(url: str) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise SystemExit("the policy server did not come up")


def practise(url: str, words: Sequence[str], runs: Path) -> list[Episode]:
    """Run episodes by the policy at `url` and return them."""
    command = [sys.executable, "-m", "rl.train", "policy=remote", "learner=none", f"runs={runs}"]
    environment = os.environ | {"POLICY_SERVER_URL": url}
    subprocess.run([*command, *words], cwd=ROOT, env=environment, check=True)
    return [read_episode(path) for path in sorted(runs.glob("*/journals/*/episodes/*.npz"))]


def row_of(episodes: Iterable[Episode], *, rtc: bool, delay_ms: int) -> Row:
    """Return the figures of one condition; the loop's are by the stamps of the arm's own clock."""
    episodes = list(episodes)
    infos = [episode.info for episode in episodes]
    truths = [bool(info.truth and info.truth["success"]) for info in infos]
    streams = [cast("Mapping[str, float]", info.config["streaming"]) for info in infos]
    minutes = sum(stream["steps"] for stream in streams) / HZ / 60
    total = {name: sum(stream[name] for stream in streams) for name in ("steps", "starved_steps")}
    lower, upper = wilson(sum(truths), len(truths))
    loops = [_loop_s(episode) for episode in episodes if episode.steps]
    return {
        "continued": rtc,
        "added_delay_ms": delay_ms,
        "successes": sum(truths),
        "episodes": len(truths),
        "wilson95": [round(lower, 3), round(upper, 3)],
        "delay_steps_max": max(stream["delay_steps_max"] for stream in streams),
        "seam_jump": round(float(np.mean([stream["seam_jump_mean"] for stream in streams])), 4),
        "underflows_per_minute": round(sum(s["underflows"] for s in streams) / minutes, 2),
        "starved_share": round(total["starved_steps"] / total["steps"], 5),
        "underflows": sum(int(stream["underflows"]) for stream in streams),
        "minutes": round(minutes, 3),
        "loop_hz": round(sum(steps for steps, _ in loops) / sum(s for _, s in loops), 2),
        "loop_hz_slowest": round(min(steps / seconds for steps, seconds in loops), 2),
    }


def _loop_s(episode: Episode) -> tuple[int, float]:
    """Return the steps of an episode and how many seconds they took."""
    first = episode.first_step
    return episode.steps, float(episode.stamps[first + episode.steps] - episode.stamps[first])


def table(rows: Sequence[Row], *, title: str = TITLE) -> Table:
    """Return the rows for a terminal."""
    shown = Table(title=title)
    for name in rows[0]:
        shown.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        shown.add_row(*(str(value) for value in row.values()))
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all conditions, print and write them; return the exit code."""
    try:
        words = parse_words(sys.argv[1:] if argv is None else argv, known=KNOWN)
        delays = [int(part) for part in words["delays"].split(",")]
        steps = int(words["steps"])
    except (UsageError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="rtc-") as scratch, expert() as url:
        for delay_ms in delays:
            for rtc in (part == "1" for part in words["rtc"].split(",")):
                settings = [f"arm={words['arm']}", f"steps={steps}", f"seed={words['seed']}"]
                settings.append(f"arms=[{words['arms']}]")
                settings += [f"policy.rtc={rtc}", f"policy.delay_s={delay_ms / 1e3}", THRESHOLD]
                episodes = practise(url, settings, Path(scratch) / f"{delay_ms}-{rtc}")
                rows.append(row_of(episodes, rtc=rtc, delay_ms=delay_ms))
                _write(words, rows)
                Console().print(table(rows))
    return 0


def _write(words: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Write what is known so far, where a file is asked for."""
    if path := words["json"]:
        facts = {
            "rows": rows,
            "arm": words["arm"],
            "seed": int(words["seed"]),
            "revision": git_revision(),
            "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
            "command": " ".join(["python", "-m", "ops.bench_rtc", *sys.argv[1:]]),
        }
        Path(path).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

"""A link that delays and loses packets: two network namespaces, a TUN device in each, and a heap.

Both ends are the kernel's own TCP; what passes between them waits here for its time. It takes root
on Linux. Kernels without `sch_netem` can do no more, and need no more than this.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

# linux/if_tun.h
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_MTU, _QUEUE = 1500, 5000
SERVER, ARMS = "10.91.0.1", "10.91.0.2"
DEVICE = "bench0"


class LanMissing(Exception):
    """No such link can be had here; the message says why."""


class _End:
    """A network namespace with one device; what is started in its thread lives in it."""

    def __init__(self, here: str, there: str) -> None:
        self._pool = ThreadPoolExecutor(1)
        try:
            self.device = self._pool.submit(_opened, here, there).result()
        except BaseException:
            self._pool.shutdown()
            raise

    def popen(self, command: Sequence[str], **settings: object) -> "subprocess.Popen[str]":
        """Start a program inside."""
        start = self._pool.submit(subprocess.Popen[str], command, **settings)  # pyright: ignore
        return start.result()

    def close(self) -> None:
        self._pool.shutdown()
        os.close(self.device)


def _opened(here: str, there: str) -> int:
    """Give this thread a namespace of its own and return the file of the device in it."""
    os.unshare(os.CLONE_NEWNET)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH14x", DEVICE.encode(), _IFF_TUN_NO_PI))
    for words in (
        f"ip addr add {here} peer {there} dev {DEVICE}",
        f"ip link set dev {DEVICE} mtu {_MTU} txqueuelen {_QUEUE} up",
        "ip link set dev lo up",
    ):
        subprocess.run(words.split(), check=True, capture_output=True)
    return device


class Lan:
    """Two ends and what is between them, as long as a `with` lasts."""

    def __init__(self, *, delay_s: float, loss: float, seed: int = 0) -> None:
        """Delay each packet by `delay_s` each way, and lose a share of them, each for itself.

        Raise `LanMissing` where that is not allowed or not known.
        """
        self._delay_s, self._loss = delay_s, loss
        self._random = random.Random(seed)  # noqa: S311 - losses, no secrets
        self.passed = self.lost = 0
        try:
            self.server = _End(SERVER, ARMS)
            self.arms = _End(ARMS, SERVER)
        except (OSError, AttributeError, subprocess.CalledProcessError) as error:
            raise LanMissing(f"no network namespace with a TUN device: {error}") from error
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._relay, name="lan", daemon=True)

    def __enter__(self) -> Self:
        """Begin to pass packets on."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End both devices."""
        self._stopping.set()
        self._thread.join(timeout=5.0)
        self.server.close()
        self.arms.close()

    def _relay(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        other = {
            self.server.device: self.arms.device,
            self.arms.device: self.server.device,
        }
        while not self._stopping.is_set():
            left = waiting[0][0] - time.monotonic() if waiting else 0.1
            for device in select.select(list(other), [], [], max(0.0, left))[0]:
                self._take_in(device, other[device], waiting)
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(waiting)
                _write(target, packet)

    def _take_in(
        self, device: int, target: int, waiting: list[tuple[float, int, int, bytes]]
    ) -> None:
        """Read all that a device has sent, and lose some."""
        while True:
            try:
                packet = os.read(device, _MTU + 100)
            except BlockingIOError:
                return
            self.passed += 1
            if self._random.random() < self._loss:
                self.lost += 1
                continue
            heapq.heappush(waiting, (time.monotonic() + self._delay_s, self.passed, target, packet))


def _write(device: int, packet: bytes) -> None:
    try:
        os.write(device, packet)
    except BlockingIOError:
        # A queue that is full loses a packet, as a switch's does.
        return


def settings_of(cwd: Path, environment: Mapping[str, str]) -> dict[str, object]:
    """Return how a program is started inside."""
    return {
        "cwd": cwd,
        "env": {**os.environ, **environment},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
        "text": True,
    }

"""Set up a Mac beside an arm, or an NVIDIA host, and check that what it needs is really there.

`python -m ops.bootstrap mac|gpu` installs the extras of that machine, then looks at the machine:
each check says in one sentence what it found, and a missing device ends with exit code 3 and the
line that mends it.
"""

import importlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
DEVICE_MISSING = 3


class CheckError(Exception):
    """What a machine lacks, and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What one kind of machine must have."""

    extras: tuple[str, ...]
    """Extras of `pyproject.toml` that are installed."""
    system: str
    """What `platform.system()` says there."""
    checks: tuple[Callable[[], str], ...]
    """Each returns a sentence about what it found, or raises CheckError."""


def find_uv() -> str:
    """Return the uv that makes this environment."""
    beside = Path(sys.executable).parent / "uv"
    found = shutil.which("uv") or (str(beside) if beside.exists() else None)
    if found is None:
        raise CheckError("uv is gone: make setup finds or installs it")
    return found


def install(extras: Sequence[str]) -> None:
    """Add `extras` to the environment, as `uv.lock` has them; keep what is there."""
    options = [word for extra in extras for word in ("--extra", extra)]
    command = [find_uv(), "sync", "--frozen", "--inexact", *options]
    print(f"installing: {' '.join(command[1:])}", flush=True)
    if subprocess.run(command, cwd=ROOT, check=False).returncode:
        raise CheckError(f"packages could not be installed by {' '.join(command)}")


def matmul_error(device: str) -> float:
    """Return the largest relative error of a product that `device` computed, against the CPU's."""
    left, right = torch.randn(256, 256), torch.randn(256, 256)
    expected = left @ right
    computed = (left.to(device) @ right.to(device)).cpu()
    return float((computed - expected).abs().max() / expected.abs().max())


def check_product(device: str) -> str:
    """Check that `device` multiplies matrices correctly."""
    error = matmul_error(device)
    # TF32 and reduced accumulation stay well under this; a broken driver does not.
    if not error < 1e-2:
        raise CheckError(
            f"{device} computes wrongly: a product is off by {error:.1%}; update the driver"
        )
    return f"{device} multiplies matrices, off by at most {error:.1e}"


def check_cuda() -> str:
    """Check that PyTorch sees an NVIDIA GPU and can compute on it."""
    if not torch.cuda.is_available():
        raise CheckError("PyTorch sees no CUDA device: nvidia-smi shows whether the driver does")
    _, memory = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name(0)}, {memory / 2**30:.0f} GiB; {check_product('cuda')}"


def check_mps() -> str:
    """Check that PyTorch sees Apple's GPU and can compute on it."""
    if not torch.backends.mps.is_available():
        raise CheckError("PyTorch sees no MPS device: it needs Apple silicon and macOS 14 or later")
    return check_product("mps")


def check_loads(module: str, distribution: str) -> str:
    """Check that a library that was just installed can be imported."""
    importlib.import_module(module)
    return f"{distribution} {version(distribution)} loads"


def check_transformers() -> str:
    """Check that the library of the large models loads."""
    return check_loads("transformers", "transformers")


def check_lerobot() -> str:
    """Check that LeRobot and the driver of the servos load."""
    return f"{check_loads('scservo_sdk', 'feetech-servo-sdk')}; {check_loads('lerobot', 'lerobot')}"


def serial_ports(folder: Path) -> list[Path]:
    """Return what looks like a servo adapter among the devices of a Mac."""
    return sorted(folder.glob("tty.usb*"))


def check_ports() -> str:
    """Say which serial ports an arm could be on; to have none yet is no failure."""
    ports = serial_ports(Path("/dev"))
    return "serial ports: " + (
        ", ".join(map(str, ports)) or "none; plug an arm's adapter in when you have it"
    )


MACHINES = {
    "mac": Machine(
        extras=("train", "arm"), system="Darwin", checks=(check_mps, check_lerobot, check_ports)
    ),
    "gpu": Machine(
        extras=("train", "serve"), system="Linux", checks=(check_cuda, check_transformers)
    ),
}


def bootstrap(
    machine: Machine, *, system: str, install: Callable[[Sequence[str]], None] = install
) -> None:
    """Install what `machine` needs and check it; raise CheckError at the first thing missing."""
    if system != machine.system:
        raise CheckError(f"this is {system}, and this set-up is for {machine.system}")
    install(machine.extras)
    for check in machine.checks:
        print(f"ok: {check()}", flush=True)


def main(argv: Sequence[str]) -> int:
    """Set up the machine that `argv` names and return the exit code."""
    if len(argv) != 1 or argv[0] not in MACHINES:
        print(f"usage: python -m ops.bootstrap {'|'.join(MACHINES)}", file=sys.stderr)
        return 2
    try:
        bootstrap(MACHINES[argv[0]], system=platform.system())
    except (CheckError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return DEVICE_MISSING
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

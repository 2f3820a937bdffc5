"""What a residual corrects: its base policy, named, served where need be, and remembered."""

import json
import tempfile
from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, cast

from policy_server.backends.residual import RECIPE
from rl.own_policy_server import OwnPolicyServer
from rl.run_record import BadRun, read_json
from robot.sealed import seal

MISSING = 3
"""Exit code where something that a run needs is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a learnt correction is of no use without; kept beside it as `residual.json`."""

    base: str
    """Name of a policy that a server of our own serves, else the URL of one elsewhere."""
    own: bool
    """Whether it is a name."""
    checkpoint: str
    """The base's, as its spec says it."""
    settings: Mapping[str, Any]
    """Keywords of `rl.residual.residual_policy`."""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return what a policy's folder says, None where the policy corrects nothing.

        Raise `BadRun` where it is damaged.
        """
        path = folder / RECIPE
        if not path.is_file():
            return None
        try:
            return cls(**cast("dict[str, Any]", read_json(path)))
        except TypeError as error:
            raise BadRun(f"{path} is of another revision: {error}; train again") from None

    def keep(self, folder: Path) -> None:
        """Write this beside the policy; raise `BadRun` where that corrects something else."""
        if (folder / RECIPE).is_file():
            check_recipe(folder, self)
        seal(folder / RECIPE, (json.dumps(asdict(self), indent=2) + "\n").encode())


def check_recipe(policy: Path, acting: Recipe | None) -> None:
    """Raise `BadRun` where a stored policy is not for what acts: a base, or None for no base."""
    kept, run = Recipe.read(policy), policy.parent
    if kept is None and acting is None:
        return
    if kept is None:
        raise BadRun(f"{run} corrects no other policy; leave policy=residual out", code=2)
    if acting is None:
        raise BadRun(f"{run} corrects {kept.base}: add policy=residual policy.url=…", code=2)
    if acting.checkpoint != kept.checkpoint:
        bases = f"{kept.base} ({kept.checkpoint}), not {acting.base} ({acting.checkpoint})"
        raise BadRun(f"{run} corrects {bases}; serve the base it began with", code=2)
    if acting.settings["alpha"] != kept.settings["alpha"]:
        shares = f"{kept.settings['alpha']}, not {acting.settings['alpha']}"
        raise BadRun(f"{run} was learnt with policy.alpha={shares}: its steps would lie", code=2)


@contextmanager
def own_base(name: str) -> Generator[OwnPolicyServer]:
    """Serve a policy of this name while this lasts; it answers from the start."""
    with tempfile.TemporaryDirectory(prefix="base_policy_") as logs:
        server = OwnPolicyServer(name, Path(logs) / "policy_server.log")
        try:
            server.wait()
            yield server
        finally:
            server.close()


@contextmanager
def bases_of(policies: Iterable[Path]) -> Generator[Mapping[Path, str]]:
    """Have the bases of stored policies served while this lasts; return the URL of each."""
    with ExitStack() as stack:
        urls: dict[Path, str] = {}
        for folder in sorted(set(policies)):
            if recipe := Recipe.read(folder):
                own = stack.enter_context(own_base(recipe.base)) if recipe.own else None
                urls[folder] = own.url if own else recipe.base
        yield urls

"""What the command-line tools of reward models share: settings, the model, the set, progress."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.progress import track

from rewarder.clip_set import BadSet, ClipSet, SetClip, open_set
from rewarder.curves import BadCalibration
from rewarder.reward import NoScore, RewardModel
from robot.words import UsageError

ROOT = Path(__file__).resolve().parents[1]
CONF, SETS = ROOT / "conf", ROOT / "rewarder" / "sets"
TEXTS = ("set", "out", "json", "rater", "reward.calibration")
"""Words whose values are text, never Hydra's syntax."""


@dataclass(frozen=True, slots=True, eq=False)
class Composed:
    """A tool's settings, and the name of the reward model among them."""

    cfg: DictConfig
    reward: str

    def model(self) -> RewardModel:
        """Return the reward model; raise `UsageError` where it cannot be built."""
        try:
            return instantiate(self.cfg.reward, _convert_="all")
        except (InstantiationException, OmegaConfBaseException) as error:
            raise UsageError(
                f"the reward model {self.reward} cannot be built: {error.__cause__ or error}"
            ) from error


def composed(config: str, words: Sequence[str]) -> Composed:
    """Return `conf/<config>.yaml` with the words of a command line; raise `UsageError`."""
    overrides = [_quoted(word) for word in words]
    try:
        with initialize_config_dir(version_base=None, config_dir=str(CONF)):
            cfg = compose(config, overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        what = str(error).partition("\nTo append")[0].partition("\nConfig search path")[0]
        raise UsageError(f"{what} See conf/{config}.yaml for what there is to set") from error
    return Composed(cfg, str(cfg.hydra.runtime.choices.reward))


def find_set(name: str) -> ClipSet:
    """Return a set by its folder, or by its name among those shipped; raise `BadSet`."""
    shipped = SETS / name
    return open_set(shipped if shipped.is_dir() and not Path(name).is_dir() else Path(name))


def watched(found: ClipSet, names: Collection[str], what: str) -> Iterator[tuple[str, SetClip]]:
    """Return the clips of these names, and show in a terminal how far it has come."""
    clips = [(name, clip) for name, clip in found.clips.items() if name in names]
    return iter(track(clips, description=what, transient=True, disable=not sys.stdout.isatty()))


def run_tool(body: Callable[[Sequence[str]], int]) -> int:
    """Run a tool with the command line's words and return its exit code; say errors in a line."""
    try:
        return body(sys.argv[1:])
    except KeyboardInterrupt:
        return 130
    except (UsageError, BadSet) as error:
        return _say(error, 2)
    except (BadCalibration, NoScore, OSError) as error:
        return _say(error, 1)


def _say(error: Exception, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
    return code


def _quoted(word: str) -> str:
    """Return `name=text` with the text quoted for Hydra, if the name is one of `TEXTS`."""
    name, equals, text = word.partition("=")
    if name not in TEXTS or not text or text == "null":
        return word
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"{name}{equals}'{escaped}'"

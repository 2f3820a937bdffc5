"""Fine-tune a served policy on recordings of this arm: `make finetune POLICY=act DATASET=… OUT=…`.

A policy that reads a goal learns it in many words: each sample's sentence is replaced at random by
one that means the same, unless `paraphrase=0`.

Words: `policy=`, `dataset=` (a folder, or the name of a recording), `out=` (a folder that
`make serve-pi POLICY=…` takes), `steps=`, `base=` (a checkpoint's folder or hub id; without it the
published weights, or for act and diffusion none), `batch_size=`, `rename=front:camera1,…` (a camera
of the dataset, and what the policy calls it), `freeze_vision=1`, `expert_only=1`, `lora=8` (rank),
`learning_rate=`, `save_every=` (steps), `seed=`, `paraphrase=0`, and `resume=1` beside the
same words to go on with a run that was cut off.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from policy_server.finetune import Failed, finetune, resume
from policy_server.finetune_plan import Besides, as_recorded, plan_of
from policy_server.policy import PolicyUnavailable
from rewarder.goal import in_other_words
from robot.words import UsageError, parse_words

WORDS = {
    "policy": "",
    "dataset": "",
    "out": "",
    "steps": "20000",
    "base": "",
    "batch_size": "8",
    "rename": "",
    "freeze_vision": "",
    "expert_only": "",
    "lora": "",
    "learning_rate": "",
    "save_every": "5000",
    "seed": "1000",
    "paraphrase": "1",
    "resume": "",
}
FAILED, USAGE, UNAVAILABLE, INTERRUPTED = 1, 2, 3, 130


def main(argv: list[str], write: Callable[[str], object] = sys.stdout.write) -> int:
    """Train; return the exit code."""
    # It tells at length which decoder of videos it could not load.
    logging.getLogger("lerobot.utils.import_utils").setLevel(logging.ERROR)
    try:
        out = _tuned(parse_words(argv, known=WORDS))
    except UsageError as error:
        return _end(f"{error}", USAGE)
    except PolicyUnavailable as error:
        return _end(f"{error}", UNAVAILABLE)
    except (Failed, OSError, ValueError, RuntimeError, ImportError) as error:
        return _end(f"the training failed: {' '.join(str(error).split())}", FAILED)
    except KeyboardInterrupt:
        return _end("cut off; resume=1 goes on from the last checkpoint", INTERRUPTED)
    write(f"{out}: serve it with make serve-pi POLICY={out}\n")
    return 0


def _tuned(words: Mapping[str, str]) -> Path:
    if words["paraphrase"] not in ("0", "1"):
        raise UsageError(f"paraphrase={words['paraphrase']!r}; expected 1 or 0")
    reword = in_other_words if words["paraphrase"] == "1" else as_recorded
    besides = Besides(reword=reword)
    if words["resume"] == "1":
        return resume(words, besides=besides)
    return finetune(plan_of(words), besides=besides)


def _end(why: str, code: int) -> int:
    sys.stderr.write(f"{why}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""OpenVLA's documented request against a server: `python ask_openvla.py http://127.0.0.1:8080`.

As the head of openvla's vla-scripts/deploy.py has it: `requests`, and `json_numpy` patched into
`json`, the picture and the sentence in one map. Our arm's policies read joints as well: `state`.
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportMissingTypeStubs=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# The packages are in an environment of their own, beside openpi's client.

import sys
from importlib.metadata import version
from typing import Any

import json_numpy  # deptry: ignore[DEP001]
import numpy as np
import requests  # deptry: ignore[DEP003]

SIDE, JOINTS, TIMEOUT_S = 224, 6, 30.0


def main(url: str) -> None:
    """Ask and say what was answered."""
    json_numpy.patch()
    print(f"requests {version('requests')}, json-numpy {version('json-numpy')}")
    message: Any = {
        "image": np.full((SIDE, SIDE, 3), 7, np.uint8),
        "instruction": "lift the red cube",
        "unnorm_key": "bridge_orig",
        "state": np.linspace(-1.0, 1.0, JOINTS),
    }
    answer = requests.post(f"{url}/act", json=message, timeout=TIMEOUT_S)
    rows: Any = answer.json()
    kinds = {f"{type(row).__name__} {row.dtype} {row.shape}" for row in np.atleast_2d(rows)}
    print(f"POST /act -> {answer.status_code}, {len(np.atleast_2d(rows))} x {', '.join(kinds)}")
    if answer.status_code != 200 or np.shape(rows)[-1] != JOINTS:
        sys.exit(f"expected actions of {JOINTS} numbers")
    # The same inside a text: what its clients send where json_numpy is not patched in.
    double: Any = {"encoded": json_numpy.dumps(message)}
    answer = requests.post(f"{url}/act", json=double, timeout=TIMEOUT_S)
    same = np.array_equal(answer.json(), rows)
    print(f"POST /act, encoded -> {answer.status_code}, same actions: {same}")
    answer = requests.post(f"{url}/act", json={"instruction": "lift"}, timeout=TIMEOUT_S)
    print(f"POST /act without a picture -> {answer.status_code}, {answer.text[:160]}")
    if not same or answer.status_code == 200:
        sys.exit("an answer differs, or nonsense was answered")
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])

"""openpi's own client against a server: `python ask_openpi.py ws://127.0.0.1:8080`.

It prints what was sent and what came back, and ends with an error where that is not what openpi's
examples show: metadata first, then `actions` for an observation, and a text for nonsense.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
# The client pins numpy below 2, so it is not in this project's environment.

import sys
from importlib.metadata import version
from typing import Any

import numpy as np
from openpi_client.websocket_client_policy import (  # deptry: ignore[DEP001]
    WebsocketClientPolicy,
)

SIDE, JOINTS = 224, 6


def main(address: str) -> None:
    """Ask and say what was answered."""
    print(f"openpi-client {version('openpi-client')}, numpy {np.__version__}")
    policy: Any = WebsocketClientPolicy(host=address, port=None)
    metadata = policy.get_server_metadata()
    print(f"get_server_metadata() -> {', '.join(sorted(metadata))}")
    picture = np.full((SIDE, SIDE, 3), 7, np.uint8)
    observation = {
        "observation/image": picture,
        "observation/wrist_image": picture,
        "observation/state": np.linspace(-1.0, 1.0, JOINTS),
        "prompt": "Lift the red cube.",
    }
    answer = policy.infer(observation)
    rows, timing = answer["actions"], sorted(answer["server_timing"])
    print(f"infer(observation) -> actions {rows.dtype} {rows.shape}, server_timing {timing}")
    if rows.shape != (metadata["horizon"], metadata["action_dim"]):
        sys.exit(f"expected actions of {metadata['horizon']} rows of {metadata['action_dim']}")
    policy.reset()
    try:
        policy.infer({"prompt": "Lift."})
    except RuntimeError as error:
        print(f"infer(nonsense) -> RuntimeError: {str(error).splitlines()[-1][:160]}")
    else:
        sys.exit("nonsense was answered")
    print("ok")


if __name__ == "__main__":
    main(sys.argv[1])

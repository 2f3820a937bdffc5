"""openpi's own server with a policy that knows nothing; runs in an environment of its own.

`python serve_openpi.py PORT 40+6`: a request takes 40 ms and 6 ms more; `check` says whether the
package's server is, byte for byte, the file of Physical-Intelligence/openpi at 15a9616:
src/openpi/serving/websocket_policy_server.py.
"""

# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# Its packages pin numpy below 2, so they are not in this project's environment.

import hashlib
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import openpi_server.websocket_policy_server as theirs  # deptry: ignore[DEP001]

SHA256 = "1370d345e6c3c5b8f15573050e485e60a5b423d1df33e24b237805e6b442b026"
HORIZON, JOINTS = 40, 6


class Null:
    """Answers the same rows again and again."""

    def __init__(self, takes: str) -> None:
        """Take as many milliseconds as two numbers say together: there are no batches."""
        self._takes_s = sum(float(part) for part in takes.split("+")) / 1e3

    def infer(self, _: dict[str, Any]) -> dict[str, Any]:
        """Return the rows, shape (40, 6)."""
        time.sleep(self._takes_s)
        return {"actions": np.zeros((HORIZON, JOINTS), np.float32)}


def main() -> None:
    """Serve until killed."""
    source = Path(str(theirs.__file__)).read_bytes()
    if hashlib.sha256(source).hexdigest() != SHA256:
        sys.exit("the package openpi-server is not openpi's own server")
    if sys.argv[1] != "check":
        policy = Null(sys.argv[2])
        theirs.WebsocketPolicyServer(policy, "127.0.0.1", int(sys.argv[1])).serve_forever()


if __name__ == "__main__":
    main()

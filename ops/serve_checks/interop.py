"""Others' own clients and servers against ours."""

from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ops.serve_checks.effort import Effort
from ops.serve_checks.peers import SCRIPTS, PeerMissing, environment, openpi_server, output
from ops.serve_checks.row import Row, not_measured
from ops.serve_checks.server import Served, serving
from policy_server.backends.null import NullPolicy
from policy_server.backends.openpi import OpenPiPolicy
from policy_server.self_test import probe

ASKED = "answers as documented"
TIMEOUT_S = 60.0


def interop(effort: Effort) -> list[Row]:
    """Have openpi's client and OpenVLA's request ask our server, and our client openpi's."""
    try:
        python = environment(effort.peers)
    except PeerMissing as missing:
        return [not_measured("interop with openpi and OpenVLA", missing)]
    with Served.ours("seeing") as server, serving(NullPolicy()) as plain:
        return [
            _asked(
                "openpi's client, our server", python, "ask_openpi.py", f"ws://{server.address}"
            ),
            # OpenVLA's request has one picture, so no policy with two cameras.
            _asked("OpenVLA's request, our server", python, "ask_openvla.py", f"http://{plain}"),
            _asks(effort),
        ]


def _asked(what: str, python: Path, script: str, url: str) -> Row:
    try:
        said = output([str(python), str(SCRIPTS / script), url], timeout_s=TIMEOUT_S)
    except PeerMissing as failure:
        return Row(what=what, ours=str(failure), asked=ASKED, holds=False)
    lines = said.strip().splitlines()
    return Row(
        what=what, ours=lines[-1], asked=ASKED, holds=lines[-1] == "ok", more={"said": lines}
    )


def _asks(effort: Effort) -> Row:
    """Ask openpi's own server as our back end `openpi:` does."""
    with ExitStack() as stack:
        server = stack.enter_context(openpi_server(effort.peers, "0+0"))
        policy = OpenPiPolicy(f"ws://{server.address}")
        chunk = policy.infer_batch([probe(policy.spec)])[0]
    shape, is_whole = chunk.actions.shape, bool(np.isfinite(chunk.actions).all())
    line = (
        f"infer_batch -> actions {chunk.actions.dtype} {shape}; spec.horizon {policy.spec.horizon}"
    )
    holds = shape == (policy.spec.horizon, policy.spec.action_dim) and is_whole
    return Row(
        what="our client, openpi's server",
        ours="ok" if holds else chunk.refusal or str(shape),
        asked=ASKED,
        holds=holds,
        more={"said": [line]},
    )

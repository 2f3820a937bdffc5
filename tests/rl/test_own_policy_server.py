import json
import urllib.request

import pytest

from rl.own_policy_server import OwnPolicyServer
from rl.own_process import OwnProcessFailed
from rl.residual_base import Recipe, bases_of

pytestmark = pytest.mark.timeout(120)


def health(url):
    with urllib.request.urlopen(f"{url.replace('ws', 'http', 1)}/health") as answer:
        return json.loads(answer.read())


def test_the_bases_of_stored_policies_are_served_where_they_are_not_elsewhere(tmp_path):
    ours, theirs, alone = (tmp_path / name for name in ("ours", "theirs", "alone"))
    for folder, base, own in (
        (ours, "scripted:reach?noise=0.5", True),
        (theirs, "ws://h:1", False),
    ):
        folder.mkdir()
        Recipe(base=base, own=own, checkpoint="", settings={}).keep(folder)
    alone.mkdir()
    with bases_of([ours, theirs, alone, ours]) as urls:
        assert urls.keys() == {ours, theirs}
        assert urls[theirs] == "ws://h:1"
        assert health(urls[ours])["spec"]["checkpoint"] == "scripted-noise-0.5"
    with pytest.raises(OSError, match="refused"):
        health(urls[ours])


def test_a_policy_that_cannot_be_had_ends_the_wait_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("rl.own_process.RESTART_S", 0.0)
    monkeypatch.setattr("rl.own_process.ATTEMPTS", 1)
    server = OwnPolicyServer("scripted:juggle", tmp_path / "log")
    with pytest.raises(OwnProcessFailed, match="no scripted expert for 'juggle'"):
        server.wait()
    server.close()

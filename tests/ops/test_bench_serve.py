"""The benchmark of policy servers, with counts that take no time; no peer is set up."""

import json
import time

import numpy as np
import pytest

from ops import bench_serve
from ops.serve_checks import faults, lan_arms, peers, speed
from ops.serve_checks.effort import Effort
from ops.serve_checks.faults import Kill, Tally, Ticks, count_rows, kill_rows, together, whose_row
from ops.serve_checks.peers import PeerMissing, environment
from ops.serve_checks.policies import Seeing, Stamped, bench_policy
from ops.serve_checks.row import Row, not_measured, table_of
from ops.serve_checks.server import ServerFailed, serving
from ops.serve_checks.speed import Asker, Crowd, alternating, crowd, crowd_rows, one_client_rows

NO_PEERS = Effort(requests=20, crowd_s=0.5, chunks=40, restarts=0, kills=1, lan_s=1.0, peers=None)


@pytest.fixture(scope="module")
def address():
    with serving(Seeing()) as address:
        yield address


@pytest.fixture(scope="module")
def asker(address):
    asker = Asker(address)
    yield asker
    asker.close()


def times(*values):
    return np.array(values, np.float64)


def test_requests_take_turns_between_servers(asker):
    asked = []
    first, second = alternating([lambda: asked.append("a") or 1.0, asker.ask], 20)
    assert (len(first), len(second)) == (20, 20)
    assert second.min() > 0


def test_a_measured_peer_comes_before_stored_figures():
    ours, theirs = times(*[1.0] * 100), times(*[0.8] * 100)
    measured = one_client_rows([ours, theirs], "openpi")
    stored = one_client_rows([ours], "openpi, stored")
    assert (measured[0].other, measured[0].ratio, measured[0].holds) == (0.8, 1.25, True)
    assert [(row.other, row.holds) for row in stored] == [(0.51, False), (0.72, True)]


def test_four_clients_are_counted_and_healthz_is_looked_at(address):
    seen = crowd(address, 0.5)
    assert len(seen.times) == 4
    assert min(len(own) for own in seen.times) > 0
    assert len(seen.health) > 0


def test_a_crowds_rows_compare_with_stored_figures_where_there_is_no_peer():
    ours = Crowd(seconds=10.0, times=[times(*[80.0] * 120)] * 4, health=times(4.0, 5.0))
    rate, p50, fairness, health = crowd_rows(ours, None, "openpi, stored")
    assert (rate.ours, rate.ratio, rate.holds) == (48.0, 2.105, True)
    assert (p50.holds, fairness.ours, fairness.holds, health.holds) == (True, 1.0, True, True)


def test_an_unlucky_client_is_seen():
    served = [times(*[80.0] * 120)] * 3 + [times(*[80.0] * 90)]
    ours = Crowd(seconds=10.0, times=served, health=times(4.0, 30.0))
    _, _, fairness, health = crowd_rows(ours, None, "openpi, stored")
    assert (fairness.holds, health.holds) == (False, False)


def test_every_row_is_its_own_arms_and_steps():
    with serving(Stamped("2")) as address:
        tally = count_rows(address, 40, 0, lambda: None, arms=2)
    assert (tally.wrong, tally.chunks >= 40, tally.rows > 0) == (0, True, True)
    assert whose_row(tally, NO_PEERS).holds


class Careless(Stamped):
    """Gives each arm the chunk of the arm beside it, or of a step before."""

    def __init__(self, turn, back=0.0):
        super().__init__("2")
        self._turn, self._back = turn, back

    def _chunk(self, request):
        chunk = super()._chunk(request)
        return type(chunk)(
            actions=chunk.actions + np.float32([self._turn, 0, self._back]), observed_at=0.0
        )


@pytest.mark.parametrize(("careless", "kind"), [((1, 0), "wrong_arm"), ((0, -1), "wrong_step")])
def test_a_row_of_another_arm_or_step_is_found(careless, kind):
    with serving(Careless(*careless)) as address:
        tally = count_rows(address, 10, 0, lambda: None, arms=1)
    assert getattr(tally, kind) == tally.rows > 0
    assert whose_row(tally, NO_PEERS).holds is False


def test_tallies_add_up():
    one = Tally(rows=3, wrong_step=1)
    assert together([one, one]) == Tally(rows=6, wrong_step=2)


class Restarted:
    """A server that dies and comes back at once, in this process."""

    def __init__(self, ticks):
        self._ticks = ticks

    def kill(self):
        self._died = time.monotonic()

    def start(self):
        pass

    def wait(self):
        now = time.monotonic()
        self._ticks.stamps += [self._died + 0.02, self._died + 0.07, now + 0.3]
        self._ticks.rows += [True, False, True]
        return now


def test_a_killing_is_timed_from_the_last_row_to_the_next():
    class Lucky:
        def uniform(self, *_):
            return 0.0

    ticks = Ticks([time.monotonic()], [True])
    kill = faults.one_kill(Restarted(ticks), ticks, Lucky())
    assert kill.last_row_s == pytest.approx(0.02, abs=0.005)
    assert kill.hold_s == pytest.approx(0.07, abs=0.005)
    assert kill.back_s == pytest.approx(0.3, abs=0.005)


def test_the_worst_of_all_killings_counts():
    good = Kill(gone_s=0.01, last_row_s=0.01, hold_s=0.05, back_s=0.4)
    late = Kill(gone_s=0.01, last_row_s=0.06, hold_s=0.11, back_s=3.0)
    assert [row.holds for row in kill_rows([good, good])] == [True, True]
    assert [row.holds for row in kill_rows([good, late])] == [False, False]


def test_an_arm_ticks_in_a_thread_of_its_own():
    with serving(Stamped("2")) as address, faults.ticking(address) as ticks:
        while len(ticks.stamps) < 5:
            pass
    assert any(ticks.rows)


def test_starved_ticks_and_underflows_are_of_all_arms():
    arms = [{"steps": 600, "starved_steps": 3, "underflows": 1}] * 2
    underflows, starved = lan_arms.lan_rows(arms, 30.0, {"passed": 10, "lost": 1})
    assert (underflows.ours, underflows.holds) == (2.0, False)
    assert (starved.ours, starved.holds) == (0.5, False)


def test_a_link_that_cannot_be_had_is_a_row_that_says_why(monkeypatch):
    def forbidden(**_):
        raise lan_arms.LanMissing("no network namespace: not permitted")

    monkeypatch.setattr(lan_arms, "Lan", forbidden)
    (row,) = lan_arms.lan(NO_PEERS)
    assert (row.holds, "not permitted" in str(row.ours)) == (None, True)


def test_without_peers_none_is_set_up(tmp_path, monkeypatch):
    with pytest.raises(PeerMissing, match="no peers"):
        environment(None)
    monkeypatch.setattr(peers, "REQUIREMENTS", ("a",))
    (tmp_path / "openpi").mkdir()
    (tmp_path / "openpi" / "ready").write_text("('a',)")
    assert environment(tmp_path).is_relative_to(tmp_path)


def test_a_program_that_fails_says_why():
    with pytest.raises(PeerMissing, match="no such thing"):
        peers.output(["sh", "-c", "echo no such thing >&2; exit 3"], timeout_s=5.0)


def test_a_policy_that_knows_whose_rows_are_whose_counts_on():
    policy = bench_policy("stamped:0")
    request = speed.PolicyRequest(
        state={"stamp": np.array([2, 1, 7], np.float32)}, goal="", observed_at=0.0
    )
    rows = policy.infer_batch([request])[0].actions
    assert rows[:2].tolist() == [[2, 1, 7], [2, 1, 8]]


def test_a_row_shows_what_holds_and_what_does_not():
    row = Row(what="p50, ms", ours=0.7, other=0.5, than="openpi", asked="<= 1.5", holds=True)
    assert row.cells == ("p50, ms", "0.7", "0.5", "openpi", "1.4", "<= 1.5", "yes")
    assert Row(what="x", ours=2, holds=False).cells[-1] == "NO"
    assert not_measured("x", "no root").cells[1] == "not measured: no root"
    assert table_of([row]).row_count == 1


def test_one_part_is_measured_and_written_down(monkeypatch, tmp_path, capsys):
    row = Row(what="p50", ours=1.0, other=2.0, holds=True, more={"said": ["hello", "ok"]})
    monkeypatch.setattr(bench_serve, "part_of", lambda _: lambda effort: [row])
    path = tmp_path / "serve.json"
    assert bench_serve.main(["--only", "one", "--json", str(path), "--no-peers"]) == 0
    (stored,) = json.loads(path.read_text())["rows"]
    assert (stored["part"], stored["ratio"], stored["holds"]) == ("one", 0.5, True)
    assert "p50: hello" in capsys.readouterr().out


def test_what_does_not_hold_makes_the_exit_code(monkeypatch):
    bad = Row(what="p50", ours=1.0, holds=False)
    monkeypatch.setattr(bench_serve, "part_of", lambda _: lambda effort: [bad])
    assert bench_serve.main(["--only", "one"]) == 1


def test_a_part_that_fails_ends_no_other(monkeypatch, capsys):
    def fail(_):
        raise ServerFailed("it says nothing")

    good = [Row(what="p50", ours=1.0)]
    monkeypatch.setattr(bench_serve, "part_of", {"one": fail, "kill": lambda _: good}.get)
    rows = bench_serve.measure(["one", "kill"], NO_PEERS)
    assert [row.ours for _, row in rows] == ["failed: it says nothing", 1.0]


def test_every_part_is_there():
    assert all(callable(bench_serve.part_of(name)) for name in bench_serve.PARTS)

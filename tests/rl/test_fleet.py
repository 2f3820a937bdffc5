"""All arms in one process, some of which do not obey for the time being."""

from envs.homing import ArmStopped
from rl.fleet import LocalFleet
from tests.rl.practice import FakeWorker


class Stubborn(FakeWorker):
    """Says why it does not practise, until it is told otherwise."""

    sentence: str | None = "arm01 is stopped: a key was pressed"

    def run_episode(self, snapshot):
        if self.sentence:
            raise ArmStopped(self.sentence)
        return super().run_episode(snapshot)


def test_an_arm_that_does_not_obey_is_asked_again_while_the_others_go_on(tmp_path):
    fleet = LocalFleet()
    stubborn = Stubborn(tmp_path / "arm01", "arm01")
    other = FakeWorker(tmp_path / "arm02", "arm02")
    fleet.start({"arm01": lambda: stubborn, "arm02": lambda: other})
    found = [episode.arm for _ in range(4) for episode in fleet.poll(0.0)]
    assert found == ["arm02", "arm02"]
    assert fleet.status()["arm01"] == "arm01 is stopped: a key was pressed"
    stubborn.sentence = None
    assert [episode.arm for episode in fleet.poll(0.0)] == ["arm01"]
    assert fleet.status() == {"arm01": "practises", "arm02": "practises"}


def test_an_arm_that_is_out_of_reach_at_the_start_comes_in_later(tmp_path):
    reachable = []

    def make():
        if not reachable:
            raise ArmStopped("arm01: no arm's process: start it with make arm")
        return FakeWorker(tmp_path, "arm01")

    fleet = LocalFleet()
    fleet.start({"arm01": make})
    assert fleet.poll(0.0) == []
    assert "make arm" in fleet.status()["arm01"]
    reachable.append(True)
    assert len(fleet.poll(0.0)) == 1
    fleet.close()

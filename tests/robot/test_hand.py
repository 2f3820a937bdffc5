import os
import pty
import termios
import threading

import pytest

from robot.emulator import hand
from robot.emulator.admin import EmulatorAdmin, Refused
from robot.emulator.hand import Hand
from tests.robot.emulated import emulated, until


@pytest.fixture(scope="module")
def leader(tmp_path_factory):
    with emulated(tmp_path_factory.mktemp("run")) as started:
        yield started


def test_keys_move_a_limp_arm_joint_by_joint(leader):
    admin, person = leader.admin, Hand(leader.admin)
    before = admin.angles()
    pan, lift = before["shoulder_pan"] + 10.0, before["shoulder_lift"] - 5.0
    assert [person.press(key) for key in ("1", "1", "w", "x")] == [
        f"shoulder_pan to {pan - 5.0:.0f}",
        f"shoulder_pan to {pan:.0f}",
        f"shoulder_lift to {lift:.0f}",
        None,
    ]
    until(lambda: abs(admin.angles()["shoulder_pan"] - pan) < 0.5)
    assert person.press("0") == "let go"


def test_an_arm_that_is_driven_is_left_alone():
    class Driven:
        def angles(self):
            return {"wrist_flex": 40.0}

        def push(self, joints, *, seconds):
            raise Refused("wrist_flex has torque on: no hand moves it")

    assert Hand(Driven()).press("4") == "wrist_flex has torque on: no hand moves it"


def test_a_person_at_a_terminal_moves_the_leader(leader, monkeypatch, capsys):
    master, slave = pty.openpty()
    typed = os.fdopen(slave)
    monkeypatch.setattr("sys.stdin", typed)
    before = leader.admin.angles()["wrist_roll"]
    typing = threading.Thread(target=type_a_key, args=(master, leader, before + 5.0))
    typing.start()
    words = [f"arm_id={leader.admin_path.stem}", f"folder={leader.admin_path.parent}"]
    assert hand.main(words) == 0
    typing.join()
    typed.close()
    assert f"wrist_roll to {before + 5.0:.0f}" in capsys.readouterr().out


def type_a_key(master, leader, wanted):
    # What was typed before is dropped when the program takes the terminal.
    until(lambda: not termios.tcgetattr(master)[3] & termios.ICANON)
    os.write(master, b"5")
    with EmulatorAdmin(leader.admin_path) as admin:
        until(lambda: abs(admin.angles()["wrist_roll"] - wanted) < 0.5)
    os.close(master)


def test_without_an_emulator_it_says_how_to_start_one(tmp_path, capsys):
    assert hand.main([f"folder={tmp_path}"]) == 3
    assert "make emulate LEADERS=1" in capsys.readouterr().err


def test_a_word_that_is_none_is_refused(capsys):
    assert hand.main(["step=3"]) == 2
    assert "'step=3' is not understood" in capsys.readouterr().err

import pytest

from rl.alarm import FROZEN, Alarm
from rl.run_folder import EPISODES, RunFolder
from rl.unfreeze import main

WHY = "the red cup before the lens is gone"


@pytest.fixture
def run(tmp_path):
    folder = RunFolder.create(tmp_path, task="lift", config="", facts={})
    for number in range(7):
        folder.append(EPISODES, {"env_steps": number})
    yield folder
    folder.close()


@pytest.fixture
def frozen(run):
    Alarm(run.path).add(FROZEN, why="the judge confirms none", episodes=6)
    return run


def words(run, why=WHY):
    return [f"run={run.path.name}", f"runs={run.path.parent}", f"why={why}"]


def test_a_person_lets_updates_go_on_and_the_reason_stays(frozen):
    assert main(words(frozen)) == 0
    alarm = Alarm(frozen.path)
    assert alarm.frozen is None
    assert [event.why for event in alarm.events] == ["the judge confirms none", WHY]
    assert alarm.start == 7


def test_a_run_at_work_can_be_unfrozen(frozen):
    # It holds the folder's lock; the alarm is read again where it changes.
    watching = Alarm(frozen.path)
    main(words(frozen))
    assert watching.frozen is not None
    assert watching.look()
    assert watching.frozen is None


@pytest.mark.parametrize("why", ["", "ok", "   go on   "])
def test_an_unfreezing_without_a_reason_is_refused(frozen, why, capsys):
    assert main(words(frozen, why)) == 2
    assert "says too little" in capsys.readouterr().err
    assert Alarm(frozen.path).frozen is not None


def test_a_run_that_is_not_frozen_stays_as_it_is(run, capsys):
    assert main(words(run)) == 1
    assert "are not frozen" in capsys.readouterr().err
    assert Alarm(run.path).events == ()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "which run?"),
        (["run=nothing", f"why={WHY}"], "there is no run folder"),
        (["because=I say so"], "known words"),
    ],
)
def test_a_wrong_word_is_one_line_and_exit_code_2(given, said, capsys):
    assert main(given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1

"""Every option of every group composes and names something that can be built."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from rewarder.goal import parse_goal
from rl.command_line import quoted
from rl.train import goal_of, make_learner, schedule_of

CONF = Path(__file__).parent.parent / "conf"
ENTRIES = sorted(path.stem for path in CONF.glob("*.yaml"))
GROUPS = ("arm", "cluster", "learner", "task")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def composed(config, *overrides):
    with initialize_config_dir(str(CONF), version_base=None):
        return compose(config, list(overrides))


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point_composes(entry):
    assert OmegaConf.to_container(composed(entry), resolve=False)


def test_a_pull_is_a_setting_as_the_readme_writes_it():
    words = ["learner.bc={run:runs/x,taken_over:true}", "learner.preferences={run:runs/y}"]
    learner = composed("train", *map(quoted, words)).learner
    assert (learner.bc.run, learner.bc.taken_over) == ("runs/x", True)
    assert learner.preferences.run == "runs/y"


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_can_be_built(group, option):
    cfg = composed("train", f"{group}={option}")
    OmegaConf.to_container(cfg, resolve=True)
    if group == "task":
        assert goal_of(cfg).task == option
        assert schedule_of(cfg).steps == cfg.task.steps
    elif group == "learner":
        make_learner(cfg)
    else:
        instantiate(cfg[group], _convert_="all")


@pytest.mark.parametrize("experiment", [path.stem for path in (CONF / "experiment").glob("*.yaml")])
def test_every_experiment_differs_from_the_default(experiment):
    plain, cfg = composed("train"), composed("train", f"experiment={experiment}")
    goal_of(cfg)
    assert (cfg.arms, cfg.steps) != (plain.arms, plain.steps)


def test_a_run_of_no_arguments_puts_the_red_cube_in_the_blue_bowl():
    cfg = composed("train")
    assert goal_of(cfg) == parse_goal("Put the red cube in the blue bowl.")
    assert len(cfg.arms) == 4

"""Our tasks on the simulated arm as an environment of LeRobot's, of type `so101_twin`.

`PYTHONPATH=. lerobot-eval --policy.path=FOLDER --env.type=so101_twin --env.task=lift
--env.discover_packages_path=rl.lerobot_twin`, from the root of the checkout.
"""

from rl.lerobot_twin.config_so101_twin import So101TwinConfig
from rl.lerobot_twin.task_env import TwinTaskEnv

__all__ = ["So101TwinConfig", "TwinTaskEnv"]

"""An arm as a Gymnasium environment: `gymnasium.make("envs:SO101-v0", task="reach")`."""

import gymnasium

gymnasium.register(  # pyright: ignore[reportUnknownMemberType] - Gymnasium types kwargs as a bare dict
    "SO101-v0", entry_point="envs.twin_env:make_task_env", order_enforce=False
)

"""Tasks, one small file each: time limit, and success on ground truth."""

from envs.tasks.lift import LIFT
from envs.tasks.place import PLACE
from envs.tasks.push import PUSH
from envs.tasks.reach import REACH
from envs.tasks.stack import STACK
from envs.tasks.task import HOLD_S, Task

TASKS = {task.name: task for task in (REACH, PUSH, LIFT, PLACE, STACK)}

__all__ = ["HOLD_S", "TASKS", "Task"]

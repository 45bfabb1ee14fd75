"""The tasks by name; `module:task`, `FILE.py:task` or an installed package's name mean one of the user's own."""

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from pruning_bootcamp.errors import BootcampError, Problem
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.registry import Registry
from pruning_bootcamp.schema import check_settings
from pruning_bootcamp.tasks.base import Task


def _not_a_task(task: Any) -> str | None:
    return None if isinstance(task, Task) else f"{type(task).__name__}, and a Task is needed (docs/tasks.md)"


# A class that is a Task, or a function that returns one, with keyword-only settings.
TASKS: Registry[Any] = Registry("task", plural="tasks", contract=_not_a_task)

_NONE: Mapping[str, Plain] = MappingProxyType({})


def open_task(name: str, args: Mapping[str, Plain] = _NONE) -> Task:
    """The task of that name, made with these settings. BootcampError lists every problem with them."""
    problems = check_task(name, args)
    if problems:
        raise BootcampError(*problems)
    entry = TASKS.get(name)
    task: Task = entry(**check_settings(entry.function, args)[0])
    return task


def check_task(name: str, args: Mapping[str, Plain], where: str = "task") -> list[Problem]:
    """Every problem with the name and the settings; a module of the user's own is imported."""
    _, problems = TASKS.check(name, args, where)
    if name in TASKS and inspect.isabstract(make := TASKS.get(name).function):
        missing = ", ".join(sorted(make.__abstractmethods__))
        return [Problem(f"{where}.name", f"{name} does not say {missing} yet (docs/tasks.md).")]
    return problems

"""The application, and what its commands share: checked configs, common options, the exit code of a missed goal."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from pruning_bootcamp.plain import Plain


class _Commands(TyperGroup):
    """An option that does not exist and is a setting (--epochs) is told how settings are written."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            option = getattr(error, "option_name", None)  # of a NoSuchOption
            if isinstance(option, str) and (todo := _as_setting(option)):
                error.message += todo
                vars(error)["possibilities"] = None  # --lr is not nearly --help
            raise


def _as_setting(option: str) -> str:
    from dataclasses import fields, is_dataclass

    from pruning_bootcamp.config import Config

    name, cfg = option.lstrip("-").replace("-", "_"), Config()
    sections = [part.name for part in fields(cfg) if is_dataclass(getattr(cfg, part.name))]
    keys = [f"{section}.{name}=VALUE" for section in sections if hasattr(getattr(cfg, section), name)]
    if hasattr(cfg, name) and name not in sections:
        keys.insert(0, f"{name}=VALUE")
    return f". It is a setting: write {' or '.join(keys)} at the end." if keys else ""


app = typer.Typer(
    name="pruning-bootcamp",
    cls=_Commands,
    help="Train, prune, recover, prove, export and profile PyTorch networks; every number printed was measured.",
    epilog="Start here: pruning-bootcamp quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def examples(*lines: str) -> str:
    """The end of every --help: real commands (\\b keeps the lines as they are)."""
    return "\b\nExamples:\n" + "\n".join(f"  pruning-bootcamp {line}" for line in lines)


def load_checked(
    command: str,
    config: Path | None,
    overrides: list[str] | None,
    options: Mapping[str, Plain],
    iterative: bool = False,
) -> Any:
    """The checked config of a command; its problems, of every kind, in one error and before any work."""
    from pruning_bootcamp.config import load
    from pruning_bootcamp.logs import start_screen
    from pruning_bootcamp.preflight import check

    start_screen(debug="--debug" in sys.argv)
    cfg = load(config, overrides or (), options)
    if iterative and cfg.prune.iterations == 1 and "prune.iterations" not in options:
        cfg.prune.iterations = 5  # --iterative alone, and the config names no number
    check(cfg, command, where=str(config) if config else "the config")
    return cfg


def exit_by_goal(goal_met: bool | None) -> None:
    """The stage has said whether the goal is met; a script reads it from the exit code."""
    if goal_met is False:
        raise typer.Exit(3)

"""What the report advises: what to do, the rule that says so, and the figures it rests on."""

from dataclasses import dataclass

from pruning_bootcamp.reporting.groups import Setting
from pruning_bootcamp.reporting.values import Spread


@dataclass(frozen=True)
class Advice:
    what: str
    rule: str
    figures: str
    command: str | None = None


def said(figure: Spread | None, setting: Setting) -> str:
    """`92.20 ± 0.20% (3 seeds)`, for a sentence."""
    return "not read" if figure is None else f"{figure.shown()}% ({setting.n_said})"

"""What fields of a config are made of."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Choice:
    """A registered name with its settings. `score: l1` is short for `score: {name: l1, args: {}}`."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)


def between(default: Any, low: float | None = None, high: float | None = None, bounds: str = "[]") -> Any:
    """A field whose value, unless None, lies between low and high; `bounds` "[)" leaves the upper end out."""
    return field(default=default, metadata={"range": (low, high, bounds)})


def choice(name: str, **args: Any) -> Any:
    return field(default_factory=lambda: Choice(name, dict(args)))

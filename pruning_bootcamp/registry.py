"""Names -> functions. A new score, pattern, schedule, dataset, model or format is one function and one registration."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pruning_bootcamp.errors import BootcampError, Problem, unknown
from pruning_bootcamp.schema import Setting, check_settings, settings_of

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Entry(Generic[F]):
    """A registered function with its facts. Calling the entry calls the function."""

    name: str
    function: F
    facts: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    before: Callable[..., tuple[Any, ...]] | None = None

    @property
    def summary(self) -> str:
        """The first line of the docstring: what `pruning-bootcamp list` shows."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    @property
    def settings(self) -> dict[str, Setting]:
        return settings_of(self.function, self.given)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*(self.before(*args) if self.before else args), **kwargs)


class Registry(Generic[F]):
    """The functions of one kind by name. `given` names the keyword arguments that the engine fills in, not the user.

    `before` makes of the positional arguments of every call what the function is handed.
    """

    def __init__(
        self, kind: str, given: tuple[str, ...] = (), before: Callable[..., tuple[Any, ...]] | None = None
    ) -> None:
        self.kind = kind
        self.given = given
        self.before = before
        self._entries: dict[str, Entry[F]] = {}

    def register(self, name: str, **facts: Any) -> Callable[[F], F]:
        """Decorator. Facts (`needs=("grad",)`) say what a caller must know, so that nobody writes `if name == ...`."""

        def add(function: F) -> F:
            if name in self._entries:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._entries[name].function} {function}")
            if not function.__doc__:
                raise ValueError(f"{self.kind} '{name}' needs a docstring: its first line is what users read")
            self._entries[name] = Entry(name, function, facts, self.given, self.before)
            return function

        return add

    def __getitem__(self, name: str) -> Entry[F]:
        return self.get(name)

    def get(self, name: str, where: str | None = None) -> Entry[F]:
        """The entry, or a BootcampError with the nearest name."""
        if name not in self._entries:
            raise BootcampError(unknown(self.kind, name, self._entries), where=where)
        return self._entries[name]

    def check(self, name: str, arguments: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Problem]]:
        """Arguments in their right types, and all problems with the name and the arguments."""
        if name not in self._entries:
            return dict(arguments), [Problem(f"{where}.name", unknown(self.kind, name, self._entries))]
        return check_settings(self._entries[name].function, arguments, self.given, f"{where}.args")

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry[F]]:
        return [self._entries[name] for name in self]

"""Names -> functions. A new score, pattern, schedule, dataset, model or format is one function and one registration."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pruning_bootcamp import plugins
from pruning_bootcamp.errors import BootcampError, Problem, unknown
from pruning_bootcamp.schema import Setting, accepts_anything, check_settings, settings_of

F = TypeVar("F", bound=Callable[..., Any])
Contract = Callable[..., str | None]


@dataclass(frozen=True)
class Entry(Generic[F]):
    """A registered function with its facts. Calling the entry calls the function.

    One that a user brought says so in `brought` (the kind): what it gives is held against the `contract` of its kind.
    """

    name: str
    function: F
    facts: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = ()
    before: Callable[..., tuple[Any, ...]] | None = None
    brought: str | None = None
    contract: Contract | None = None

    @property
    def summary(self) -> str:
        """The first line of the docstring: what `pruning-bootcamp list` shows."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    @property
    def settings(self) -> dict[str, Setting]:
        """What a user may set, by name."""
        return settings_of(self.function, self.given)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args = self.before(*args) if self.before else args
        if self.brought is None:
            return self.function(*args, **kwargs)
        if not accepts_anything(self.function):
            taken = inspect.signature(self.function).parameters
            kwargs = {key: value for key, value in kwargs.items() if key in taken or key not in self.given}
        try:
            result = self.function(*args, **kwargs)
        except BootcampError:
            raise
        except Exception as error:
            raise BootcampError(f"{self.brought} {self.name}: failed with {plugins.described(error)}.") from error
        if self.contract is not None and (wrong := self.contract(result, *args)):
            raise BootcampError(f"{self.brought} {self.name}: gave {wrong}.")
        return result


class Registry(Generic[F]):
    """The functions of one kind by name. `given` names the keyword arguments that the engine fills in, not the user.

    `before` makes of the positional arguments of every call what the function is handed.

    With a `plural`, users can bring functions of their own: as module:function, or as entry points of the group
    pruning_bootcamp.<plural>. Such a one is called with the positional arguments that `takes` names, and with what of
    `given` it takes (it must take all that `always` names). It must state the facts in `tell`, and give what
    `contract(result, *args)` has nothing to say against (else: what it gave, and what was promised).
    """

    def __init__(
        self,
        kind: str,
        given: tuple[str, ...] = (),
        before: Callable[..., tuple[Any, ...]] | None = None,
        *,
        plural: str | None = None,
        takes: tuple[str, ...] = (),
        always: tuple[str, ...] = (),
        tell: tuple[str, ...] = (),
        contract: Contract | None = None,
    ) -> None:
        self.kind = kind
        self.given = given
        self.before = before
        self.plural = plural
        self._takes, self._always, self._tell, self._contract = takes, always, tell, contract
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
        """The entry, or a BootcampError with the nearest name. A user's own module is imported now, and not before."""
        if name in self._entries:
            return self._entries[name]
        try:
            function = self._brought(name)
        except BootcampError as error:
            raise BootcampError(*error.problems, where=where) from error
        if function is None:
            raise BootcampError(unknown(self.kind, name, [*self, *self.installed()]), where=where)
        facts = getattr(function, "facts", {})
        return Entry(name, function, facts, self.given, self.before, self.kind, self._contract)

    def check(self, name: str, arguments: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[Problem]]:
        """Arguments in their right types, and all problems with the name and the arguments."""
        try:
            entry = self.get(name)
        except BootcampError as error:
            return dict(arguments), [problem.under(f"{where}.name") for problem in error.problems]
        return check_settings(entry.function, arguments, self.given, f"{where}.args")

    def missing(self, name: str, where: str, more: tuple[str, ...] = ()) -> list[Problem]:
        """Why `get` would not find the name, if so; `more`: other names that mean something there."""
        try:
            self.get(name)
        except BootcampError as error:
            if self.plural is None or not plugins.is_plugin(name):
                return [Problem(where, unknown(self.kind, name, [*self, *self.installed(), *more]))]
            return [problem.under(where) for problem in error.problems]
        return []

    def installed(self) -> list[str]:
        """Names of entry points that installed packages bring; none is loaded."""
        return sorted({point.name for point in self._points()} - self._entries.keys())

    def _points(self) -> list[Any]:
        return plugins.installed(self.plural) if self.plural is not None else []

    def _brought(self, name: str) -> F | None:
        """The function that a user means by module:function or by an entry point's name; None where it is neither."""
        function: Any = None
        if self.plural is not None and plugins.is_plugin(name):
            function = plugins.find(name, self.kind)
        else:
            function = next((plugins.load(point) for point in self._points() if point.name == name), None)
        if function is not None:
            self._check_shape(name, function)
        return function  # type: ignore[no-any-return]

    def _check_shape(self, name: str, function: Callable[..., Any]) -> None:
        """BootcampError when the engine could not call the function, or is not told what it has to know of it."""
        try:
            signature = inspect.signature(function)
            settings_of(function)
        except (TypeError, ValueError, NameError) as error:
            raise BootcampError(f"{name}: what it takes can't be read ({error}).") from None
        kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        places = [parameter for parameter in signature.parameters.values() if parameter.kind in kinds]
        needed = [parameter for parameter in places if parameter.default is inspect.Parameter.empty]
        any_number = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in signature.parameters.values())
        fits = len(needed) <= len(self._takes) and (any_number or len(places) >= len(self._takes))
        missing = [key for key in self._always if key not in signature.parameters and not accepts_anything(function)]
        if not fits or missing:
            keywords = ["*", *self._always, "settings"]
            wanted = ", ".join([*self._takes, *keywords])
            raise BootcampError(f"{name}: takes {signature}, and a {self.kind} is a function of ({wanted}).")
        if untold := [fact for fact in self._tell if fact not in getattr(function, "facts", {})]:
            raise BootcampError(f"{name}: a {self.kind} says {', '.join(untold)} by @facts(...) of {plugins.__name__}.")

    def __contains__(self, name: object) -> bool:
        """Whether `get` finds it; a user's own module is imported for that."""
        if name in self._entries:
            return True
        try:
            return isinstance(name, str) and self._brought(name) is not None
        except BootcampError:
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def entries(self) -> list[Entry[F]]:
        """Our own, in the order of their names; what users brought is not among them."""
        return [self._entries[name] for name in self]

"""A config's text -> plain tables and lists, within limits: nothing in it is evaluated, whoever wrote it."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import yaml

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.plain import Plain
from pruning_bootcamp.schema import LARGEST_INT, shown

# Far above every real config; a text of a few hundred bytes can stand for 10^9 values (aliases of aliases).
MOST_BYTES = 256 * 1024
MOST_VALUES = 10_000
DEEPEST = 32
LONGEST_TEXT = 4096  # the longest path; below the 4300 digits beyond which Python turns no text into a number

_REFERENCE = re.compile(r"\$\{([\w-]+(?:\.[\w-]+)*)\}")


class _Loader(yaml.SafeLoader):
    """YAML 1.1's plain values, but 1e-3 is a number, a date is text, and a key stands once in its table."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        times = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and times[key.value] > 1:
                problem = f"the key {shown(key.value)} is there twice"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """The tables, lists, texts and numbers in a YAML text; every key is text. Raises BootcampError.

    Tags (`!!python/object` and all others) are refused, and so is what is too large, too deep, or no plain value.
    """
    if len(text) > MOST_BYTES:
        raise BootcampError(f"longer than {MOST_BYTES // 1024} KiB, which no config is.")
    try:
        _check_events(text)
        return _plain(_Loader(text).get_single_data(), "")
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # 0x_ and the like are numbers to the resolver only
        raise BootcampError(f"not valid YAML: {' '.join(str(error).split())}") from None


def resolve_references(content: dict[str, Plain]) -> dict[str, Plain]:
    """`content` with each `${key.of.this.file}` replaced by that value. Raises BootcampError.

    That is all there is: no `${oc.env:TOKEN}` (the environment's secrets would end up in config.yaml), no
    `${oc.decode:...}`, and no resolver that a library may have registered.
    """
    texts = [text for text in _texts(content) if "${" in text]
    if not texts:
        return content
    for text in texts:
        if "${" in _REFERENCE.sub("", text):
            raise BootcampError(
                f"{shown(text)}: only a reference to a key of this file, such as ${{train.lr}}, is filled in; "
                "functions are not run, and the environment is not read."
            )
    _check_references(content)
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return OmegaConf.to_container(OmegaConf.create(content), resolve=True)  # type: ignore[return-value]
    except (OmegaConfBaseException, ValueError) as error:
        raise BootcampError(f"its references can't be filled in: {' '.join(str(error).split())}") from None


def _check_events(text: str) -> None:
    """Tags, depth, and how many values the text stands for once its aliases are filled in; nothing is built."""
    open_tables = [_Table(None)]
    sizes: dict[str, _Table] = {}
    for event in yaml.parse(text, Loader=_Loader):
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise BootcampError(f"{_place(event)}: the tag {shown(tag)} is refused: a config holds plain values.")
        if isinstance(event, yaml.CollectionStartEvent):
            open_tables.append(_Table(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            done = open_tables.pop()
            if done.anchor is not None:
                sizes[done.anchor] = done
            open_tables[-1].add(done)
        elif isinstance(event, yaml.AliasEvent):
            if any(table.anchor == event.anchor for table in open_tables):
                raise BootcampError(f"{_place(event)}: *{event.anchor} stands inside itself.")
            open_tables[-1].add(sizes.get(event.anchor or "", _Table(None)))
        elif isinstance(event, yaml.ScalarEvent):
            if event.anchor is not None:
                sizes[event.anchor] = _Table(event.anchor)
            open_tables[-1].add(_Table(None))
        if len(open_tables) + open_tables[-1].depth > DEEPEST:
            raise BootcampError(f"{_place(event)}: nests deeper than {DEEPEST} levels.")
        if open_tables[-1].values > MOST_VALUES:
            raise BootcampError(f"{_place(event)}: stands for more than {MOST_VALUES:,} values.")


class _Table:
    """How many values a node stands for, itself included, and how deep they nest."""

    def __init__(self, anchor: str | None) -> None:
        self.anchor, self.values, self.depth = anchor, 1, 0

    def add(self, inner: "_Table") -> None:
        self.values += inner.values
        self.depth = max(self.depth, inner.depth + 1)


def _place(event: yaml.Event) -> str:
    mark = event.start_mark
    return f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"


def _plain(value: Any, where: str) -> Any:
    """The value with text for keys, once it is seen to be plain: text that can be printed, numbers of 64 bits."""
    if isinstance(value, dict):
        return {_plain(str(key), where): _plain(entry, f"{where}.{key}".lstrip(".")) for key, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry, f"{where}.{number}".lstrip(".")) for number, entry in enumerate(value)]
    problem = text_problem(value) if isinstance(value, str) else None
    if isinstance(value, int) and not -LARGEST_INT <= value <= LARGEST_INT:
        problem = "a whole number of more than 64 bits"
    if problem:
        raise BootcampError(f"{shown(where)}: {problem}." if where else f"{problem}.")
    return value


def text_problem(text: str) -> str | None:
    """What keeps a text from being a key, a name or a path, if anything."""
    if len(text) > LONGEST_TEXT:
        return f"a text of {len(text):,} characters, and {LONGEST_TEXT:,} are the most"
    if "\0" in text or (not text.isascii() and any("\ud800" <= letter <= "\udfff" for letter in text)):
        return f"{shown(text)} holds a character that no file name and no message can hold"
    return None


def _texts(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [text for entry in value.values() for text in _texts(entry)]
    if isinstance(value, list):
        return [text for entry in value for text in _texts(entry)]
    return [value] if isinstance(value, str) else []


def _check_references(content: dict[str, Plain]) -> None:
    """Every reference leads to a value, none into itself, and all filled in they make no monster."""
    known: dict[str, int] = {}

    def size(value: Any, trail: tuple[str, ...]) -> int:
        if isinstance(value, Mapping):
            return sum(len(key) + size(entry, trail) for key, entry in value.items()) + 1
        if isinstance(value, list):
            return sum(size(entry, trail) for entry in value) + 1
        if not isinstance(value, str):
            return 24
        return len(value) + sum(target(reference, trail) for reference in _REFERENCE.findall(value))

    def target(reference: str, trail: tuple[str, ...]) -> int:
        if reference in trail or len(trail) == DEEPEST:
            raise BootcampError(f"${{{reference}}}: leads {'back to itself' if reference in trail else 'too far'}.")
        if reference not in known:
            known[reference] = size(_find(content, reference), (*trail, reference))
        if known[reference] > MOST_BYTES:
            raise BootcampError(f"${{{reference}}}: stands for more than {MOST_BYTES // 1024} KiB once filled in.")
        return known[reference]

    if size(content, ()) > MOST_BYTES:
        raise BootcampError(f"more than {MOST_BYTES // 1024} KiB once its references are filled in.")


def _find(content: Any, reference: str) -> Any:
    value = content
    for key in reference.split("."):
        if isinstance(value, Mapping) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise BootcampError(f"${{{reference}}}: there is no '{key}' in this file.")
    return value

"""The short forms that people write: several names in one text, and a pattern, with what YAML makes of one unquoted."""

import re

from pruning_bootcamp.errors import BootcampError


def comma_separated(names: str) -> tuple[str, ...]:
    """The names of "torch, onnxruntime", each once, in their order. Of an empty text it is one empty name."""
    return tuple(dict.fromkeys(name.strip() for name in names.split(",")))


def parse_pattern(pattern: object) -> tuple[str, dict[str, int]]:
    """Name and settings of a pattern's short form: "2:4" -> ("nm", {"n": 2, "m": 4}), "4x1" -> a block.

    Any other text is a name without settings. A number is what YAML made of an unquoted 2:4, and the error says so.
    """
    if isinstance(pattern, bool) or not isinstance(pattern, int | str):
        raise BootcampError(f'{pattern!r} is not a pattern. Write a name, or "2:4" in quotes for 2 kept of 4.')
    if isinstance(pattern, int):
        n, m = divmod(pattern, 60)
        if n < 1 or m < 1:
            raise BootcampError(f'{pattern} is not a pattern. Write a name, or "2:4" in quotes for 2 kept of 4.')
        raise BootcampError(
            f'{pattern} is not a pattern: {n}:{m} unquoted in YAML is the number {pattern}. Write "{n}:{m}" in quotes.'
        )
    for name, sign, keys in (("nm", ":", ("n", "m")), ("block", "x", ("rows", "columns"))):
        if found := re.fullmatch(rf"\s*(\d+)\s*{sign}\s*(\d+)\s*", pattern):
            return name, {keys[0]: int(found[1]), keys[1]: int(found[2])}
    return pattern, {}

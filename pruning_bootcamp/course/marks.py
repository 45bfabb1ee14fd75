"""Sentences of the course that rest on something: `[[name: sentence]]` names the claim, or says why it is always so.

A text may compare only inside such marks (the tests look for it), so that nothing is stated that is not checked.
`[[name, other: sentence]]` rests on several claims.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from pruning_bootcamp.course.claims import Verdict

# What needs no measurement, and why it doesn't.
ALWAYS = {
    "counted": "it follows by counting: the same on any machine",
    "meant": "it says what the words or the formula mean, or how the thing is built",
    "paper": "it reports what the paper named beside it found, not what comes out here",
    "supposed": "it supposes a case and says what would follow; nothing is said to have happened",
    "advice": "it says what to do or to ask, not what comes out",
}
_MARK = re.compile(r"\[\[([a-z0-9_,\s]+):\s+(.*?)\]\]", re.DOTALL)


@dataclass(frozen=True)
class Marked:
    """A passage, and the claims it rests on (none: it is always so)."""

    names: tuple[str, ...]
    text: str


def marked_in(text: str) -> Iterator[Marked]:
    """The marked passages of the text, in order."""
    for found in _MARK.finditer(text):
        yield Marked(tuple(part.strip() for part in found.group(1).split(",")), found.group(2))


def without_marked(text: str) -> str:
    """What is left of a text when every marked passage is taken out."""
    return _MARK.sub(" ", text)


def render(text: str, show: Callable[[Marked], str]) -> str:
    """The text with each marked passage as `show` writes it."""
    return _MARK.sub(lambda found: show(next(marked_in(found.group(0)))), text)


def plain(marked: Marked) -> str:
    """As scripts have it: the sentence alone."""
    return marked.text


def with_names(marked: Marked) -> str:
    """As the pages have it: the sentence, and the names under which its claims stand below."""
    claims = [name for name in marked.names if name not in ALWAYS]
    return f"{marked.text} [{', '.join(claims)}]" if claims else marked.text


def judged(verdicts: Mapping[str, Verdict]) -> Callable[[Marked], str]:
    """As the screen has it: ✓ before a sentence that holds here; what came out instead of one that does not."""

    def show(marked: Marked) -> str:
        claims = {name: verdicts[name] for name in marked.names if name not in ALWAYS}
        failed = [f"{verdict.said} [{name}]" for name, verdict in claims.items() if verdict.holds is False]
        if failed:
            return f"✗ *Not so here: {'; '.join(failed)}. The course says:* {marked.text}"
        if claims and all(verdict.holds for verdict in claims.values()):
            return f"✓ {marked.text}"
        return with_names(marked)

    return show

"""What would pay here, as `profile --what-would-pay` found it -> text for the screen, and blocks for the report."""

from collections.abc import Sequence

from pruning_bootcamp.reporting.collect import Found
from pruning_bootcamp.reporting.document import (
    Block,
    Cell,
    CommandLines,
    Row,
    Section,
    Subheading,
    Table,
    Text,
    columns,
)
from pruning_bootcamp.reporting.run import markdown_table
from pruning_bootcamp.reporting.values import rate
from pruning_bootcamp.results import Answer, Option, Profile

_TITLES = {
    "backend": "Which backend?",
    "widths": "Fewer channels, and in which multiples?",
    "int8": "int8?",
    "zeros": "Its zeros?",
}


def would_pay_text(answers: Sequence[Answer], next_command: str | None) -> str:
    """Each question with its table, its answer and its command; the command to run next."""
    lines = ["\n=== What would make it quicker here ==="]
    for answer in answers:
        lines += ["", _TITLES[answer.question] + (f" ({answer.way})" if answer.way else "")]
        if timed := [one for one in answer.options if one.verdict is not None]:
            header = ["", "ms", "as quick", "95% interval", "against", "verdict", ""]
            lines.append(markdown_table(header, [_cells(one) for one in timed]))
        lines += [f"{one.name}: {one.note}" for one in answer.options if one.verdict is None]
        lines.append(answer.answer)
        lines += [f"  {answer.command}"] if answer.command else []
    last = "Nothing here is certainly quicker."
    lines += ["", last if next_command is None else f"Next, with the same -c and settings: {next_command}"]
    return "\n".join(lines)


def _cells(one: Option) -> list[str]:
    return [one.name, f"{one.latency_ms:.3f}", f"{one.speedup:.2f}x", *_judged(one), one.note or ""]


def _judged(one: Option) -> tuple[str, str, str]:
    interval = "too few pairs" if one.low is None else f"{one.low:.2f} to {one.high:.2f} (n {one.pairs})"
    return interval, one.against or "", one.verdict or ""


def would_pay(found: Sequence[Found[Profile]]) -> Section | None:
    """A table for each question of each profile that asked."""
    blocks: list[Block] = []
    for place, profile in enumerate(found):
        for number, answer in enumerate(profile.content.would_pay or ()):
            if number == 0:
                blocks.append(Subheading(f"{profile.name}: {profile.content.checkpoints.pruned}"))
            blocks += [Text(f"{_TITLES[answer.question]} {answer.answer}")]
            blocks += [CommandLines([answer.command])] if answer.command else []
            if answer.options:
                titles = columns("Option | # Median ms | # Times as quick | 95% interval | Against | Verdict | Note")
                caption = _TITLES[answer.question] + (f" {answer.way}" if answer.way else "")
                rows = [_row(one) for one in answer.options]
                blocks.append(Table(f"would-pay-{place}-{number}", caption, titles, rows))
    return Section("would-pay", "What would pay", blocks) if blocks else None


def _row(one: Option) -> Row:
    interval, against, verdict = _judged(one) if one.verdict is not None else ("–", "–", "not timed")
    speedup = Cell("–") if one.speedup is None else Cell(f"{one.speedup:.2f}x", one.speedup)
    return Row([one.name, rate(one.latency_ms, "{:.3f}"), speedup, interval, against, verdict, one.note or "–"])

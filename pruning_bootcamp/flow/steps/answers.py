"""Timings of a network and of versions of it -> whether each would pay, with the command that does it. No clock."""

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from pruning_bootcamp.backends import title_of
from pruning_bootcamp.results import Answer, Option
from pruning_bootcamp.tools.latency import LatencyStats

QUICKER, SLOWER, CANT_TELL = "quicker", "slower", "can't tell"
_STEP, _MOST = 0.05, 0.9
# two copies of one network differ by a few percent, by where they lie in memory; zeros that are used save more
_COPIES_DIFFER = 0.1

Timings = Mapping[str, LatencyStats]


@dataclass(frozen=True)
class Asked:
    """What the commands in the answers name: the network's file, and how it is to be run."""

    file: str
    backends: tuple[str, ...]
    batch_size: int
    threads: int | None

    def command(self, name: str, *words: str, backend: str | None = None, given: str = "--checkpoint") -> str:
        """`pruning-bootcamp NAME --checkpoint FILE ...`, to be given the config and the settings of this call too.

        `given`: the option by which that command takes the file.
        """
        timed = [] if backend is None else ["--backend", backend]
        if backend is not None and self.batch_size != 1:
            timed += ["--batch-size", str(self.batch_size)]
        if backend is not None and self.threads is not None:
            timed += ["--threads", str(self.threads)]
        return shlex.join(["pruning-bootcamp", name, given, self.file, *words, *timed])


@dataclass
class Cuts:
    """Cut networks by how their widths were rounded: what each saves of the multiply-accumulates; why one is not."""

    models: dict[str, nn.Module] = field(default_factory=dict)
    saved: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def option(
    name: str,
    stats: LatencyStats,
    base: LatencyStats,
    against: str,
    note: str | None = None,
    margin: float = 0.0,
) -> Option:
    """How many times as quick as `base` it is, the two timed in the same rounds; by `margin` or less tells nothing."""
    ratio = stats.ratio_to(base)
    assert ratio is not None, "they were timed in the same rounds"
    quicker, slower = ratio.high < 1 / (1 + margin), ratio.low > 1 + margin
    return Option(
        name=name,
        latency_ms=stats.median_ms,
        against=against,
        speedup=1 / ratio.median,
        low=1 / ratio.high if ratio.bounded else None,
        high=1 / ratio.low if ratio.bounded else None,
        pairs=ratio.n,
        verdict=QUICKER if quicker else SLOWER if slower else CANT_TELL,
        note=note,
    )


def said(one: Option) -> str:
    """`1.82x as quick as uncut (95% interval 1.79 to 1.84): quicker`."""
    interval = "too few pairs for an interval" if one.low is None else f"95% interval {one.low:.2f} to {one.high:.2f}"
    return f"{one.speedup:.2f}x as quick as {one.against} ({interval}): {one.verdict}"


def best_of(options: Iterable[Option]) -> Option | None:
    """Of those that are quicker for certain, the one that takes least."""
    quicker = [one for one in options if one.verdict == QUICKER and one.latency_ms is not None]
    return min(quicker, key=lambda one: one.latency_ms or math.inf, default=None)


def _chosen(options: Iterable[Option], whole: Timings, asked: Asked) -> tuple[Option | None, Option | None]:
    """The option to speak of, and the same against the backend that was asked for: None where it is what that runs.

    One that is quicker than that too goes before the others that are quicker than what they are compared with.
    `whole`: the network as it is on every backend, one race.
    """
    main = asked.backends[0]
    options = list(options)
    gains = {one.name: option(one.name, whole[one.name], whole[main], main) for one in options if one.name != main}
    paying = [one for one in options if one.name in gains and gains[one.name].verdict == QUICKER]
    best = best_of(paying) or best_of(options)
    return best, None if best is None else gains.get(best.name)


def _beside_asked(best: Option, gain: Option | None) -> str:
    """That the option is not certainly quicker than what was asked for, where it isn't."""
    if gain is None:
        return "; it is what was asked for"
    known = gain.verdict == QUICKER or gain.against == best.against
    return "" if known else f"; but against what was asked for: {said(gain)}"


def is_int8(stats: LatencyStats) -> bool:
    """Whether some of its products were computed in int8."""
    return "int8" in (stats.precision or "")


def about_backends(stats: Timings, asked: Asked, notes: Mapping[str, str]) -> Answer:
    """Which of the backends that leave the numbers as they are is quickest, against the one that was asked for."""
    main = asked.backends[0]
    others = [name for name in stats if name != main and not is_int8(stats[name])]
    options = [option(name, stats[name], stats[main], main) for name in others]
    best = best_of(options)
    count = len(options) + 1
    if best is not None:
        answer = f"Of {count} backends {best.name} is the quickest: {best.latency_ms:.3f} ms, {said(best)}."
    elif options:
        answer = f"Of {count} backends none is certainly quicker than {main}: {stats[main].median_ms:.3f} ms."
    else:
        answer = f"{main} is the only backend that could be timed here: {stats[main].median_ms:.3f} ms."
    command = None if best is None else asked.command("eval", "--measure-latency", backend=best.name)
    kept = [Option(name=name, note=note) for name, note in notes.items()]
    return Answer(
        question="backend",
        answer=answer,
        way=stats[main].way,
        options=(*options, *kept),
        command=command,
        takes_ms=None if best is None else best.latency_ms,
    )


def about_widths(stats: Timings, cuts: Cuts, backend: str, whole: Timings, asked: Asked) -> Answer:
    """What half of the multiply-accumulates comes to, by how the widths are rounded.

    `whole`: the network as it is on every backend, one race.
    """
    options = [
        option(name, one, stats["uncut"], "uncut", f"{100 * cuts.saved[name]:.1f}% fewer multiply-accumulates")
        for name, one in stats.items()
        if name != "uncut"
    ]
    kept = tuple(Option(name=name, note=note) for name, note in cuts.notes.items())
    if not options:
        return Answer(question="widths", answer=f"{backend} can't run what was cut of it.", options=kept)
    fallen, best = options[0], best_of(options)
    if best is None:
        answer = f"At half of its multiply-accumulates it is not certainly quicker in {backend}: {said(fallen)}."
    elif best is fallen:
        answer = f"At half of its multiply-accumulates it is quickest with {fallen.name}: {said(fallen)}."
    else:
        grid = option(best.name, stats[best.name], stats[fallen.name], fallen.name)
        answer = f"At half of its multiply-accumulates it is quickest in {best.name}: {said(best)}; {said(grid)}."
    main = asked.backends[0]
    if best is not None and backend != main:
        itself = option(backend, whole[backend], whole[main], main)
        # two races: what is cut against the whole there, and that against the whole on what was asked for
        if (best.low or 0.0) * (itself.low or 0.0) <= 1:
            answer += f" {backend} itself is {said(itself)}."
            best = None
    command = None
    if best is not None and (share := rounded_share(best.speedup or 1.0)) > 0:
        reduction = f"{share:g}"
        command = asked.command("prune-structured", "--target-latency-reduction", reduction, backend=backend)
    return Answer(
        question="widths",
        answer=answer,
        way=stats["uncut"].way,
        options=(*options, *kept),
        command=command,
        takes_ms=None if best is None or command is None else best.latency_ms,
    )


def rounded_share(speedup: float) -> float:
    """The share of the time that so many times as quick saves, rounded down to what is a round budget."""
    saved = min(1 - 1 / speedup, _MOST)
    return round(math.floor(saved / _STEP + 1e-9) * _STEP, 2)


def about_int8(stats: Timings, asked: Asked, notes: Mapping[str, str]) -> Answer:
    """int8 in each backend that has it, against float32 in the same runtime."""
    main = asked.backends[0]
    options = []
    for name, one in stats.items():
        if is_int8(one):
            alike = (other for other, their in stats.items() if their.version == one.version and not is_int8(their))
            base = next(alike, main)
            if base != name:
                options.append(option(name, one, stats[base], base))
    kept = [Option(name=name, note=note) for name, note in notes.items() if "int8" in title_of(name)]
    if not options:
        return Answer(question="int8", answer="No backend here could run it in int8.", options=tuple(kept))
    best, gain = _chosen(options, stats, asked)
    if best is None:
        answer = f"int8 is not certainly quicker: {'; '.join(f'{one.name} {said(one)}' for one in options)}."
        return Answer(question="int8", answer=answer, options=(*options, *kept))
    answer = (
        f"{best.name}: {best.latency_ms:.3f} ms, {said(best)}{_beside_asked(best, gain)}. What it costs in accuracy is "
        "not known by this."
    )
    pays = gain is not None and gain.verdict == QUICKER
    return Answer(
        question="int8",
        answer=answer,
        options=(*options, *kept),
        command=asked.command("export", "--format", "int8", "--verify") if pays else None,
        takes_ms=best.latency_ms if pays else None,
    )


def about_zeros(
    share: float, found: Mapping[str, Timings], whole: Timings, asked: Asked, notes: Mapping[str, str]
) -> Answer:
    """Whether a backend is quicker for the network's zeros, than with other numbers in their places.

    `whole`: the network as it is on every backend, one race.
    """
    if not found and not notes:
        return Answer(question="zeros", answer=f"{100 * share:.1f}% of its weights are zero: there is nothing to use.")
    options = [
        option(name, pair["zeros"], pair["filled"], "without zeros", margin=_COPIES_DIFFER)
        for name, pair in found.items()
    ]
    kept = [Option(name=name, note=note) for name, note in notes.items()]
    best, gain = _chosen(options, whole, asked)
    begun = f"{100 * share:.1f}% of its weights are zero"
    if best is None:
        answer = (
            f"{begun}, and no backend that is installed here is certainly quicker for that, by more than the "
            f"{100 * _COPIES_DIFFER:.0f}% that two copies of one network may differ by. Cut channels instead."
        )
        return Answer(question="zeros", answer=answer, options=(*options, *kept))
    answer = f"{begun}, and {best.name} uses them: {best.latency_ms:.3f} ms, {said(best)}{_beside_asked(best, gain)}."
    pays = gain is not None and gain.verdict == QUICKER
    return Answer(
        question="zeros",
        answer=answer,
        options=(*options, *kept),
        command=asked.command("eval", "--measure-latency", backend=best.name) if pays else None,
        takes_ms=whole[best.name].median_ms if pays else None,
    )


def next_command(answers: Sequence[Answer]) -> str | None:
    """The command of the answer by which a pass takes least."""
    found = [(answer.takes_ms or math.inf, answer.command) for answer in answers if answer.command is not None]
    return min(found, default=(0.0, None))[1]

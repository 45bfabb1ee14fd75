"""Which results may be compared: same data, network and dense baseline; runs that differ in the seed are one row."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pruning_bootcamp.reporting.pareto import pareto_front
from pruning_bootcamp.reporting.records import PRUNING, Record
from pruning_bootcamp.reporting.values import Spread, spread


@dataclass(frozen=True)
class SettingRuns:
    """Runs that differ in nothing but the seed."""

    label: str
    records: Sequence[Record]

    @property
    def first(self) -> Record:
        """The run that speaks for all where they must agree: its command, budget and config."""
        return self.records[0]

    @property
    def seeds(self) -> list[int]:
        """Rising, each once; without those of runs that did not record any."""
        return sorted({record.seed for record in self.records if record.seed is not None})

    def over_seeds(self, read: Callable[[Record], float | None]) -> Spread | None:
        """Over the seeds; None where a run does not know it."""
        return spread([read(record) for record in self.records])

    @property
    def accuracy(self) -> Spread | None:
        """On the test images; None where a run did not read them."""
        return self.over_seeds(lambda record: record.accuracy)

    @property
    def val_accuracy(self) -> Spread | None:
        """Percent, on validation images."""
        return self.over_seeds(lambda record: record.val_accuracy)

    @property
    def drop(self) -> Spread | None:
        """Points of test accuracy below the dense network; negative where it gained."""
        return self.over_seeds(lambda record: record.metrics.accuracy_drop)

    @property
    def fewer_flops_pct(self) -> Spread | None:
        """FLOPs saved, in percent of the dense network's."""
        return self.over_seeds(lambda record: record.metrics.flops_reduction_pct)

    @property
    def zeros_pct(self) -> Spread | None:
        """Zeros, in percent of the prunable weights."""
        return self.over_seeds(lambda r: None if r.metrics.sparsity is None else 100 * r.metrics.sparsity)

    @property
    def flops_g(self) -> Spread | None:
        """Multiply-accumulates of one image, in 10⁹."""
        return self.over_seeds(lambda record: record.metrics.flops_g)

    @property
    def time_pct(self) -> Spread | None:
        """Of the dense network's time, with which it was timed in turn; None where a run was not."""
        saved = self.over_seeds(lambda record: record.metrics.latency_reduction_pct)
        return None if saved is None else replace(saved, mean=100 - saved.mean)

    @property
    def timed_by(self) -> str | None:
        """The way to run it on which it was timed; None where its runs were not, or not on the same."""
        ways = {record.metrics.latency_way or None for record in self.records}
        return ways.pop() if len(ways) == 1 else None

    @property
    def kept_params_m(self) -> Spread | None:
        """Parameters that are not zero, in millions."""
        return self.over_seeds(lambda record: record.kept_params_m)

    @property
    def n_said(self) -> str:
        """`one seed`, `3 seeds`; `3 runs of 2 seeds` when a seed was run twice."""
        n, different = len(self.records), len(self.seeds) or 1
        if n == 1:
            return "one seed"
        return f"{n} seeds" if n == different else f"{n} runs of {different} seed{'s' if different > 1 else ''}"


@dataclass(frozen=True)
class Experiment:
    """Runs that may be compared with each other: of one data set, one network, one dense network before pruning."""

    dataset: str
    model: str
    dense_accuracy: float | None
    """of the dense network that all of them started from, percent on the test split; None when seeds have their own, or
    when the test images were not read"""
    settings: Sequence[SettingRuns]
    baselines: Sequence[Record]
    """the runs that trained it"""
    apart: str = ""
    """what tells it from another experiment of the same network and data"""

    @property
    def title(self) -> str:
        """`MODEL on DATASET`, and what tells it apart, where another is of the same two."""
        return f"{self.model} on {self.dataset}" + (f", {self.apart}" if self.apart else "")

    @property
    def pruned(self) -> list[SettingRuns]:
        """The settings whose runs pruned; the dense trainings are left out."""
        return [setting for setting in self.settings if setting.first.command in PRUNING]

    @property
    def dense_val_accuracy(self) -> float | None:
        """Of the one dense network that all pruned runs started from, percent on validation images; None: not known."""
        found = {_rounded(record.dense_val_accuracy) for record in self.records}
        return found.pop() if len(found) == 1 else None

    @property
    def records(self) -> list[Record]:
        """All runs, setting by setting."""
        return [record for setting in self.settings for record in setting.records]


def experiments(records: Iterable[Record]) -> list[Experiment]:
    """By dataset, model and dense baseline, in the order of their names."""
    by_network: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        by_network[record.dataset, record.model].append(record)
    found = []
    for (dataset, model), members in sorted(by_network.items()):
        trained = [record for record in members if record.command == "train"]
        pruned = [record for record in members if record.command != "train"]
        known = _identities(members)
        claimed: set[str] = set()
        for family in _families(pruned, known) or [[]]:
            dense = {known[record.name] for record in family}
            mine = [record for record in trained if not pruned or known[record.name] in dense]
            claimed |= {record.name for record in mine}
            accuracy = _rounded(family[0].dense.accuracy) if len(dense) == 1 else None
            found.append(Experiment(dataset, model, accuracy, settings([*mine, *family]), mine))
        if alone := [record for record in trained if record.name not in claimed]:
            found.append(Experiment(dataset, model, None, settings(alone), alone))
    return _named_apart(found)


def _named_apart(found: Sequence[Experiment]) -> list[Experiment]:
    """Experiments of one network and data each say which dense network they started from."""

    def dense(experiment: Experiment) -> str:
        if experiment.dense_accuracy is None:
            validation = {record.dense.val_accuracy for record in experiment.records if record.command != "train"}
            known = next(iter(validation)) if len(validation) == 1 else None
            return f"from the dense network with {known:.2f}% on validation" if known else "other dense networks"
        return f"from the dense network with {experiment.dense_accuracy:.2f}%"

    def weights(experiment: Experiment) -> str:
        pruned = [record.dense.weights for record in experiment.records if record.command != "train"]
        return f"{experiment.apart}, weights {next((w for w in pruned if w), 'not recorded')[:8]}"

    for tell in (dense, weights):
        count = Counter(experiment.title for experiment in found)
        found = [
            replace(experiment, apart=tell(experiment)) if count[experiment.title] > 1 else experiment
            for experiment in found
        ]
    return list(found)


def _identities(records: Sequence[Record]) -> dict[str, str]:
    """Record -> which dense network it is or was made from: by its weights, or by its accuracy where they are unknown.

    Where only one of that accuracy is known by its weights, it is that one.
    """

    def accuracy(record: Record) -> float | str | None:
        test, validation = _rounded(record.dense.accuracy), _rounded(record.dense.val_accuracy)
        return test if test is not None or validation is None else f"{validation} on validation, "

    by_accuracy: dict[float | str | None, set[str]] = defaultdict(set)
    for record in records:
        if record.dense.weights:
            by_accuracy[accuracy(record)].add(record.dense.weights)
    found = {}
    for record in records:
        same = by_accuracy[accuracy(record)]
        guess = next(iter(same)) if len(same) == 1 else f"with {accuracy(record)}%"
        found[record.name] = record.dense.weights or guess
    return found


def _families(pruned: Sequence[Record], known: Mapping[str, str]) -> list[list[Record]]:
    """Runs by the dense network they started from; one family when each seed has a dense network of its own."""
    by_dense: dict[str, list[Record]] = defaultdict(list)
    by_seed: dict[int | None, set[str]] = defaultdict(set)
    for record in pruned:
        by_dense[known[record.name]].append(record)
        by_seed[record.seed].add(known[record.name])
    if len(by_dense) > 1 and len(by_seed) > 1 and all(len(found) == 1 for found in by_seed.values()):
        return [list(pruned)]
    return sorted(by_dense.values(), key=lambda family: _in_order(str(family[0].dense.accuracy)))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def settings(records: Sequence[Record]) -> list[SettingRuns]:
    """Records with the same config but the seed, together; each with a label that no other of the experiment has."""
    by_setting: dict[tuple[tuple[str, str], ...], list[Record]] = defaultdict(list)
    for record in records:
        by_setting[tuple(sorted(record.setting.items()))].append(record)
    bundles = [sorted(bundle, key=lambda record: (record.seed or 0, record.name)) for bundle in by_setting.values()]
    labels = _labels([bundle[0] for bundle in bundles])
    made = [SettingRuns(label, bundle) for label, bundle in zip(labels, bundles, strict=True)]
    return sorted(made, key=lambda setting: (setting.first.command != "train", setting.first.command, setting.label))


def _labels(firsts: Sequence[Record]) -> list[str]:
    """Method and amount; where that is not unique, the config keys that differ too, and at last the folder."""
    plain = [": ".join(part for part in (record.method, record.amount) if part) for record in firsts]
    labels = []
    for record, label in zip(firsts, plain, strict=True):
        alike = [other for other, same in zip(firsts, plain, strict=True) if same == label and other is not record]
        keys = sorted({key for other in alike for key in differing(record, other)})
        told = ", ".join(f"{key}={record.setting.get(key, '-')}" for key in keys[:3])
        labels.append(f"{label} ({told})" if alike and told else label)
    repeated = {label for label in labels if labels.count(label) > 1}
    return [
        f"{label} [{record.name}]" if label in repeated else label for record, label in zip(firsts, labels, strict=True)
    ]


def differing(one: Record, other: Record) -> set[str]:
    """The config keys in which two records differ, the seed apart."""
    keys = set(one.setting) | set(other.setting)
    return {key for key in keys if one.setting.get(key) != other.setting.get(key)}


@dataclass(frozen=True)
class Ablation:
    """Settings that are the same but for one config key."""

    key: str
    values: Sequence[tuple[str, SettingRuns]]


def ablations(experiment: Experiment) -> list[Ablation]:
    """Every set of settings that differ in exactly one config key; the budgets' keys last."""
    with_config = [setting for setting in experiment.settings if setting.first.config]
    keys = sorted({key for setting in with_config for key in setting.first.setting})
    found = []
    for key in keys:
        by_rest: dict[tuple[tuple[str, str], ...], list[SettingRuns]] = defaultdict(list)
        for setting in with_config:
            rest = tuple(sorted((name, value) for name, value in setting.first.setting.items() if name != key))
            by_rest[rest].append(setting)
        for members in by_rest.values():
            if len(members) > 1:
                values = [(member.first.setting.get(key, "not there"), member) for member in members]
                found.append(Ablation(key, sorted(values, key=lambda pair: _in_order(pair[0]))))
    return sorted(found, key=lambda ablation: (_is_budget(ablation.key), ablation.key, -len(ablation.values)))


def _in_order(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _is_budget(key: str) -> bool:
    return key.endswith(("sparsity", "_reduction"))


def pareto(
    settings: Sequence[SettingRuns],
    quality: Callable[[SettingRuns], float | None],
    cost: Callable[[SettingRuns], float | None],
) -> list[SettingRuns]:
    """Those that no other beats: none is as good or better in both and better in one. Unknown metrics take no part."""
    known = [(q, c, s) for s in settings if (q := quality(s)) is not None and (c := cost(s)) is not None]
    return [known[place][2] for place in pareto_front([(q, c) for q, c, _ in known])]


def same_budget(one: SettingRuns, other: SettingRuns) -> bool:
    """Whether both asked the same command for the same amount."""
    return (one.first.command, one.first.amount) == (other.first.command, other.first.amount)

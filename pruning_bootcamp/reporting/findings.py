"""What a folder of results says, as data: experiments, fronts, ablations, failures, fairness, recommendations."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pruning_bootcamp.reporting.collect import Collected, Found
from pruning_bootcamp.reporting.experiments import Ablation, Experiment, SettingRuns, ablations, experiments, pareto
from pruning_bootcamp.reporting.fairness import FairnessCheck, fairness_card
from pruning_bootcamp.reporting.hints import from_scan, quickest, slow_savings
from pruning_bootcamp.reporting.judgement import Failure, failures, recommendations
from pruning_bootcamp.reporting.picking import Advice
from pruning_bootcamp.reporting.records import Record, records
from pruning_bootcamp.reporting.values import Spread
from pruning_bootcamp.results import Profile


@dataclass(frozen=True)
class ExperimentFindings:
    experiment: Experiment
    ablations: Sequence[Ablation]
    front_flops: Sequence[SettingRuns]
    """validation accuracy against multiply-accumulates: those that no other beats"""
    front_params: Sequence[SettingRuns]
    """the same against parameters that are not zero"""
    fairness: Sequence[FairnessCheck]
    failures: Sequence[Failure]
    advice: Sequence[Advice]


@dataclass(frozen=True)
class Findings:
    collected: Collected
    records: Sequence[Record]
    experiments: Sequence[ExperimentFindings]
    slow: Sequence[Failure]
    advice: Sequence[Advice]
    """that belong to no experiment: of profiles and scans"""


def find(collected: Collected) -> Findings:
    """Everything that follows from the metrics; reads no file."""
    every = records(collected.runs)
    found = []
    for experiment in experiments(every):
        profiles = _profiles_of(experiment, collected.profiles)
        shown = experiment.settings
        found.append(
            ExperimentFindings(
                experiment,
                ablations(experiment),
                pareto(shown, validation_of, lambda setting: _mean(setting.flops_g)),
                pareto(shown, validation_of, lambda setting: _mean(setting.kept_params_m)),
                fairness_card(experiment, profiles),
                failures(experiment),
                recommendations(experiment),
            )
        )
    missed = {record.folder.resolve() for record in every if record.metrics.goal_met is False}
    wanted = [profile for profile in collected.profiles if not _places_of(profile) & missed]  # how to run what is kept
    advice = [*quickest(wanted), *(line for scan in collected.scans for line in from_scan(scan))]
    return Findings(collected, every, found, slow_savings(collected.profiles), advice)


def validation_of(setting: SettingRuns) -> float | None:
    """Mean validation accuracy in percent; None where a run does not know its own."""
    return _mean(setting.val_accuracy)


def _mean(value: Spread | None) -> float | None:
    return None if value is None else value.mean


def _profiles_of(experiment: Experiment, profiles: Sequence[Found[Profile]]) -> list[Found[Profile]]:
    """Profiles whose pruned checkpoint is one of the experiment's, or that lie in one of its folders."""
    folders = {record.folder.resolve() for record in experiment.records}
    return [profile for profile in profiles if _places_of(profile) & folders]


def _places_of(profile: Found[Profile]) -> set[Path]:
    """Folders of the run that a profile may be about."""
    checkpoint = profile.content.checkpoints.pruned
    return {profile.folder.resolve()} | ({Path(checkpoint).parent.resolve()} if checkpoint else set())

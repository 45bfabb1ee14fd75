"""What follows from the figures, worked out by hand; and laws that hold for any figures."""

from pathlib import Path
from statistics import stdev

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from result_folders import write_comparison, write_profile, write_run, write_scan

from pruning_bootcamp.reporting.collect import collect
from pruning_bootcamp.reporting.experiments import pareto
from pruning_bootcamp.reporting.findings import ExperimentFindings, Findings, find
from pruning_bootcamp.reporting.picking import said
from pruning_bootcamp.reporting.values import spread


def findings(root: Path) -> Findings:
    return find(collect(root))


def experiment(root: Path) -> ExperimentFindings:
    (only,) = findings(root).experiments
    return only


def check(found: ExperimentFindings, words: str) -> tuple[bool | None, str, str]:
    (line,) = [line for line in found.fairness if words in line.question]
    return line.met, line.found, "\n".join(line.mend)


def test_seeds_are_one_row_with_mean_spread_and_n(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    rows = {setting.label: setting for setting in experiment(tmp_path).experiment.settings}
    assert set(rows) == {
        "dense",
        "l1, global: 50% fewer FLOPs",
        "random, global: 50% fewer FLOPs",
        "magnitude, global: 90% zeros",
    }
    l1 = rows["l1, global: 50% fewer FLOPs"]
    assert l1.accuracy.mean == pytest.approx(91.2)
    assert l1.accuracy.std == pytest.approx(stdev([91.0, 91.2, 91.4]))
    assert said(l1.accuracy, l1) == "91.20 ± 0.20% (3 seeds)"
    assert said(rows["dense"].accuracy, rows["dense"]) == "92.00% (one seed)"


def test_a_seed_run_twice_is_not_two_seeds(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path, name, "prune-structured", fewer=50.0)
    (setting,) = experiment(tmp_path).experiment.settings
    assert setting.n_said == "2 runs of 1 seed"


def test_results_from_different_dense_networks_are_not_compared(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "prune-structured", fewer=50.0)
    write_run(tmp_path, "b", "prune-structured", score="l2", fewer=50.0, metrics={"baseline": {"accuracy": 80.0}})
    found = [one.experiment for one in findings(tmp_path).experiments]
    assert [experiment.dense_accuracy for experiment in found] == [80.0, 92.0]
    ends = [experiment.title.removeprefix("cifar_resnet20 on digits") for experiment in found]
    assert ends == [f", from the dense network with {accuracy}.00%" for accuracy in (80, 92)]


def test_dense_networks_of_one_accuracy_are_told_apart_by_their_weights(tmp_path: Path) -> None:
    """On 449 test images two seeds easily come to the same accuracy."""
    write_run(tmp_path, "dense_a", "train", accuracy=92.0, metrics={"weights": "aaaa000011112222"})
    write_run(tmp_path, "dense_b", "train", accuracy=92.0, seed=1, metrics={"weights": "bbbb000011112222"})
    for name, weights in (("a1", "aaaa000011112222"), ("a2", "aaaa000011112222"), ("b1", "bbbb000011112222")):
        baseline = {"accuracy": 92.0, "weights": weights}
        write_run(tmp_path, name, "prune-structured", score=name, fewer=50.0, metrics={"baseline": baseline})
    first, second = (one.experiment for one in findings(tmp_path).experiments)
    assert {record.name for record in first.records} == {"dense_a", "a1", "a2"}
    assert {record.name for record in second.records} == {"dense_b", "b1"}
    assert first.title.endswith("from the dense network with 92.00%, weights aaaa0000")
    assert second.title.endswith("weights bbbb0000")


def test_a_run_from_before_weights_were_recorded_goes_by_accuracy(tmp_path: Path) -> None:
    baseline = {"accuracy": 92.0, "weights": "aaaa000011112222"}
    write_run(tmp_path, "new", "prune-structured", fewer=50.0, metrics={"baseline": baseline})
    write_run(tmp_path, "old", "prune-structured", score="l2", fewer=50.0)
    (only,) = (one.experiment for one in findings(tmp_path).experiments)
    assert {record.name for record in only.records} == {"new", "old"}
    assert only.dense_accuracy == 92.0


def test_each_seed_may_have_its_own_dense_network(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "prune-structured", seed=0, metrics={"baseline": {"accuracy": 92.0}})
    write_run(tmp_path, "b", "prune-structured", seed=1, metrics={"baseline": {"accuracy": 92.5}})
    found = experiment(tmp_path)
    assert len(found.experiment.settings) == 1
    assert check(found, "same dense")[1].startswith("each seed its own (2 dense networks)")


def test_ablations_are_settings_that_differ_in_exactly_one_key(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "prune-structured", score="l1", fewer=50.0)
    write_run(tmp_path, "b", "prune-structured", score="l2", fewer=50.0)
    write_run(tmp_path, "c", "prune-structured", score="l2", config={"fine_tune": {"epochs": "9ep"}})
    write_run(
        tmp_path, "d", "prune-structured", score="fpgm", config={"fine_tune": {"epochs": "9ep"}, "train": {"lr": 1}}
    )
    found = {ablation.key: [value for value, _ in ablation.values] for ablation in experiment(tmp_path).ablations}
    assert found == {"structured.score": ["l1", "l2"], "fine_tune.epochs": ["5ep", "9ep"]}


def test_the_front_by_hand_is_on_validation_accuracy(tmp_path: Path) -> None:
    """b beats c; a is the cheapest; the dense network the most accurate on validation, though not on test."""
    write_run(tmp_path, "dense", "train", accuracy=92.0, val_accuracy=95.0)
    write_run(tmp_path, "a", "prune-structured", score="a", val_accuracy=90.0, accuracy=99.0, fewer=70.0)
    write_run(tmp_path, "b", "prune-structured", score="b", val_accuracy=93.0, accuracy=70.0, fewer=50.0)
    write_run(tmp_path, "c", "prune-structured", score="c", val_accuracy=92.0, accuracy=98.0, fewer=40.0)
    front = [setting.first.name for setting in experiment(tmp_path).front_flops]
    assert front == ["a", "b", "dense"]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=25))
def test_a_front_beats_the_rest_and_nothing_in_it_is_beaten(points: list[tuple[int, int]]) -> None:
    front = pareto(points, lambda p: p[0], lambda p: p[1])  # type: ignore[arg-type]

    def beats(one: tuple[int, int], other: tuple[int, int]) -> bool:
        return one[0] >= other[0] and one[1] <= other[1] and one != other

    assert front
    for point in points:
        assert (point in front) == (not any(beats(other, point) for other in points))


@given(st.lists(st.floats(0, 100), min_size=2, max_size=9))
def test_a_spread_is_mean_and_sample_deviation_and_needs_every_value(values: list[float]) -> None:
    found = spread(values)
    assert found is not None
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.std == pytest.approx(stdev(values))
    assert spread([*values, None]) is None


def test_failures_by_the_stated_rules(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    write_run(
        tmp_path, "weak", "prune-structured", score="weak", accuracy=80.0, val_accuracy=85.0, fewer=50.0, goal_met=False
    )
    write_profile(tmp_path / "l1_0", fewer=50.0, quicker=10.0)
    found = findings(tmp_path)
    cases = [(case.where, case.rule.split()[0]) for case in found.experiments[0].failures]
    weak = "weak, global: 50% fewer FLOPs"
    assert cases == [(weak, "its"), (weak, "the"), (weak, "a"), (weak, "validation")], "and random's own loss is none"
    (slow,) = found.slow
    assert slow.where == "l1_0"
    assert "10.0% less latency (median of n 100, batch 1, torch on cpu (a CPU), 1 thread)" in slow.metrics


def test_fairness_says_what_is_there_and_how_to_mend_the_rest(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    found = experiment(tmp_path)
    met, said, mend = check(found, "Random")
    assert (met, said) == (False, "missing at 90% zeros"), "it is there at 50% fewer FLOPs"
    assert mend == (
        f"pruning-bootcamp prune-unstructured -c {tmp_path}/zeros/config.yaml --method random "
        f"--save-dir {tmp_path}/zeros_random"
    )
    met, _, mend = check(found, "extra training")
    assert met is False
    assert "--sparsity 0" in mend
    met, said, mend = check(found, "Several seeds")
    assert (met, said) == (False, "2 of 3 settings have fewer")
    assert mend.count("--seed 1") == mend.count("--seed 2") == 2
    assert check(found, "same training, validation")[0] is True
    assert check(found, "Latency")[0] is None, "not measured is not unfair"


def test_what_was_mended_is_met(tmp_path: Path) -> None:
    write_comparison(tmp_path)
    for seed in range(3):
        if seed:
            write_run(tmp_path, f"zeros_{seed}", "prune-unstructured", score="magnitude", sparsity=0.9, seed=seed)
            write_run(tmp_path, f"random_{seed}", "prune-structured", score="random", fewer=50.0, seed=seed)
        write_run(tmp_path, f"zr_{seed}", "prune-unstructured", score="random", sparsity=0.9, seed=seed)
        write_run(tmp_path, f"dense_{seed}", "prune-unstructured", score="magnitude", sparsity=0.0, seed=seed)
    write_profile(tmp_path / "l1_0")
    found = experiment(tmp_path)
    assert [(line.question, line.met) for line in found.fairness if line.met is not True] == []
    write_profile(tmp_path / "l1_1", threads=8)
    met, said, _ = check(experiment(tmp_path), "Latency")
    assert (met, said) == (False, "2 different ways")


def test_unlike_training_at_one_budget_is_unfair(tmp_path: Path) -> None:
    write_run(tmp_path, "a", "prune-structured", score="l1", fewer=50.0)
    write_run(tmp_path, "b", "prune-structured", score="l2", fewer=50.0, config={"fine_tune": {"epochs": "50ep"}})
    met, said, _ = check(experiment(tmp_path), "same training after")
    assert (met, said) == (False, "differs at 50% fewer FLOPs")


def test_random_channels_that_are_fitted_otherwise_are_no_floor(tmp_path: Path) -> None:
    fitted = {"structured": {"refit": "closed_form", "refit_rounds": 6}}
    write_run(tmp_path, "l1", "prune-structured", score="l1", fewer=50.0, config=fitted)
    write_run(tmp_path, "r", "prune-structured", score="random", fewer=50.0)
    assert check(experiment(tmp_path), "Random")[0] is False
    write_run(tmp_path, "rf", "prune-structured", score="random", fewer=50.0, config=fitted)
    assert check(experiment(tmp_path), "Random")[0] is True


def test_a_recommendation_is_chosen_on_validation_and_names_its_figures(tmp_path: Path) -> None:
    """`luck` is best on the test images, and too far below the dense network's 93.0 on the validation images."""
    write_comparison(tmp_path)
    write_run(tmp_path, "luck", "prune-structured", score="luck", accuracy=99.0, val_accuracy=80.0, fewer=50.0)
    advice = experiment(tmp_path).advice
    assert advice[0].what == "Take l1, global: 50% fewer FLOPs (prune-structured)."
    assert "validation 92.20 ± 0.20% (3 seeds), 50.0 ± 0.0% fewer FLOPs" in advice[0].metrics
    assert "on the test images, 91.20 ± 0.20% (3 seeds), 0.80 ± 0.20 points below" in advice[0].metrics
    assert "93.00%" in advice[0].rule
    assert advice[0].command is not None
    assert f"export -c {tmp_path}/l1_0/config.yaml --checkpoint {tmp_path}/l1_0/pruned_model.pth" in advice[0].command


def test_no_recommendation_when_every_setting_lost_too_much(tmp_path: Path) -> None:
    write_run(tmp_path, "dense", "train", val_accuracy=93.0, accuracy=92.0)
    write_run(tmp_path, "a", "prune-structured", val_accuracy=80.0, fewer=50.0)
    assert (
        experiment(tmp_path).advice[0].what.startswith("None of the 1 settings of prune-structured kept its accuracy")
    )


def test_rivals_that_can_not_be_told_apart_get_more_seeds(tmp_path: Path) -> None:
    for score, vals in (("l1", (92.0, 92.4, 92.8)), ("l2", (92.1, 92.2, 92.3)), ("bad", (80.0, 80.1, 80.2))):
        for seed, val in enumerate(vals):
            write_run(
                tmp_path, f"{score}{seed}", "prune-structured", score=score, seed=seed, val_accuracy=val, fewer=50.0
            )
    (close,) = [line for line in experiment(tmp_path).advice if "more seeds" in line.what]
    assert "preferring l1, global to l2, global" in close.what
    assert close.command is not None
    assert "--seed 3" in close.command


def test_rivals_of_one_method_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    for lr in (0.05, 0.5):
        config = {"fine_tune": {"enabled": True, "epochs": "5ep", "lr": lr}}
        write_run(tmp_path, f"lr{lr}", "prune-structured", fewer=50.0, val_accuracy=90 + lr, config=config)
    (close,) = [line for line in experiment(tmp_path).advice if "more seeds" in line.what]
    assert "preferring l1, global (fine_tune.lr=0.5) to l1, global (fine_tune.lr=0.05)" in close.what


def test_a_scan_names_fragile_and_tough_layers(tmp_path: Path) -> None:
    write_scan(tmp_path)
    fragile, tough = findings(tmp_path).advice
    assert fragile.what == "Prune these less, or leave them out (prune.exclude): conv1."
    assert tough.what == "These can lose more than the rest: layer3.0.conv1."
    assert fragile.metrics == "conv1 loses 8.00 points at 50% (135 validation images, one scan, one seed)", (
        "layer2.0.conv1 loses 3.00, and the standard error of 90% on 135 images is 2.58"
    )
    assert "layer3.0.conv1 loses 0.10 points at 90%" in tough.metrics


def test_sparsities_are_printed_whole(tmp_path: Path) -> None:
    write_scan(tmp_path)
    path = tmp_path / "sensitivity" / "magnitude_layer" / "sensitivity.yaml"
    path.write_text(path.read_text().replace("sparsity: 0.9\n", "sparsity: 0.975\n"))
    assert "at 97.5%" in findings(tmp_path).advice[-1].metrics


def test_a_profile_says_how_to_run_and_what_is_in_the_way(tmp_path: Path) -> None:
    write_profile(write_run(tmp_path, "cut", "prune-structured", fewer=50.0))
    run_with, look = findings(tmp_path).advice
    assert "onnxruntime on cpu, batch 16" in run_with.what, "3.2 ms for 16 images beat 1.0 ms for one"
    assert "n at least 100" in run_with.metrics
    assert "+40.0 points: memory" in look.metrics


def test_profiles_with_the_same_quickest_way_are_one_line_and_noise_is_none(tmp_path: Path) -> None:
    for name in ("a", "b", "noise"):
        write_profile(write_run(tmp_path, name, "prune-structured", fewer=50.0), quicker=45.0)
    path = tmp_path / "noise" / "profile.yaml"
    path.write_text(path.read_text().replace("dense/best_model.pth", str(tmp_path / "noise" / "pruned_model.pth")))
    (run_with,) = findings(tmp_path).advice
    assert run_with.what == "Run a, b with onnxruntime on cpu, batch 16."


def test_a_dense_network_that_is_quicker_than_the_pruned_one_is_named(tmp_path: Path) -> None:
    """16 images in 3.2 ms are 0.2 ms an image; the dense network takes 0.1 in the same way."""
    write_profile(write_run(tmp_path, "cut", "prune-structured", fewer=50.0), quicker=45.0)
    path = tmp_path / "cut" / "profile.yaml"
    content = yaml.safe_load(path.read_text())
    pair = content["alternatives"]["onnxruntime on cpu, batch 16"]
    pair["baseline"] = pair["baseline"] | {"median_ms": 1.6, "batch_size": 16}
    path.write_text(yaml.safe_dump(content))
    (run_with,) = findings(tmp_path).advice
    assert "The dense network at its quickest is quicker still: pruning saved no time there." in run_with.what
    assert "the dense network, onnxruntime on cpu, batch 16 0.1000" in run_with.metrics


def test_a_profile_whose_cut_widths_are_all_even_is_not_told_to_round(tmp_path: Path) -> None:
    """The advice is given with its count, and only to widths that are no multiple of 8."""
    for name, uneven in (("odd", 3), ("even", 0)):
        write_profile(write_run(tmp_path, name, "prune-structured", fewer=50.0))
        path = tmp_path / name / "profile.yaml"
        content = yaml.safe_load(path.read_text()) | {"cut_widths": {"cut": 5, "uneven": uneven}}
        path.write_text(yaml.safe_dump(content))
    looks = {advice.what.split()[4]: advice.what for advice in findings(tmp_path).advice if "keeps" in advice.what}
    assert "3 of its 5 cut widths are no multiple of 8" in looks["odd"]
    assert looks["even"] == "Look at what keeps even slow before cutting more."


def test_a_dense_network_within_the_noise_is_not_called_quicker(tmp_path: Path) -> None:
    write_profile(write_run(tmp_path, "cut", "prune-structured", fewer=50.0), quicker=45.0)
    path = tmp_path / "cut" / "profile.yaml"
    content = yaml.safe_load(path.read_text())
    pair = content["alternatives"]["onnxruntime on cpu, batch 16"]
    pair["baseline"] = pair["baseline"] | {"median_ms": 3.1, "batch_size": 16}
    for verdict, is_said in (("may be noise", False), ("slower", True)):
        pair["paired"] = {"verdict": verdict}
        path.write_text(yaml.safe_dump(content))
        (run_with,) = findings(tmp_path).advice
        assert ("quicker still" in run_with.what) == is_said

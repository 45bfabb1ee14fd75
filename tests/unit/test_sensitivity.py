"""One site pruned at a time: the weights come back bit for bit, points by an independent count, and it can be read."""

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from torch import nn

from pruning_bootcamp import heatmap
from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model
from pruning_bootcamp.pruning.sections import PruneSettings
from pruning_bootcamp.pruning.weights.curves import read_rows
from pruning_bootcamp.results import Metric, Scan, scan_as_read, scan_as_written
from pruning_bootcamp.schema import Choice
from pruning_bootcamp.sensitivity import Quality, Site, as_scan, pruner, ranking, scan, sites

CHOICES: dict[str, Any] = {
    "settings": PruneSettings(),
    "previous": None,
    "stats_batches": None,
    "seed": 0,
}


def two_layers() -> nn.Sequential:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.arange(1.0, 13.0).reshape(3, 4))
        net[2].weight.copy_(torch.arange(1.0, 7.0).reshape(2, 3))
    return net


def zeros(net: nn.Module) -> tuple[int, int]:
    first, second = (net.get_parameter(name) for name in ("0.weight", "2.weight"))
    return int((first == 0).sum()), int((second == 0).sum())


def test_one_layer_at_a_time_and_everything_comes_back() -> None:
    net = two_layers()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    prune_to = pruner(net, **CHOICES)
    where = sites(net, prune_to(0.5), "layer")
    assert where == [Site("0", ("0.weight",), 12), Site("2", ("2.weight",), 6)]
    seen = []

    def evaluate(model: nn.Module) -> Quality:
        seen.append(zeros(model))
        model.train()(torch.randn(8, 4))  # batch norm's statistics move, and have to come back too
        return Quality(50.0, 1.0)

    found = []
    for site, sparsity, quality in scan(net, where, (0.5, 0.75), lambda s: prune_to(s).masks, evaluate, {}):
        assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
        assert quality == Quality(50.0, 1.0)
        found.append((site.name, sparsity))
    assert found == [("0", 0.5), ("2", 0.5), ("0", 0.75), ("2", 0.75)]
    assert seen == [(6, 0), (0, 3), (9, 0), (0, 4)]


def test_weights_come_back_when_the_evaluation_fails() -> None:
    net = two_layers()
    before = net[0].weight.detach().clone()
    prune_to = pruner(net, **CHOICES)

    def broken(model: nn.Module) -> Quality:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        next(scan(net, sites(net, prune_to(0.5), "layer"), (0.5,), lambda s: prune_to(s).masks, broken, {}))
    assert torch.equal(net[0].weight, before)


def test_known_points_are_not_measured_again() -> None:
    net, measured = two_layers(), []
    prune_to = pruner(net, **CHOICES)
    where = sites(net, prune_to(0.5), "layer")
    known = {("0", 0.5): Quality(1.0, 1.0), ("2", 0.5): Quality(1.0, 1.0), ("0", 0.75): Quality(1.0, 1.0)}

    def masks_at(sparsity: float) -> Any:
        measured.append(sparsity)
        return prune_to(sparsity).masks

    found = list(scan(net, where, (0.5, 0.75), masks_at, lambda model: Quality(2.0, 2.0), known))
    assert [(site.name, sparsity) for site, sparsity, _ in found] == [("2", 0.75)]
    assert measured == [0.75]


def test_a_score_is_measured_once_for_all_sparsities() -> None:
    net = two_layers()
    calls = []

    class Batches(list):
        def __iter__(self) -> Any:
            calls.append(1)
            return super().__iter__()

    data = Batches([torch.randn(4, 4)])
    prune_to = pruner(net, **{**CHOICES, "settings": PruneSettings(score=Choice("wanda")), "stats_batches": data})
    prune_to(0.25)
    once = len(calls)
    assert once >= 1
    prune_to(0.5)
    assert len(calls) == once


def test_blocks_are_residual_blocks_and_what_lies_outside_stands_alone() -> None:
    net = build_model("cifar_resnet20", classes=10, in_channels=1)
    where = sites(net, pruner(net, **{**CHOICES, "settings": PruneSettings(exclude=["layer1.0.conv2"])})(0.5), "block")
    assert [site.name for site in where] == [
        "conv1",
        *(f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)),
        "linear",
    ]
    assert where[1].weights == ("layer1.0.conv1.weight",)
    assert where[2].weights == ("layer1.1.conv1.weight", "layer1.1.conv2.weight")
    assert where[2].size == 2 * 2304
    plain = two_layers()
    with pytest.raises(BootcampError, match="has no blocks"):
        sites(plain, pruner(plain, **CHOICES)(0.5), "block")


def a_scan() -> Scan:
    where = [Site("stem", ("stem.weight",), 10), Site("head</script>", ("head.weight",), 2000)]
    points = {
        ("stem", 0.5): Quality(89.99, 0.5),
        ("stem", 0.9): Quality(10.0, 3.5),
        ("head</script>", 0.5): Quality(90.04, 0.4),
        ("head</script>", 0.9): Quality(87.0, 0.6),
    }
    told = {"by": "layer", "score": "magnitude", "pattern": "unstructured", "images": 100}
    return as_scan(where, [0.5, 0.9], points, Quality(90.0, 0.4), **told)


def test_another_metric_stands_under_its_own_name_whatever_that_is(tmp_path: Path) -> None:
    rising = replace(a_scan(), metric=Metric("score", unit="", higher_is_better=False), noun="texts")
    written = scan_as_written(rising)
    assert (written["score"], written["dense"]) == ("magnitude", {"score": 90.0, "loss": 0.4})
    assert "accuracy" not in str(written)
    assert scan_as_read(written, "here") == rising
    assert scan_as_read(scan_as_written(a_scan()), "here") == a_scan()
    assert rising.points_lost(rising.rows[0]) == pytest.approx([-0.01, -80.0])
    (tmp_path / "scan.yaml").write_text(yaml.safe_dump(written))
    assert read_rows(tmp_path / "scan.yaml")[0].costs["accuracy"] == ((0.5, pytest.approx(-0.01)), (0.9, -80.0))


def test_the_heat_map_reads_without_colour() -> None:
    console = Console(width=120, color_system=None, record=True, file=None)
    with console.capture() as captured:
        console.print(heatmap.render(a_scan()))
    lines = captured.get().splitlines()
    stem = next(line for line in lines if line.startswith("stem"))
    assert stem.split() == ["stem", "10", "0.0", "80.0", "█"]
    head = next(line for line in lines if line.startswith("head"))
    assert head.split() == ["head</script>", "2,000", "0.0", "3.0", "░"]
    assert lines.index(stem) < lines.index(head)  # the network's order
    assert "Most sensitive, by mean loss added: stem (+1.600)" in captured.get()
    assert "Least sensitive: head</script> (+0.100)" in captured.get()


def test_csv_and_report_hold_every_point() -> None:
    assert heatmap.as_csv(a_scan()).splitlines() == [
        "name,weights,sparsity,accuracy,loss,points_lost,loss_added",
        "stem,10,0.5,89.99,0.5,0.01,0.1",
        "stem,10,0.9,10.0,3.5,80.0,3.1",
        "head</script>,2000,0.5,90.04,0.4,-0.04,0.0",
        "head</script>,2000,0.9,87.0,0.6,3.0,0.2",
    ]
    assert "| stem          | 10      | 0.0 | 80.0 |" in heatmap.heat_report(a_scan(), "title")
    assert ranking(a_scan()) == ["stem", "head</script>"]


def test_the_page_is_whole_and_names_can_not_end_its_script() -> None:
    pytest.importorskip("plotly")
    text = heatmap.as_page(a_scan(), "a <b>title</b>")
    assert text == heatmap.as_page(a_scan(), "a <b>title</b>")
    assert "<b>title" not in text
    assert "http://" not in re.sub(r'<script type="text/plain".*?</script>', "", text, flags=re.DOTALL)
    figures = re.search(r'<script type="application/json" id="figures">(.*?)</script>', text, re.DOTALL)
    assert figures is not None
    both = json.loads(figures[1])
    lost, added = both["points"], both["loss"]
    assert lost["data"][0]["y"] == ["stem", "head&lt;/script&gt;"]  # plotly takes HTML tags in text
    assert lost["data"][0]["text"][0] == ["0.0", "80.0"]
    assert added["data"][0]["text"][1] == ["0.000", "0.200"]
    packed = re.search(r'<script type="text/plain" id="plotly">(.*?)</script>', text, re.DOTALL)
    assert packed is not None
    assert zlib.decompress(base64.b64decode(packed[1])).decode().count("Plotly") > 10
    assert len(text) < 2.1e6
    assert text.count('class="plot"') == 2
    assert '<th scope="row">head&lt;/script&gt;</th>' in text

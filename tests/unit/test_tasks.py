"""What a task says is measured as it says: by hand, whatever the batches; main outputs are found; names hold."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.flow.naming import as_read, as_written
from pruning_bootcamp.tasks import IMAGE_CLASSIFICATION, Classification, Metric, evaluate, main_tensor
from pruning_bootcamp.tools.inputs import Inputs, inputs_like

PERPLEXITY = Metric("perplexity", unit="", higher_is_better=False)


def test_accuracy_and_loss_by_hand_whatever_the_batches() -> None:
    logits = torch.randn(37, 5)
    labels = torch.randint(5, (37,))
    exact = logits.double().numpy()
    log_sum = np.log(np.exp(exact).sum(1))
    loss = float((log_sum - exact[np.arange(37), labels.numpy()]).mean())
    accuracy = 100 * float((exact.argmax(1) == labels.numpy()).mean())
    for size in (1, 8, 37):
        found = evaluate(nn.Identity(), zip(logits.split(size), labels.split(size), strict=True), IMAGE_CLASSIFICATION)
        assert found.loss == pytest.approx(loss, rel=1e-6)
        assert found.score == accuracy
        assert found.n == 37


def test_evaluation_uses_running_statistics_and_gives_every_mode_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.9))
    model.train()
    model[0].eval()
    seen = model[0].running_mean.clone()  # type: ignore[operator, union-attr]
    batch = (torch.randn(8, 3) + 5, torch.zeros(8, dtype=torch.long))
    first, second = (evaluate(model, [batch], IMAGE_CLASSIFICATION) for _ in range(2))
    assert first == second, "dropout was on"
    assert torch.equal(model[0].running_mean, seen)  # type: ignore[arg-type]
    assert [module.training for module in model.modules()] == [True, False, True]


def test_no_image_and_nan_outputs_are_errors() -> None:
    with pytest.raises(BootcampError, match="no image"):
        evaluate(nn.Identity(), [], IMAGE_CLASSIFICATION)
    with pytest.raises(BootcampError, match="NaN or infinite"):
        evaluate(nn.Identity(), [(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))], IMAGE_CLASSIFICATION)


def test_bf16_runs_the_network_in_bf16() -> None:
    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.seen = nn.Linear(4, 3), None

        def forward(self, x: Tensor) -> Tensor:
            out = self.layer(x)
            self.seen = out.dtype
            return out

    spy = Spy()
    evaluate(spy, [(torch.randn(2, 4), torch.tensor([0, 1]))], IMAGE_CLASSIFICATION, amp="bf16")
    assert spy.seen is torch.bfloat16


def test_the_main_output_is_found_in_whatever_a_network_gives() -> None:
    class Output:
        logits = torch.ones(1)

    one, other = torch.ones(1), torch.zeros(1)
    given = [one, (one, other), [one], {"aux": other, "out": one}, {"loss": other, "logits": one}, {"a": one}, Output()]
    assert all(torch.equal(main_tensor(each), one) for each in given)
    with pytest.raises(BootcampError, match="gives dict of scores, and the task finds no tensor"):
        main_tensor({"scores": 3})


def test_a_place_with_the_ignored_target_counts_nowhere() -> None:
    task = Classification()
    scores = torch.tensor([[[0.0, 5.0, 0.0], [1.0, 0.0, 0.0]]]).movedim(2, 1)  # [1, 3 classes, 2 places]
    targets = torch.tensor([[1, -100]])
    by_hand = math.log(math.exp(5.0) + 2) - 5.0
    assert task.losses(scores, targets).tolist() == pytest.approx([by_hand])
    assert task.measure(scores, targets).tolist() == [1.0]


def test_what_is_lost_is_positive_where_it_is_worse() -> None:
    assert Metric("mean_iou").lost(60.0, 55.0) == 5.0
    assert PERPLEXITY.lost(7.0, 9.0) == 2.0
    assert PERPLEXITY.goodness(7.0) > PERPLEXITY.goodness(9.0)
    assert (PERPLEXITY.text(7.123), Metric("mean_iou").text(51.0)) == ("7.12", "51.00%")
    with pytest.raises(BootcampError, match="metric 'loss'"):
        Metric("loss")


def test_figures_have_the_metrics_own_name_and_are_read_back() -> None:
    figures = {
        "accuracy": 7.0,
        "val_accuracy_drop": 0.5,
        "cycles": [{"val_accuracy_pruned": 9.0}],
        "baseline": {"val_accuracy": 6.5},
        "loss": 1.9,
    }
    written = as_written(PERPLEXITY, figures)
    assert written == {
        "perplexity": 7.0,
        "val_perplexity_rise": 0.5,
        "cycles": [{"val_perplexity_pruned": 9.0}],
        "baseline": {"val_perplexity": 6.5},
        "loss": 1.9,
    }
    assert as_read(PERPLEXITY, written) == figures
    assert as_written(IMAGE_CLASSIFICATION.metric, figures) == figures


def test_fresh_inputs_are_of_the_examples_kind() -> None:
    tokens = Inputs((5,), below=7).example(3, torch.Generator().manual_seed(0))
    assert (tokens.dtype, tokens.shape) == (torch.int64, (3, 5))
    assert set(tokens.flatten().tolist()) <= set(range(7))
    like = inputs_like(tokens, 11, torch.Generator().manual_seed(1))
    assert (like.dtype, like.shape) == (torch.int64, (11, 5))
    assert set(like.flatten().tolist()) <= set(tokens.flatten().tolist())
    noise = inputs_like(torch.zeros(1, 2, 3), 4, torch.Generator().manual_seed(1), torch.float64)
    assert (noise.dtype, noise.shape) == (torch.float64, (4, 2, 3))
    assert bool(noise.any())

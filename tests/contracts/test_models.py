"""Every registered model, and a handful of torchvision's and timm's, keeps the promises of the registry."""

import pytest
import torch
from torch import nn

from pruning_bootcamp.models import MODELS, build_model, check_model

SMALL = ("torchvision/resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "googlenet", "torchvision/vgg11_bn")
TIMM = ("timm/resnet10t", "mobilenetv3_small_050", "timm/convnext_atto")


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def learns(model: nn.Module, x: torch.Tensor, classes: int) -> None:
    """Logits of the right shape; every weight that may learn gets a finite gradient, and not all are zero."""
    logits = model.train()(x)
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (len(x), classes)
    torch.nn.functional.cross_entropy(logits, torch.arange(len(x)) % classes).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert gradients
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
    assert any(gradient.abs().sum() > 0 for gradient in gradients.values() if gradient is not None)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 8)])
def test_forward_and_backward_with_an_odd_batch(name: str, channels: int, side: int) -> None:
    learns(build_model(name, classes=7, in_channels=channels), images(3, channels, side, side), 7)


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_network(name: str) -> None:
    def build(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return build_model(name, classes=5).eval()(images(2, 3, 16, 16))

    first = build(3)
    assert torch.equal(first, build(3))
    assert not torch.equal(first, build(4))


@pytest.mark.parametrize("name", MODELS)
def test_eval_mode_treats_each_image_alone(name: str) -> None:
    model = build_model(name, classes=5).eval()
    x = images(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(x)[1:2], model(x[1:2]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_every_default_passes_the_check_and_a_misspelt_setting_does_not(name: str) -> None:
    defaults = {key: setting.default for key, setting in MODELS[name].settings.items()}
    assert check_model(name, defaults) == []
    assert len(MODELS[name].summary) > 20
    (problem,) = check_model(name, {"shortcutt": 1}, where="model")
    assert str(problem).startswith("model.args.shortcutt: unknown setting 'shortcutt'")


@pytest.mark.parametrize("name", [*SMALL, *TIMM])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_libraries_models_take_any_classes_and_channels(name: str, channels: int) -> None:
    if name in TIMM:
        pytest.importorskip("timm")
    model = build_model(name, classes=7, in_channels=channels)
    with torch.no_grad():
        assert model.eval()(images(1, channels, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("name", ["mobilenet_v2", "googlenet", "timm/resnet10t"])
def test_other_libraries_models_learn(name: str) -> None:
    if name in TIMM:
        pytest.importorskip("timm")
    learns(build_model(name, classes=4, in_channels=1), images(3, 1, 64, 64), 4)

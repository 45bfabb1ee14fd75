"""torchvision, timm and module:factory: what is passed, what is refused, what fails with which words."""

import itertools
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models._api import WeightsEnum

from pruning_bootcamp.errors import BootcampError
from pruning_bootcamp.models import build_model, check_model, external, structure_args


def test_every_torchvision_builder_can_be_checked() -> None:
    names = external.torchvision_names()
    assert len(names) >= 80
    for name in names:
        assert check_model(f"torchvision/{name}", {}) == []
        assert check_model(f"torchvision/{name}", {"num_classes": 3}) != []


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_models_with_auxiliary_heads_give_one_tensor_in_training(name: str) -> None:
    model = build_model(name, classes=5, in_channels=1).train()
    assert type(model(torch.randn(2, 1, 96, 96))) is torch.Tensor
    assert "aux_logits: can't be set" in str(check_model(name, {"aux_logits": True})[0])


def test_torchvision_settings_reach_the_network_and_misspelt_ones_are_named() -> None:
    model = build_model("vit_b_32", classes=3, args={"image_size": 32, "dropout": 0.5})
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 3)
    (problem,) = check_model("vit_b_32", {"image_sise": 32})
    assert "Did you mean 'image_size'?" in str(problem)
    with pytest.raises(BootcampError, match="can't be built"):
        build_model("vit_b_32", classes=3, args={"image_size": 33})


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Published weights without a network: those of a freshly built network with 1000 classes."""
    state: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda self, *args, **kwargs: state)
    return state


def test_published_weights_keep_everything_but_stem_and_head(published: dict[str, torch.Tensor]) -> None:
    published |= torchvision.models.resnet18().state_dict()
    model = build_model("resnet18", classes=4, in_channels=1, args={"weights": "DEFAULT"}).eval()
    state = model.state_dict()
    same = {name for name, tensor in published.items() if torch.equal(state[name], tensor)}
    assert set(published) - same == {"conv1.weight", "fc.weight", "fc.bias"}
    # a grey image gives the stem's answer to that image in red, green and blue
    grey = torch.randn(1, 1, 32, 32)
    expected = torch.nn.functional.conv2d(grey.expand(-1, 3, -1, -1), published["conv1.weight"], stride=2, padding=3)
    torch.testing.assert_close(model.conv1(grey), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "head"), [("inception_v3", "fc"), ("squeezenet1_1", "classifier.1")])
def test_published_weights_of_unusual_networks(published: dict[str, torch.Tensor], name: str, head: str) -> None:
    extra = {"init_weights": False} if name == "inception_v3" else {}
    published |= torchvision.models.get_model(name, **extra).state_dict()
    model = build_model(name, classes=4, args={"weights": "IMAGENET1K_V1"}).train()
    plain = build_model(name, classes=4, args=structure_args(name, {"weights": "IMAGENET1K_V1"}))
    assert set(plain.state_dict()) == set(model.state_dict())
    for key, tensor in model.state_dict().items():
        assert key.startswith(head) or torch.equal(tensor, published[key]), key
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 4)


def test_weights_that_can_not_be_fetched_are_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(BootcampError, match=r"weights 'DEFAULT' could not be fetched.*Name or service not known"):
        build_model("resnet18", classes=10, args={"weights": "DEFAULT"})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    build_model("resnet18", classes=10)  # without weights the network is not asked


def test_unknown_weights_are_found_before_anything_is_fetched() -> None:
    (problem,) = check_model("resnet50", {"weights": "IMAGENET1K_V3"})
    assert str(problem).startswith("model.args.weights: unknown weights 'IMAGENET1K_V3'. Did you mean 'IMAGENET1K_V")


def test_timm_names_tags_and_settings() -> None:
    pytest.importorskip("timm")
    model = build_model("timm/resnet18", classes=6, in_channels=2, args={"drop_rate": 0.25})
    assert model.drop_rate == 0.25
    assert model.eval()(torch.randn(1, 2, 32, 32)).shape == (1, 6)
    assert type(build_model("resnet18", classes=2)).__module__.startswith("torchvision")
    assert check_model("timm/resnet18.a1_in1k", {"weights": "a1_in1k"}) == []
    assert "Did you mean 'a1_in1k'?" in str(check_model("timm/resnet18", {"weights": "a1_in1q"})[0])
    assert "weights: DEFAULT" in str(check_model("timm/resnet18", {"pretrained": True})[0])
    assert check_model("timm/resnet18", {"checkpoint_path": "x.pth"}) != []
    with pytest.raises(BootcampError, match="can't be built"):
        build_model("timm/resnet18", classes=2, args={"no_such_setting": 1})


def test_timm_weights_are_asked_for_by_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    asked = []

    def create(name: str, **settings: object) -> nn.Module:
        asked.append((name, settings))
        if name.endswith("tv_in1k"):
            raise ConnectionError("offline")
        return nn.Identity()

    monkeypatch.setattr(timm, "create_model", create)
    build_model("timm/resnet18", classes=2, args={"weights": "DEFAULT"})
    build_model("timm/resnet18", classes=2, args={"weights": "a1_in1k"})
    build_model("timm/resnet18", classes=2)
    assert [(name, settings.get("pretrained", False)) for name, settings in asked] == [
        ("resnet18", True),
        ("resnet18.a1_in1k", True),
        ("resnet18", False),
    ]
    with pytest.raises(BootcampError, match="could not be fetched"):
        build_model("timm/resnet18", classes=2, args={"weights": "tv_in1k"})


def test_without_timm_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external, "timm_installed", lambda: False)
    (problem,) = check_model("convnext_atto", {})
    assert "pip install 'pruning-bootcamp[timm]'" in str(problem)
    assert check_model("resnet18", {}) == []


# --- module:factory

_names = (f"user_net_{number}" for number in itertools.count())

SOURCE = """
from torch import nn
from helper_of_{name} import WIDTH

LIST = [1]
instance = nn.Linear(2, 2)

def build(classes, width=WIDTH):
    return nn.Sequential(nn.Flatten(), nn.Linear(width, classes))

def everything(**settings):
    net = nn.Flatten()
    net.settings = dict(settings)
    return net

def needs(depth, classes):
    return nn.Linear(depth, classes)

def wrong(classes):
    return [classes]

def fails(classes):
    return 1 / 0

class Net(nn.Linear):
    def __init__(self, in_channels):
        super().__init__(in_channels, 1)
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A folder with a module of the user's and a helper beside it; the folder is the current one."""
    name = next(_names)
    (tmp_path / f"{name}.py").write_text(SOURCE.format(name=name))
    (tmp_path / f"helper_of_{name}.py").write_text("WIDTH = 12\n")
    monkeypatch.chdir(tmp_path)
    return SimpleNamespace(name=name, folder=tmp_path)


def test_a_factory_in_the_current_folder(user: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    path = list(sys.path)
    model = build_model(f"{user.name}:build", classes=5)
    assert model(torch.zeros(2, 12)).shape == (2, 5)
    assert sys.path == path
    assert f"running your own code, {user.name}:build from {user.folder}" in caplog.text
    assert build_model(f"{user.name}:build", classes=5, args={"width": 3})(torch.zeros(1, 3)).shape == (1, 5)


def test_a_factory_in_a_file_elsewhere(
    user: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    model = build_model(f"{user.folder}/{user.name}.py:build", classes=5)
    assert model(torch.zeros(2, 12)).shape == (2, 5)
    again = build_model(f"{user.folder}/{user.name}.py:Net", classes=5, in_channels=3)
    assert type(again) is type(build_model(f"{user.folder}/{user.name}.py:Net", classes=1, in_channels=2))
    assert again.in_features == 3


def test_only_what_the_signature_takes_is_passed(user: SimpleNamespace) -> None:
    model = build_model(f"{user.name}:everything", classes=5, in_channels=2, args={"a": 1})
    assert model.settings == {"classes": 5, "in_channels": 2, "a": 1}


@pytest.mark.parametrize(
    ("factory", "args", "says"),
    [
        ("bild", {}, "unknown factory 'bild'. Did you mean 'build'?"),
        ("LIST", {}, "is list, not a function"),
        ("instance", {}, "is a network, not a function"),
        ("build", {"widht": 3}, "Did you mean 'width'?"),
        ("build", {"classes": 3}, "comes from the data"),
        ("needs", {}, "model.args.depth: needed by"),
        ("build:", {}, "is not module:factory"),
    ],
)
def test_a_factory_that_can_not_be_called_is_found_by_the_check(
    user: SimpleNamespace, factory: str, args: dict[str, object], says: str
) -> None:
    (problem,) = check_model(f"{user.name}:{factory}", args)
    assert says in str(problem)


@pytest.mark.parametrize(
    ("factory", "says"),
    [("wrong", "returned list, and a torch.nn.Module is needed"), ("fails", r"ZeroDivisionError.*line 23\)")],
)
def test_a_factory_that_fails_is_the_users_mistake(user: SimpleNamespace, factory: str, says: str) -> None:
    with pytest.raises(BootcampError, match=says):
        build_model(f"{user.name}:{factory}", classes=5)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("def build(:", "SyntaxError"),
        ("x = 1\nraise SystemExit(0)", "SystemExit: 0 .*line 2"),
        ("x = {}\nx['a']", "KeyError: 'a' .*line 2"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".py"])
def test_a_module_that_does_not_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str, suffix: str
) -> None:
    name = next(_names)
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time is no different: nothing half-imported stays behind
        with pytest.raises(BootcampError, match=says):
            build_model(f"{name}{suffix}:build", classes=5)


def test_a_module_that_does_not_exist(user: SimpleNamespace) -> None:
    with pytest.raises(BootcampError, match=rf"no module 'x{user.name}'.*Did you mean '{user.name}:build'\?"):
        build_model(f"x{user.name}:build", classes=5)
    with pytest.raises(BootcampError, match=rf"no file x{user.name}\.py\. Did you mean '{user.name}\.py'\?"):
        build_model(f"x{user.name}.py:build", classes=5)

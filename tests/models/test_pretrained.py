"""Weights from files: adapted to grey images, never unpickled, and refused by name."""

import pickle
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from support import refuses
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models import resnet34 as larger

from fedmed.config import Model
from fedmed.models import build, pretrained, trainable


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    torch.manual_seed(5)
    model = resnet18()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]  # these layers keep statistics
            module.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]  # these layers keep statistics
    return model.eval()


@pytest.fixture(scope="module")
def state(theirs: nn.Module) -> dict[str, Tensor]:
    return theirs.state_dict()


@pytest.fixture(scope="module", params=["weights.pth", "weights.safetensors"])
def path(
    request: pytest.FixtureRequest,
    state: dict[str, Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("weights") / request.param
    if path.suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    return path


def test_a_grey_image_gets_the_response_of_three_equal_channels(
    path: Path, theirs: nn.Module
) -> None:
    grey = build(Model(weights=str(path), norm="frozen-batch"), 32, 0)
    image = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            grey.conv1(image), theirs.conv1(image.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5
        )


def test_frozen_batch_norm_is_torchvisions_in_evaluation_mode(
    path: Path, theirs: nn.Module
) -> None:
    """Also in training mode: the statistics never change and never come from the batch."""
    model = build(Model(weights=str(path), norm="frozen-batch", channels=3), 64, 0).train()
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    body = nn.Sequential(*list(model.children())[:-1])
    expected = nn.Sequential(*list(theirs.children())[:-1])
    with torch.no_grad():
        torch.testing.assert_close(body(image), expected(image), rtol=1e-3, atol=1e-4)
    assert "bn1.weight" not in trainable(model)
    assert "conv1.weight" in trainable(model)


def test_group_norm_takes_the_affine_part_and_the_last_layer_is_new(
    path: Path, state: dict[str, Tensor]
) -> None:
    model = build(Model(weights=str(path), channels=3), 32, 3)
    own = model.state_dict()
    assert torch.equal(own["conv1.weight"], state["conv1.weight"])
    assert torch.equal(own["layer4.1.bn2.weight"], state["layer4.1.bn2.weight"])
    fresh = build(Model(stem="imagenet", channels=3), 32, 3).state_dict()
    assert torch.equal(own["fc.weight"], fresh["fc.weight"])


def attempt(path: Path, **model: object) -> nn.Module:
    return build(Model.model_validate({"weights": str(path), **model}, by_name=True), 32, 0)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("owned"),)  # type: ignore[return-value]  # what a pickle of it would run


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Malicious()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        refuses(lambda name=name: attempt(tmp_path / name), "model.weights", name)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_named(path: Path, tmp_path: Path, part: float) -> None:
    data = path.read_bytes()
    cut = tmp_path / f"cut{path.suffix}"
    cut.write_bytes(data[: int(part * len(data))])
    refuses(lambda: attempt(cut), "model.weights", str(cut), "damaged")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"\x00" * 100,
        b"not a file of weights\n" * 9,
        b"\x80\x02K\x01.",
        b"(lp0\n.",
        b"\x80\x02h\x00.",
    ],
)
def test_a_file_of_something_else_is_named(tmp_path: Path, suffix: str, content: bytes) -> None:
    other = tmp_path / f"other{suffix}"
    other.write_bytes(content)
    refuses(lambda: attempt(other), "model.weights", str(other))


def test_what_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    for number, value in enumerate(([torch.ones(1)], {"epoch": 3}, torch.ones(2))):
        path = tmp_path / f"{number}.pth"
        torch.save(value, path)
        refuses(lambda path=path: attempt(path), str(path), "model.state_dict()")


def test_weights_of_another_architecture_name_the_array(
    tmp_path: Path, state: dict[str, Tensor]
) -> None:
    short = {name: value for name, value in state.items() if name != "layer3.0.conv1.weight"}
    wide = state | {"layer2.0.conv2.weight": torch.zeros(128, 64, 3, 3)}
    for name, content in (("layer3.0.conv1.weight", short), ("layer2.0.conv2.weight", wide)):
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        refuses(lambda path=path: attempt(path), name, str(path), "ResNet-18")
    small = build(Model(stem="small"), 32, 0)
    path = tmp_path / "small.safetensors"
    save_file(small.state_dict(), path)
    refuses(lambda: attempt(path), str(path), "model.stem", "'small'", "'imagenet'")
    assert attempt(path, stem="small").conv1.weight.equal(small.conv1.weight)


def test_a_larger_resnet_is_not_cut_to_size(tmp_path: Path) -> None:
    """ResNet-34 has every array of ResNet-18 and more: its extra layers must not be ignored."""
    path = tmp_path / "resnet34.pth"
    torch.save(larger().state_dict(), path)
    refuses(lambda: attempt(path), str(path), "ResNet-18")


def test_a_missing_file_names_what_may_be_given(tmp_path: Path) -> None:
    refuses(lambda: attempt(tmp_path / "no.pth"), "model.weights", "no.pth", "'imagenet'")


def test_without_a_network_imagenet_weights_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(**_: object) -> None:
        raise URLError("no route")

    weights = pretrained.ResNet18_Weights.IMAGENET1K_V1
    monkeypatch.setattr(type(weights), "get_state_dict", lambda self, **_: offline())
    refuses(lambda: build(Model(weights="imagenet"), 32, 0), "model.weights", "give a local file")


OWN: list[tuple[dict[str, object], int]] = [
    ({"name": "resnet9", "activation": "mish"}, 2),
    ({"name": "resnet9", "weight-standardisation": True}, 2),
    ({"name": "resnet9", "stem": "imagenet", "channels": 3}, 3),
]


@pytest.mark.parametrize(("table", "dimensions"), OWN)
def test_a_model_of_this_project_starts_another_run(
    table: dict[str, object], dimensions: Literal[2, 3], tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    first = build(Model.model_validate({"stem": "small"} | table), 16, 1, dimensions)
    save_file(first.state_dict(), path)
    given = Model.model_validate({"stem": "small", "weights": str(path)} | table)
    own = build(given, 16, 2, dimensions).state_dict()
    for name, value in first.state_dict().items():
        assert torch.equal(own[name], value) is not name.startswith("fc."), name
    other = build(given.model_copy(update={"channels": 2}), 16, 2, dimensions)
    summed = other.get_parameter(_first(other)).sum(1)
    torch.testing.assert_close(summed, first.get_parameter(_first(first)).sum(1))


def _first(model: nn.Module) -> str:
    return next(name for name, _ in model.named_parameters() if name.startswith("conv1."))


def test_plain_weights_start_a_standardised_network_and_the_reverse(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    plain = Model(name="resnet9", stem="small")
    made = plain.model_copy(update={"weight_standardisation": True})
    for source, target in ((plain, made), (made, plain)):
        first = build(source, 16, 1)
        save_file(first.state_dict(), path)
        second = build(target.model_copy(update={"weights": str(path)}), 16, 2)
        values = zip(first.parameters(), second.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in list(values)[:-2])


def test_weights_of_other_images_or_sizes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    nine = Model(name="resnet9", stem="small", weights=str(path))
    save_file(build(Model(name="resnet9"), 16, 0).state_dict(), path)
    refuses(lambda: build(nine, 16, 0, 3), str(path), "data.dimensions", "with 2", "has 3")
    eighteen = nine.model_copy(update={"name": "resnet18"})
    refuses(lambda: build(eighteen, 16, 0), str(path), "model.name", "'resnet9'", "'resnet18'")
    save_file(build(Model(stem="small"), 16, 0).state_dict(), path)
    refuses(lambda: build(nine, 16, 0), str(path), "model.name = 'resnet18'", "has 'resnet9'")
    save_file(build(Model(name="resnet9"), 16, 0, 3).state_dict(), path)
    refuses(lambda: build(nine, 16, 0), str(path), "data.dimensions", "with 3", "has 2")
    state = build(Model(name="resnet9"), 16, 0).state_dict()
    state["bn1.bias"][3] = float("nan")
    save_file(state, path)
    refuses(lambda: build(nine, 16, 0), str(path), "bn1.bias", "not finite")


@pytest.mark.parametrize(
    ("theirs", "ours", "key", "given", "wanted"),
    [
        ({"stem": "imagenet"}, {"stem": "small"}, "model.stem", "'imagenet'", "'small'"),
        ({"stem": "small"}, {"stem": "auto"}, "model.stem", "'small'", "'imagenet'"),
        ({"name": "squeezenet1_1"}, {}, "model.name", "'squeezenet1_1'", "'resnet18'"),
        ({}, {"name": "squeezenet1_1"}, "model.name", "'resnet18'", "'squeezenet1_1'"),
        (
            {"name": "resnet9"},
            {"name": "probe", "features": "resnet18"},
            *("model.features", "'resnet9'", "'resnet18'"),
        ),
        ({}, {"norm": "frozen-batch"}, "model.norm", "'group'", "'frozen-batch'"),
    ],
)
def test_a_setting_that_the_weights_were_made_without_is_named_with_both_values(
    theirs: dict[str, object],
    ours: dict[str, object],
    key: str,
    given: str,
    wanted: str,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.safetensors"
    save_file(build(Model.model_validate(theirs), 64, 0).state_dict(), path)
    model = Model.model_validate({**ours, "weights": str(path)})
    refuses(
        lambda: build(model, 64, 0),
        *(f"{key}: {path} was made with {given}", f"this model has {wanted}"),
        f"set {key} = {given}",
    )


def test_imagenet_weights_are_of_resnet18_on_flat_images_alone() -> None:
    nine = Model(name="resnet9", weights="imagenet")
    refuses(lambda: build(nine, 32, 0), "model.weights", "resnet9", "'resnet18'")
    refuses(lambda: build(Model(weights="imagenet"), 32, 0, 3), "model.weights", "flat images")

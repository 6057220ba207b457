"""ResNet-18: torchvision's numbers, norms that DP allows, and per-sample gradients under hooks."""

import copy

import pytest
import torch
from support import goes_red, refuses
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.models import ResNet, resnet18
from torchvision.models.resnet import BasicBlock

from fedmed.config import Model
from fedmed.models import build, trainable, without_weights
from fedmed.models.resnet import OutOfPlaceBlock, group_norm
from fedmed.privacy.gradients import make_engine

GREY = Model()


def images(count: int, size: int, channels: int = 1, dimensions: int = 2) -> Tensor:
    shape = (count, channels, *[size] * dimensions)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_out_of_place_block_gives_torchvisions_numbers() -> None:
    torch.manual_seed(0)
    theirs = resnet18(num_classes=5).eval()
    ours = ResNet(OutOfPlaceBlock, [2, 2, 2, 2], num_classes=5).eval()
    ours.load_state_dict(theirs.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(images(2, 64, 3)), theirs(images(2, 64, 3)))


def test_with_group_norm_it_is_torchvisions_resnet_with_group_norm() -> None:
    model = Model(stem="imagenet", channels=3)
    ours = build(model, 64, 1)
    theirs = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=1, norm_layer=group_norm)
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(images(2, 64, 3)), theirs(images(2, 64, 3)))


@pytest.mark.parametrize(
    ("size", "channels", "kernel"), [(16, 1, 3), (32, 3, 3), (63, 1, 3), (64, 1, 7), (96, 3, 7)]
)
def test_one_logit_per_image_and_a_stem_that_suits_the_size(
    size: int, channels: int, kernel: int
) -> None:
    model = build(Model(channels=channels), size, 0)
    assert model.conv1.weight.shape == (64, channels, kernel, kernel)
    assert isinstance(model.maxpool, nn.Identity) == (kernel == 3)
    with torch.no_grad():
        assert model(images(2, size, channels)).shape == (2, 1)


def test_resnet9_has_torchvisions_names_and_one_block_in_each_stage() -> None:
    ours = build(Model(name="resnet9", stem="imagenet", channels=3), 64, 1)
    theirs = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=1, norm_layer=group_norm)
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(ours(images(2, 64, 3)), theirs(images(2, 64, 3)))
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1) for m in ours.modules()) == 9


@pytest.mark.parametrize("name", ["resnet18", "resnet9"])
def test_mish_replaces_every_relu(name: str) -> None:
    model = build(Model.model_validate({"name": name, "activation": "mish"}), 32, 0)
    kinds = [type(module) for module in model.modules()]
    assert nn.ReLU not in kinds
    assert kinds.count(nn.Mish) == {"resnet18": 9, "resnet9": 5}[name]
    relu = build(Model.model_validate({"name": name}), 32, 0)
    assert relu.state_dict().keys() == model.state_dict().keys()
    with torch.no_grad():
        assert not torch.allclose(relu(images(2, 32)), model(images(2, 32)))


@pytest.mark.parametrize("size", [12, 64])
def test_in_three_dimensions_it_is_the_same_network_on_volumes(size: int) -> None:
    """A cubic kernel with everything in its middle slice sees a volume of equal slices as 2D."""
    flat = build(Model(name="resnet9"), size, 1)
    cubic = build(Model(name="resnet9"), size, 1, dimensions=3)
    assert flat.state_dict().keys() == cubic.state_dict().keys()
    state = {}
    for name, value in flat.state_dict().items():
        wanted = cubic.state_dict()[name].shape
        state[name] = value
        if len(wanted) == 5:
            state[name] = torch.zeros(wanted)
            state[name][:, :, wanted[2] // 2] = value
    cubic.load_state_dict(state)
    image = images(2, size)
    volume = image.unsqueeze(2).expand(-1, -1, size, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(cubic(volume), flat(image), rtol=1e-4, atol=1e-5)


def test_slices_are_input_channels() -> None:
    model = build(GREY, 32, 0, in_channels=5)
    assert model.conv1.weight.shape == (64, 5, 3, 3)


def test_frozen_statistics_are_refused_for_volumes() -> None:
    model = Model(norm="frozen-batch", weights="imagenet")
    refuses(lambda: build(model, 32, 0, dimensions=3), "model.norm", "volumes", "'group'")


def test_standardised_weights_have_mean_zero_and_keep_the_size_of_activations() -> None:
    model = build(Model(weight_standardisation=True), 32, 0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            rows = module.weight.detach().flatten(1)
            assert float(rows.mean(1).abs().max()) < 1e-6
            assert float((rows.square().sum(1) - 1).abs().max()) < 1e-3
    names = trainable(model).keys()
    assert names == model.state_dict().keys()
    assert "conv1.parametrizations.weight.original" in names
    assert "fc.weight" in names
    plain = build(GREY, 32, 0)
    with torch.no_grad():
        shifted = build(Model(weight_standardisation=True), 32, 0)
        shifted.conv1.parametrizations.weight.original.mul_(3).add_(1)
        torch.testing.assert_close(
            shifted(images(2, 32)), model(images(2, 32)), rtol=1e-3, atol=1e-4
        )
        assert not torch.allclose(plain(images(2, 32)), model(images(2, 32)))


def test_two_builds_with_one_seed_are_equal_and_seeds_differ() -> None:
    first, again, other = (build(GREY, 32, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(9)
    before = torch.random.get_rng_state()
    build(GREY, 32, 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_parameter_is_trained_and_no_batch_norm_is_there() -> None:
    model = build(GREY, 32, 0)
    assert trainable(model).keys() == model.state_dict().keys()
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert sum(p.numel() for p in trainable(model).values()) == 11_168_193


def test_samples_do_not_influence_each_other() -> None:
    """Pitfall 14: in training mode the output of an image is the same in any company."""

    def check(model: nn.Module) -> None:
        model.train()
        batch = images(4, 32)
        with torch.no_grad():
            alone, together = model(batch[:2]), model(batch)[:2]
        assert torch.allclose(alone, together, atol=1e-4)

    check(build(GREY, 32, 0))
    mixing = ResNet(OutOfPlaceBlock, [2, 2, 2, 2], num_classes=1)
    mixing.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    goes_red(check, mixing)


def check_gradients_under_hooks(model: nn.Module, batch: Tensor) -> None:
    labels = torch.tensor([0.0, 1.0])
    plain = copy.deepcopy(model)
    loss = binary_cross_entropy_with_logits(plain(batch).squeeze(1), labels, reduction="sum")
    loss.backward()
    engine = make_engine("opacus", model, 2)
    found = engine.clipped_sum(batch, labels, 1e9)  # nothing is clipped: the plain gradient
    engine.close()
    assert found.clipped == 0
    for name, parameter in trainable(plain).items():
        assert parameter.grad is not None
        scale = max(1.0, float(parameter.grad.abs().max()))
        assert float((found.gradients[name] - parameter.grad).abs().max()) < 1e-4 * scale, name


def test_it_trains_under_hooks_where_torchvisions_block_does_not() -> None:
    check_gradients_under_hooks(build(GREY, 16, 0).train(), images(2, 16))
    in_place = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=1, norm_layer=group_norm)
    with pytest.raises(RuntimeError, match="inplace"):
        check_gradients_under_hooks(in_place.train(), images(2, 16, 3))


def test_without_weights_keeps_the_stem_that_the_weights_chose() -> None:
    model = Model(weights="imagenet")
    assert without_weights(model, 32) == Model(weights="none", stem="imagenet")
    assert without_weights(GREY, 32).stem == "small"

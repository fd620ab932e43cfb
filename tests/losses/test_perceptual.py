"""Perceptual losses against plain PyTorch: VGG and AlexNet in torchvision's layout, LPIPS, backbones."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from fastgan.errors import DataError, UsageError
from fastgan.losses import FeatureDistance, PerceptualLoss, perceptual_loss
from fastgan.losses.perceptual import LEAST
from fastgan.models.backbones import FrozenBackbone

VGG = {"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def plain(name):
    """The convolutional part as torchvision builds it: nn.Sequential, numbered as in its files."""
    layers, inputs = [], 3
    if name == "alexnet":
        for outputs, kernel, stride, padding, pool in (
            (64, 11, 4, 2, True), (192, 5, 1, 2, True), (384, 3, 1, 1, False), (256, 3, 1, 1, False),
            (256, 3, 1, 1, True),
        ):  # fmt: skip
            layers += [nn.Conv2d(inputs, outputs, kernel, stride, padding), nn.ReLU()]
            layers += [nn.MaxPool2d(3, 2)] if pool else []
            inputs = outputs
    else:
        for block, count in enumerate(VGG[name]):
            for _ in range(count):
                layers += [nn.Conv2d(inputs, min(64 * 2**block, 512), 3, 1, 1), nn.ReLU()]
                inputs = min(64 * 2**block, 512)
            layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Networks with random weights of a size that keeps the scale of features, and their files."""
    folder, made = tmp_path_factory.mktemp("weights"), {}
    torch.manual_seed(0)
    for name in ("vgg16", "vgg19", "alexnet"):
        network = plain(name).requires_grad_(False)
        for layer in network:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.normal_(layer.bias, std=0.2)
        state = {f"features.{key}": value for key, value in network.state_dict().items()}
        state["classifier.0.weight"] = torch.zeros(4, 4)
        made[name] = network, folder / f"{name}.pth"
        torch.save(state, made[name][1])
    return made


def outputs(network, images, numbers):
    """Of these layers of the plain network, images in [-1, 1], with torchvision's normalization of [0, 1]."""
    mean, std = (
        torch.tensor(v, dtype=images.dtype).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    x, found = ((images + 1) / 2 - mean) / std, []
    for i, layer in enumerate(network):
        x = layer(x)
        if i in numbers:
            found.append(x)
    return found


def pair(*shape, dtype=torch.float32):
    torch.manual_seed(1)
    return (torch.rand(2, *shape, dtype=dtype) * 2 - 1).unbind()


@pytest.mark.parametrize(
    ("name", "numbers", "weights"),
    [
        ("vgg19", (2, 7, 16, 25, 34), (0.1, 0.1, 1, 1, 1)),
        ("vgg16", (2, 7, 14, 21, 28), (0.1, 0.1, 1, 1, 1)),
        ("alexnet", (0, 3, 6, 8, 10), (1, 1, 1, 1, 1)),
    ],
)
def test_the_loss_of_a_file_is_l1_of_features_before_activations(files, name, numbers, weights):
    network, path = files[name]
    fake, target = pair(2, 3, 64, 80)
    fake.requires_grad_()
    target.requires_grad_()
    loss = perceptual_loss(path)
    assert isinstance(loss, PerceptualLoss)
    value = loss(fake, target)
    with torch.no_grad():
        wanted = [outputs(network.double(), x.double(), numbers) for x in (fake, target)]
    expected = sum(w * (f - t).abs().mean() for w, f, t in zip(weights, *wanted, strict=True))
    network.float()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (ours,) = torch.autograd.grad(value, fake)
    plain_value = sum(
        w * (f - t.detach()).abs().mean()
        for w, f, t in zip(weights, outputs(network, fake, numbers), outputs(network, target, numbers), strict=True)
    )
    (theirs,) = torch.autograd.grad(plain_value, fake)
    assert (ours - theirs).norm() < 1e-3 * theirs.norm()
    loss(fake, target).backward()
    assert target.grad is None
    assert loss(target, target) == 0
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_chosen_layers_and_styles(files):
    network, path = files["vgg19"]
    fake, target = pair(2, 3, 32, 32)
    loss = perceptual_loss(path, layers={"relu2_1": 2.0, "conv3_1": 0.5, "relu3_1": 1.0}, style_weight=3.0)
    expected = 0.0
    for weight, f, t in zip((2, 0.5, 1), *(outputs(network, x, (6, 10, 11)) for x in (fake, target)), strict=True):
        grams = [torch.einsum("nchw,ndhw->ncd", x, x) / x[0].numel() for x in (f, t)]
        expected += weight * ((f - t).abs().mean() + 3 * (grams[0] - grams[1]).abs().mean())
    assert loss(fake, target).item() == pytest.approx(float(expected), rel=1e-4)
    assert [*loss.network.convolutions] == ["conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1"]


@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
@pytest.mark.parametrize("one_file", [True, False])
def test_lpips_is_the_formula_of_its_paper(files, tmp_path, name, one_file):
    network, path = files[name]
    numbers, channels = {
        "vgg16": ((3, 8, 15, 22, 29), (64, 128, 256, 512, 512)),
        "alexnet": ((1, 4, 7, 9, 11), (64, 192, 384, 256, 256)),
    }[name]
    linear = [torch.rand(1, c, 1, 1) for c in channels]
    state = {f"lin{i}.model.1.weight": w for i, w in enumerate(linear)}
    given = f"{path}+{tmp_path / 'lins.pth'}"
    if one_file:  # a state dict of the LPIPS package's module
        given = tmp_path / "lins.pth"
        state |= {f"net.slice1.{key}": value for key, value in network.state_dict().items()}
        state |= {"scaling_layer.shift": torch.zeros(1, 3, 1, 1)}
    torch.save(state, tmp_path / "lins.pth")
    fake, target = pair(2, 3, 64, 64)
    expected = 0.0
    for w, f, t in zip(linear, *(outputs(network, x, numbers) for x in (fake, target)), strict=True):
        f, t = (x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in (f, t))
        expected += F.conv2d((f - t) ** 2, w).mean((1, 2, 3)).mean()
    loss = perceptual_loss(given)
    assert isinstance(loss, FeatureDistance)
    assert loss.learned
    assert loss(fake, target).item() == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("side", [64, 24])
def test_the_distance_of_a_backbone_is_lpips_without_learned_weights(side):
    fake, target = pair(2, 3, side, side)
    network, expected = FrozenBackbone("random", (0, 1, 2, 4)), 0.0
    large = [F.interpolate(x, (LEAST, LEAST), mode="bilinear") if side < LEAST else x for x in (fake, target)]
    maps = [network(x) for x in large]
    assert [[*x.shape[1:]] for x in maps[0]] == [[16, 32, 32], [24, 16, 16], [40, 8, 8], [112, 4, 4]]
    for f, t in zip(*maps, strict=True):
        f, t = (x / x.norm(dim=1, keepdim=True) for x in (f, t))
        expected += (f - t).square().sum(1).mean()
    loss = perceptual_loss("random")
    assert not loss.learned
    assert loss(fake, target).item() == pytest.approx(float(expected), rel=1e-4)
    gray = fake[:, :1], target[:, :1]
    in_color = [x.repeat(1, 3, 1, 1) for x in gray]
    torch.testing.assert_close(loss(*gray), loss(*in_color))
    pixels = perceptual_loss("random", range=(0, 255))
    torch.testing.assert_close(pixels((fake + 1) * 127.5, (target + 1) * 127.5), loss(fake, target), rtol=1e-4, atol=0)


def test_both_have_second_derivatives():
    """Of the distance everywhere; of L1 in the style term too, between points of equal features."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.float64), nn.Tanh()).requires_grad_(False)
    maps = nn.ModuleList([network])
    maps.forward = lambda x: [network(x), network(x)[:, :2]]
    fake, target = pair(1, 3, 5, 5, dtype=torch.float64)
    fake.requires_grad_()
    weights = torch.rand(4, dtype=torch.float64), torch.rand(2, dtype=torch.float64)
    for loss in (
        FeatureDistance(maps),
        FeatureDistance(maps, weights).double(),
        PerceptualLoss(maps, (1.0, 0.5), style_weight=2.0, range=(-1, 2)),
    ):
        assert loss(fake, target).dtype == torch.float64
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, target), fake, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda x, loss=loss: loss(x, target), fake, fast_mode=True)


def test_equal_images_and_black_features_have_finite_gradients():
    loss = FeatureDistance(nn.Identity())
    loss.network.forward = lambda x: [x.relu()]
    fake = torch.full((1, 3, 4, 4), -1.0, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(fake, fake.detach()), fake)
    assert torch.isfinite(slope).all()
    loss.network.forward = lambda x: [x * 0]
    (slope,) = torch.autograd.grad(loss(fake, fake.detach()), fake)
    assert torch.isfinite(slope).all()


def test_under_autocast_the_network_computes_in_half_precision(files):
    fake, target = pair(2, 3, 64, 64)
    seen = []
    for loss in (perceptual_loss(files["vgg16"][1], style_weight=1.0), perceptual_loss("random")):
        full = loss(fake, target)
        loss.network.register_forward_hook(lambda module, args, found: seen.extend(x.dtype for x in found))
        with torch.autocast("cpu", torch.bfloat16):
            half = loss(fake.requires_grad_(), target)
        assert half.dtype == torch.float32
        assert half.item() == pytest.approx(full.item(), rel=0.03)
        (slope,) = torch.autograd.grad(half, fake)
        assert slope.dtype == torch.float32
        assert torch.isfinite(slope).all()
    assert set(seen) == {torch.bfloat16}


@pytest.mark.parametrize("name", ["alexnet", pytest.param("random", marks=pytest.mark.full)])
def test_loss_and_gradient_are_one_graph(files, name):
    fake, target = pair(1, 3, 64, 64)
    loss = perceptual_loss(files[name][1] if name in files else name)

    def step(fake, target):
        return loss(fake, target)

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for shift in (0.0, 0.1):
        fake = (fake.detach() + shift).requires_grad_()
        ours, plainly = (torch.autograd.grad(f(fake, target), fake)[0] for f in (compiled, step))
        torch.testing.assert_close(ours, plainly, rtol=1e-4, atol=1e-8)


def test_files_in_other_forms(files, tmp_path):
    path = files["alexnet"][1]
    state = torch.load(path, weights_only=True)
    fake, target = pair(1, 3, 64, 64)
    expected = perceptual_loss(path)(fake, target)
    save_file(state, tmp_path / "a.safetensors")
    torch.save({"state_dict": state}, tmp_path / "b+c.pth")
    torch.save(state, tmp_path / "d.pth", _use_new_zipfile_serialization=False)
    for name in ("a.safetensors", "b+c.pth", "d.pth"):
        assert torch.equal(perceptual_loss(tmp_path / name)(fake, target), expected)
    half = {key: value.half() for key, value in state.items()}
    torch.save(half, tmp_path / "e.pth")
    torch.testing.assert_close(perceptual_loss(tmp_path / "e.pth")(fake, target), expected, rtol=1e-2, atol=0)


def test_bad_input(files, tmp_path):
    vgg, alex = (files[name][1] for name in ("vgg19", "alexnet"))
    fake = torch.zeros(1, 3, 64, 64)
    norm = {"features.0.weight": torch.zeros(64, 3, 3, 3), "features.1.running_mean": torch.zeros(64)}
    for name, state in (
        ("norm", norm),
        ("other", {"conv.weight": torch.zeros(3)}),
        ("lins", {f"lin{i}.model.1.weight": torch.zeros(1, 8, 1, 1) for i in range(5)}),
    ):
        torch.save(state, tmp_path / f"{name}.pth")
    (tmp_path / "text.pth").write_text("text")
    for name, error, message in (
        ("eficientnet", UsageError, r"perceptual: expected efficientnet, .*got 'eficientnet', which is no file"),
        (f"{alex}+none.pth", UsageError, r"perceptual: .* got 'none.pth', which is no file"),
        (tmp_path / "norm.pth", DataError, r"norm.pth: expected .* got those of a network with batch norm"),
        (tmp_path / "other.pth", DataError, r"other.pth: expected the weights of VGG-16, VGG-19, AlexNet"),
        (tmp_path / "text.pth", DataError, r"text.pth: expected a safetensors file"),
        (f"{alex}+{tmp_path / 'lins.pth'}", DataError, r"expected linear layers of \[64, 192, .*got \[8, 8, 8, 8, 8\]"),
        (f"{vgg}+{tmp_path / 'lins.pth'}", DataError, "expected VGG-16 or AlexNet for LPIPS, got VGG-19"),
    ):
        with pytest.raises(error, match=message):
            perceptual_loss(name)
    for options, message in (
        ({"layers": {"conv6_1": 1.0}}, "layers: expected some of conv1_1, relu1_1, .*, got 'conv6_1'"),
        ({"layers": {}}, "layers: expected at least one"),
        ({"range": (1, 1)}, r"range: expected a lower and a higher number, got \(1, 1\)"),
    ):
        with pytest.raises(UsageError, match=message):
            perceptual_loss(vgg, **options)
    for options in ({"layers": {"conv1_1": 1.0}}, {"style_weight": 1.0}):
        with pytest.raises(UsageError, match=f"{next(iter(options))}: it is for a file of VGG or AlexNet alone"):
            perceptual_loss("random", **options)
    loss = perceptual_loss(vgg)
    with pytest.raises(UsageError, match=r"sides of at least 16 pixels for conv5_4 of VGG-19, got \[1, 3, 15, 64\]"):
        loss(fake[:, :, :15], fake[:, :, :15])
    with pytest.raises(UsageError, match=r"fake: expected images of the targets' shape, .* got \[1, 3, 64, 64\] and"):
        loss(fake, fake[:, :1])
    with pytest.raises(UsageError, match="fake: expected images"):
        loss(fake[:, :2], fake[:, :2])


@pytest.mark.parametrize("name", ["vgg19", "random"])
def test_frozen_weights_are_in_the_layout_in_which_libraries_convolve_faster(files, name):
    loss = perceptual_loss(files[name][1] if name in files else name)
    weights = [buffer for buffer in loss.network.buffers() if buffer.dim() == 4 and min(buffer.shape[1:]) > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)

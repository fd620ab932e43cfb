"""StyleGAN's steps in half precision: which layers compute in it, and how accurate losses and gradients stay."""

import copy

import pytest
import torch

from fastgan import Config, Trainer, models
from fastgan.train.step import TaskSteps

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
N = 4
#: Families and options of theirs.
FAMILIES = {
    "stylegan2": {"mapping_layers": 2},
    "stylegan3": {"variant": "t"},
}


def trainer(family, half, **options):
    torch.manual_seed(0)
    networks = models.build(
        family, resolution=16, channels=3, latent=8, width=16, num_fp16_res=half, **FAMILIES[family]
    )
    config = Config.from_flags(
        batch=N, compile="off", r1_weight=1.0, path_length=2.0, style_mixing=0.9, steps=4, log_every=1, **options
    )
    return Trainer(*networks, config=config)


def dtypes_of(network, run):
    """The dtypes of each layer's first input and of its output, by name."""
    found, handles = {}, []
    for name, layer in network.named_modules():

        def note(module, given, output, name=name):
            outputs = output if isinstance(output, tuple) else (output,)
            found[name] = given[0] is not None and given[0].dtype, outputs[0].dtype

        handles.append(layer.register_forward_hook(note))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        run()
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("half", [0, 1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_highest_resolutions_compute_in_half_precision_and_the_rest_in_float32(family, half):
    t = trainer(family, half)
    z, x = torch.randn(N, 8), torch.rand(N, 3, 16, 16)
    discriminator = dtypes_of(t.discriminator, lambda: t.discriminator(x))
    for side in (16, 8):
        halved = half > {16: 0, 8: 1}[side]
        for layer in ("conv0", "conv1", "skip"):
            assert discriminator[f"b{side}.{layer}"][1] == (torch.bfloat16 if halved else torch.float32), (side, layer)
    for name, (_, output) in discriminator.items():
        if name.startswith("b4") or not name:
            assert output == torch.float32, name  # the minibatch standard deviation and the last layers
    generator = dtypes_of(t.generator, lambda: t.generator(z))
    assert generator[""][1] == torch.float32
    assert all(output == torch.float32 for name, (_, output) in generator.items() if "mapping" in name)
    assert all(output == torch.float32 for name, (_, output) in generator.items() if "affine" in name)
    if family == "stylegan2":
        for side in (16, 8, 4):
            halved = half > {16: 0, 8: 1, 4: 9}[side]
            assert generator[f"synthesis.b{side}.conv1"][1] == (torch.bfloat16 if halved else torch.float32), side
    else:
        halved = [generator[f"synthesis.{name}"][1] == torch.bfloat16 for name in t.generator.synthesis.layers]
        assert halved == t.generator.synthesis.in_half
        assert any(halved) == (half > 0)


def vector(gradients):
    return torch.cat([g.double().flatten() for g in gradients if g is not None])


def steps_of(t, precision, noise, batch):
    """Gradients and logged terms of both steps with lazy terms."""
    found = []
    steps = TaskSteps(t.task, precision)
    for name, step in (("discriminator", steps.discriminator), ("generator", steps.generator)):
        scale = {"loss_scale": torch.tensor(2.0**10)} if precision == "fp16" else {}
        loss, gradients = step(batch, noise[name] | scale)
        found.append((vector(gradients) / float(scale.get("loss_scale", 1.0)), loss.log))
    return found


def in_double(noise):
    return {n: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for n, v in noise.items()}


def doubled(t):
    """A copy in float64."""
    other = copy.deepcopy(t)
    for network in (other.generator, other.discriminator):
        network.double()
    return other


def rounding(t, halves, dtype):
    """A copy in float64 whose half layers round weights, inputs and outputs to the dtype; derivatives are exact."""
    other = doubled(t)

    def rounded(x):
        return x + (x.to(dtype).to(x.dtype) - x).detach()

    for network, names in zip((other.generator, other.discriminator), halves, strict=True):
        for name in names:
            layer = network.get_submodule(name)
            layer.weight.data = rounded(layer.weight.data)
            layer.register_forward_pre_hook(lambda module, given: (rounded(given[0]), *given[1:]))
            layer.register_forward_hook(lambda module, given, output: rounded(output))
    return other


@pytest.mark.parametrize("family", ["stylegan2", pytest.param("stylegan3", marks=pytest.mark.full)])
def test_losses_and_gradients_of_lazy_steps_are_as_accurate_as_roundings_of_float64(family):
    """With R1 and path length, which contain gradients of gradients."""
    t = trainer(family, 2)
    for layer in t.generator.modules():
        layer.use_noise = False  # it would be other numbers in float64
    z, x = torch.randn(N, 8), torch.rand(N, 3, 16, 16)
    halves = [
        [name for name, (_, output) in dtypes_of(network, run).items()
         if output == torch.bfloat16 and hasattr(network.get_submodule(name), "weight")]
        for network, run in ((t.generator, lambda: t.generator(z)), (t.discriminator, lambda: t.discriminator(x)))
    ]  # fmt: skip
    errors = {name: [] for name in DTYPES}
    for seed in range(3):
        torch.manual_seed(seed)
        batch = {"real": torch.rand(N, 3, 16, 16) * 2 - 1}
        noise = {name: t.state.draw(name, batch) for name in ("discriminator", "generator")}
        assert noise["generator"]["lazy"]
        wide = {name: in_double(own) for name, own in noise.items()}, {"real": batch["real"].double()}
        truth = steps_of(doubled(t), "fp32", *wide)
        for precision, dtype in DTYPES.items():
            found = steps_of(copy.deepcopy(t), precision, noise, batch)
            rounded = steps_of(rounding(t, halves, dtype), "fp32", *wide)
            errors[precision].append([measured(found, truth), measured(rounded, truth)])
    # A few units beside the kink of an activation can change most of an error: the median, and the largest of theirs.
    ours = {p: torch.tensor(found)[:, 0].median(0).values for p, found in errors.items()}
    theirs = torch.tensor(errors["bf16"])[:, 1].amax(0)
    assert (ours["bf16"] <= 2 * theirs).all(), (ours, theirs)
    assert (ours["fp16"] <= theirs).all(), (ours, theirs)  # eight times finer
    for precision, dtype in DTYPES.items():
        assert (ours[precision] > torch.finfo(dtype).eps / 100).all()  # it was computed in that dtype


def measured(found, truth):
    """Relative errors: the gradient of the discriminator, R1, the gradient of the generator, path length."""
    row = []
    for (gradient, log), (true, true_log) in zip(found, truth, strict=True):
        row.append(float((gradient - true).norm() / true.norm()))
        for term in ("penalty/r1", "penalty/path_length"):
            if term in log:
                row.append(float(abs(log[term] - true_log[term]) / true_log[term]))
    assert len(row) == 4
    return row

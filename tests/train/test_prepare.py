"""What is decided from the first batch: real and fake images as one batch, and the memory format."""

import re

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastgan import Config, Trainer, models
from fastgan.losses import ADVERSARIAL
from fastgan.losses.config import LossConfig
from fastgan.nn import MinibatchStdDev
from fastgan.regularization import Regularization, RegularizationConfig
from fastgan.tasks import Generation
from fastgan.testing.batches import Resumable
from fastgan.train.prepare import why_not_joint
from fastgan.train.step import TaskSteps

# --- real and fake images as one batch --------------------------------------------------------------------------------


class MinibatchStddev(nn.Module):
    """A user's own: the spread over the batch as one more channel."""

    def forward(self, x):
        spread = x.std(0).mean().expand(len(x), 1, *x.shape[2:])
        return torch.cat([x, spread], 1)


class Noisy(nn.Module):
    def forward(self, x):
        return x + 0.1 * torch.randn_like(x)


def discriminator(*inner, widened=0, end=None):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), *inner, nn.LeakyReLU(0.2), nn.Conv2d(4 + widened, 1, 4), end or nn.Flatten()
    )


REAL = torch.rand(6, 3, 7, 7)


def task(network, generator=None):
    regularization = Regularization(RegularizationConfig(), torch.device("cpu"))
    return Generation(
        generator or nn.Identity(), network, ADVERSARIAL["hinge"], LossConfig("hinge"), regularization, (4,)
    )


def reason(network, real=REAL):
    return why_not_joint(task(network), {"real": real})


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (discriminator(nn.BatchNorm2d(4)), r"1 \(BatchNorm2d\) couples the samples"),
        (discriminator(nn.Dropout(0.5)), r"1 \(Dropout\) couples the samples"),
        (discriminator(nn.Dropout2d(0.5)), r"1 \(Dropout2d\) couples the samples"),
        (discriminator(MinibatchStdDev(2), widened=1), r"1 \(MinibatchStdDev\) couples the samples"),
        (nn.BatchNorm2d(3), r"the discriminator \(BatchNorm2d\) couples"),
        (discriminator(MinibatchStddev(), widened=1), "its logits change by .* when another batch is concatenated"),
        (discriminator(Noisy()), "its logits change by"),
    ],
)
def test_discriminators_that_couple_samples_or_draw_random_numbers(network, why):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.random.get_rng_state()
    assert re.match(why, reason(network))
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(torch.random.get_rng_state(), random)


class Mean(nn.Module):
    def forward(self, x):
        return x.flatten(1).mean(1)


@pytest.mark.parametrize("end", [Mean(), nn.Flatten(), nn.Identity()])
@pytest.mark.parametrize("norm", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm, None])
def test_discriminators_that_do_not_couple_samples(norm, end):
    """Logits [N], [N, 16] and [N, 1, 4, 4]; a spectral norm iterates with every run, and is restored."""
    network = discriminator(end=end)
    for layer in (network[0], network[2]):
        if norm:
            norm(layer)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert reason(network) == ""
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("family", ["mlp", "dcgan"])
def test_minibatch_discrimination_is_found_by_its_type_before_it_is_trained(family):
    size = {"resolution": 28, "channels": 1, "latent": 8, "width": 8}
    _, network = models.build(family, **size, minibatch_discrimination=4)
    message = r"compare \(MinibatchDiscrimination\) couples the samples"
    assert re.match(message, reason(network.eval(), torch.rand(6, 1, 28, 28)))


def test_one_logit_an_image():
    assert reason(nn.Sequential(nn.Flatten(), nn.Linear(147, 1))) == ""


def test_fixed_statistics_couple_nothing():
    assert reason(discriminator(nn.BatchNorm2d(4), nn.Dropout(0.5)).eval()) == ""


class Total(nn.Module):
    def forward(self, x):
        return x.sum()


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (Total(), r"logits of a double batch are \[\], of a single one \[\]"),
        (
            nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (1, -1))),
            r"double batch are \[1, 1764\], of a single one \[1, 882\]",
        ),
        (nn.Sequential(nn.Flatten(0), nn.Linear(882, 1)), "it cannot take two batches at once .mat1 and mat2"),
    ],
)
def test_logits_that_are_not_one_per_image_and_networks_for_one_batch_size(network, why):
    assert re.search(why, reason(network))


def test_fastgans_spectral_norms_are_restored():
    _, network = models.build("dcgan", resolution=28, channels=1, latent=8, width=4, d_norm="spectral")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert reason(network, torch.rand(4, 1, 28, 28)) == ""
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("end", [Mean(), nn.Flatten(), nn.Identity()])
def test_joint_and_separate_passes_give_the_same_gradients_for_logits_of_any_shape(end):
    generator = nn.Sequential(nn.Linear(4, 147), nn.Unflatten(1, (3, 7, 7)))
    network = discriminator(end=end)
    z, results = torch.randn(6, 4), []
    for joint in (False, True):
        steps = TaskSteps(task(network, generator))
        steps.task.joint = joint
        results.append(steps.discriminator({"real": REAL}, {"z": z}))
    torch.testing.assert_close(*results)


# --- memory format ----------------------------------------------------------------------------------------------------


class Viewing(nn.Module):
    """Flattens as much public code does, which channels_last forbids."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 4, 2, 1), nn.Linear(6 * 16, 1)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.head(x.view(len(x), -1))


class Keyword(nn.ConvTranspose2d):
    """Called with a keyword argument."""

    def __call__(self, x):
        return super().__call__(input=x)


def upsampling():
    layers = [nn.Unflatten(1, (4, 1, 1)), Keyword(4, 6, 4), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2, 2)]
    return nn.Sequential(*layers)


def downsampling():
    return nn.Sequential(nn.Conv2d(3, 6, 4, 2, 1), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(6 * 16, 1))


class Images(Resumable):
    def batch(self, source):
        return torch.rand(5, 3, 8, 8, generator=source) * 2 - 1


def trained(network, out=None, steps=4, resume=False):
    torch.manual_seed(0)
    config = Config.from_flags(
        steps=steps, batch=5, log_every=2, checkpoint_every=2, sample_every=100, compile="off", lr_d=0.01
    )
    trainer = Trainer(upsampling(), network(), "non-saturating", config, latent_shape=(4,), out=out)
    trainer.fit(Images(), resume=resume)
    return trainer


def weights(trainer):
    return [p.detach().contiguous() for n in (trainer.generator, trainer.discriminator) for p in n.parameters()]


def test_convolutions_run_in_channels_last():
    trainer = trained(downsampling)
    assert trainer.discriminator[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert trainer.state.batch["real"].is_contiguous(memory_format=torch.channels_last)


def test_the_projection_of_a_latent_stays_contiguous():
    """On a GPU its gradient has the strides that PyTorch's compiler expects only then."""
    trainer = trained(downsampling)
    latent, image = trainer.generator[1].weight, trainer.generator[3].weight
    assert latent.is_contiguous()
    assert not latent.is_contiguous(memory_format=torch.channels_last)
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_networks_that_cannot_run_in_channels_last_stay_contiguous():
    trainer = trained(Viewing)
    assert trainer.discriminator.conv.weight.is_contiguous()
    assert trainer.state.batch["real"].is_contiguous()


def test_a_run_in_channels_last_resumes_bit_for_bit(tmp_path):
    whole = trained(downsampling, tmp_path / "whole")
    trained(downsampling, tmp_path / "run", steps=2)
    resumed = trained(downsampling, tmp_path / "run", resume=True)
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(one, other)


class OtherFormats(TorchDispatchMode):
    """Shapes of the feature maps that operations return in another format than channels_last."""

    def __init__(self):
        super().__init__()
        self.other, self.maps = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, list | tuple) else [result]:
            if isinstance(x, torch.Tensor) and x.dim() == 4 and x.shape[1] > 1 and x.shape[2] > 4:
                self.maps += 1
                if not x.is_contiguous(memory_format=torch.channels_last):
                    self.other.append((str(func), tuple(x.shape)))
        return result


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["dcgan", "r3gan"])
def test_all_feature_maps_are_in_channels_last(name, channels):
    """Images of one channel and 1×1 kernels are in both formats: they must not cause copies to the other."""
    pair = models.build(name, resolution=16, channels=channels, latent=8, width=16)
    config = Config.from_flags(batch=4, steps=1, latent=8, compile="off", r1_weight=1.0)
    trainer = Trainer(*pair, "non-saturating", config)
    images = torch.rand(4, channels, 16, 16) * 2 - 1
    trainer.fit(iter(lambda: images, None))
    with OtherFormats() as seen:
        fake = trainer.generator(torch.randn(4, 8))
        trainer.discriminator(fake).sum().backward()
    assert seen.maps > 10
    # A 1×1 kernel on one channel has the strides of both formats: its output is converted, once.
    assert len(seen.other) == (name == "r3gan" and channels == 1)

"""Unpaired translation: both losses written out, the image pool, crops, exact resume."""

import pytest
import torch
from torch import nn

from fastgan import Config, Trainer
from fastgan._util.random import Random
from fastgan.errors import UsageError
from fastgan.losses import ADVERSARIAL
from fastgan.losses.config import LossConfig
from fastgan.models.translation import PatchDiscriminator, ResNetGenerator
from fastgan.regularization import Regularization, RegularizationConfig
from fastgan.tasks.image_pool import ImagePool, ImagePools
from fastgan.tasks.unpaired import Unpaired
from fastgan.testing.batches import Resumable
from fastgan.train.step import TaskSteps

CPU = torch.device("cpu")


class Domains(Resumable):
    """Images [N, 3, 16, 16] of two domains, the same every time, from where a run left off."""

    def __init__(self, n=3):
        super().__init__()
        self.n = n

    def batch(self, source):
        return {name: torch.rand(self.n, 3, 16, 16, generator=source) * 2 - 1 for name in ("a", "b")}


def networks(norm="instance"):
    torch.manual_seed(0)
    ways = {way: ResNetGenerator(blocks=1, width=4, norm=norm) for way in ("a_to_b", "b_to_a")}
    return nn.ModuleDict(ways), nn.ModuleDict({d: PatchDiscriminator(layers=1, width=4, norm=norm) for d in "ab"})


def task(generator, discriminator, loss="least-squares", regularization=None, config=None, **options):
    methods = Regularization(regularization or RegularizationConfig(), CPU)
    return Unpaired(generator, discriminator, ADVERSARIAL[loss], config or LossConfig(), methods, **options)


def trainer(out=None, steps=4, **options):
    config = Config.from_flags(
        batch=3, steps=steps, log_every=2, sample_every=4, checkpoint_every=2, compile="off", **options
    )
    return Trainer(*networks(), config=config, out=out, task=lambda g, d: task(g, d, pool=6))


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_generators_loss_written_out(norm):
    """Equation 3 of the paper with lambda = 10, and the identity loss of its section 5.2 times 0.5 · lambda."""
    t = task(*networks(norm))
    assert {*t.apart.values()} == {norm == "batch"}
    batch, (g, d) = next(Domains()), (t.generator, t.discriminator)
    noise = t.draw("generator", batch, Random(0, CPU), 0)
    result, gradients = TaskSteps(t).generator(batch, noise)
    a, b = batch["a"], batch["b"]
    fake_b, fake_a = g["a_to_b"](a), g["b_to_a"](b)
    loss = (d["b"](fake_b) - 1).square().mean() + (d["a"](fake_a) - 1).square().mean()
    cycle = (g["b_to_a"](fake_b) - a).abs().mean() + (g["a_to_b"](fake_a) - b).abs().mean()
    identity = (g["a_to_b"](b) - b).abs().mean() + (g["b_to_a"](a) - a).abs().mean()
    whole = loss + 10 * cycle + 5 * identity
    torch.testing.assert_close(result.value, whole.detach())
    torch.testing.assert_close(result.log["loss/cycle_a"] + result.log["loss/cycle_b"], cycle.detach())
    torch.testing.assert_close(result.outputs["fake.b"], fake_b.detach())
    expected = torch.autograd.grad(whole, g.parameters())
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_discriminators_loss_written_out(norm):
    t, batch = task(*networks(norm)), next(Domains())
    fakes = {f"fake.{name}": images.flip(0) * 0.5 for name, images in batch.items()}
    result, gradients = TaskSteps(t).discriminator(batch, fakes)
    whole = sum(
        ((d(batch[n]) - 1).square().mean() + d(fakes[f"fake.{n}"]).square().mean()) / 2
        for n, d in t.discriminator.items()
    )
    torch.testing.assert_close(result.value, whole.detach())
    expected = torch.autograd.grad(whole, t.discriminator.parameters())
    torch.testing.assert_close(gradients, expected, rtol=1e-3, atol=2e-5)


def test_without_identity_loss_where_domains_differ_in_channels():
    g, d = networks()
    g["a_to_b"] = ResNetGenerator(1, 3, blocks=1, width=4)
    g["b_to_a"] = ResNetGenerator(3, 1, blocks=1, width=4)
    d["a"] = PatchDiscriminator(1, layers=1, width=4, norm="instance")
    t, batch = task(g, d), next(Domains())
    with pytest.raises(UsageError, match=r"batches: expected .* a, float \[N, 1, H, W\] and b, float \[N, 3, H, W\]"):
        t.collate(batch)
    batch = t.collate((batch["a"][:, :1], batch["b"]))
    value, log, _ = t.generator_loss(batch, t.draw("generator", batch, Random(0, CPU), 0))
    assert value.isfinite()
    assert not any("identity" in name for name in log)


def test_the_pool_exchanges_images():
    """Against lists: half of the fakes change places with earlier ones, once each row's slots are full."""
    pool, random, plain = ImagePool(5), Random(0, CPU), [[], []]
    changed = 0
    for step in range(60):
        drawn = pool.draw(2, random, step)
        fakes = torch.full((2, 1, 1, 1), float(step)) + torch.tensor([0.0, 0.5]).view(2, 1, 1, 1)
        pool.exchange(fakes, **drawn)
        for row, known in enumerate(plain):
            new = float(fakes[row])
            if len(known) < 3:  # 5 images for a batch of 2
                known.append(new)
            elif drawn["old"][row]:
                slot, changed = int(drawn["slot"][row]), changed + 1
                known[slot], new = new, known[slot]
            assert float(pool.shown[row]) == new
    assert 35 < changed < 75  # of 114, expected half
    assert sorted(pool.tensors()["images"].flatten().tolist()) == sorted(plain[0] + plain[1])
    # From what a checkpoint keeps it goes on alike, with the same random numbers.
    other = ImagePool(5)
    other.load_tensors({name: value.clone() for name, value in pool.tensors().items()}, CPU)
    for step in range(60, 64):
        with random.restored():
            other.exchange(torch.rand(2, 1, 1, 1).fill_(step), **other.draw(2, random, step))
        pool.exchange(torch.rand(2, 1, 1, 1).fill_(step), **pool.draw(2, random, step))
        assert torch.equal(pool.shown, other.shown)


def test_two_ranks_exchange_what_one_does():
    """Both hold all images, and each shows those of its own rows; an update of two batches has fakes for each."""
    one = ImagePools("ab", 8)
    randoms, each = [Random(0, CPU), *(Random(0, CPU, rank, 2) for rank in (0, 1))], []
    for _ in (0, 1):
        each.append(ImagePools("ab", 8, lambda tensors: tensors[0].copy_(gathered.pop(0))))
    for step in range(12):
        made = [{name: torch.rand(4, 1, 2, 2) for name in "ab"} for _ in range(2)]
        drawn = [one.draw(4, randoms[0], step) for _ in made]
        one.exchange([one.outputs(m, m, d) for m, d in zip(made, drawn, strict=True)])
        for rank, pools in enumerate(each):
            own = [{name: fakes[2 * rank :][:2] for name, fakes in m.items()} for m in made]
            drawn = [pools.draw(2, randoms[1 + rank], step) for _ in made]
            # What averaging over two ranks makes of the other rank's zeros.
            gathered = [m[name].unflatten(0, (2, 2)) / 2 for name in "ab" for m in made]
            pools.exchange([pools.outputs(m, m, d) for m, d in zip(own, drawn, strict=True)])
            assert all(torch.equal(x, y) for x, y in zip(pools.tensors().values(), one.tensors().values(), strict=True))
        for turn in range(2):
            whole = one.fakes({"a": torch.rand(4, 1, 2, 2)}, None)["fake.a"]
            parts = [pools.fakes({"a": torch.rand(2, 1, 2, 2)}, None)["fake.a"] for pools in each]
            assert torch.equal(whole, torch.cat(parts))
            assert torch.equal(whole, one["a"].shown[4 * turn :][:4])


def test_pools_of_no_size_and_of_other_batches():
    pool, random = ImagePool(0), Random(0, CPU)
    for step in range(3):
        fakes = torch.rand(2, 1, 1, 1)
        pool.exchange(fakes, **pool.draw(2, random, step))
        assert torch.equal(pool.shown, fakes)
    pool = ImagePool(4)
    for step, n in enumerate((4, 4, 2, 2, 2, 4)):
        fakes = torch.rand(n, 1, 1, 1)
        pool.exchange(fakes, **pool.draw(n, random, step))
        assert len(pool.shown) == n
        assert pool.shown.isfinite().all()
        assert (pool.shown != 0).all()


def test_batches_are_cropped():
    t, batch = task(*networks(), crop=12), next(Domains())
    small = t.transform(batch, Random(0, CPU))
    assert small["a"].shape == small["b"].shape == (3, 3, 12, 12)
    assert torch.equal(t.transform(batch, None)["a"], batch["a"][:, :, 2:14, 2:14])
    with pytest.raises(UsageError, match="crop: expected at most the side of the images, 16×16, got 17"):
        task(*networks(), crop=17).transform(batch, None)
    assert task(*networks(), flip=False).transform(batch, Random(0, CPU))["a"] is batch["a"]


def test_a_resumed_run_is_the_same(tmp_path):
    whole = trainer(tmp_path / "whole", steps=8)
    whole.fit(Domains(), held_out=next(Domains(2)))
    trainer(tmp_path / "parts").fit(Domains(), held_out=next(Domains(2)))
    resumed = trainer(tmp_path / "parts", steps=8)
    resumed.fit(Domains(), held_out=next(Domains(2)), resume=True)
    for one, other in zip(whole.state.networks.values(), resumed.state.networks.values(), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True))
    assert {path.name.rsplit("-", 1)[0] for path in (tmp_path / "whole/samples").glob("*-*.png")} == {
        "fixed_a", "fixed_b", "fresh_a", "fresh_b",
    }  # fmt: skip
    assert {"cycle_a/held_out", "cycle_b/held_out"} <= whole.state.rows[-1].keys()


def test_discriminators_see_the_fakes_of_the_generator_step_before():
    """The generators run once for each batch, but in the first step, in which there are no fakes."""
    t, calls = trainer(accumulate=2), []
    t.generator["a_to_b"].register_forward_hook(lambda *_: calls.append(1))
    t.fit(Domains())
    assert len(t.task.pools["a"].shown) == 6
    calls.clear()
    random = Random(0, CPU)
    batch = next(Domains())
    first, second = (t.task.draw("discriminator", batch, random, 4)["fake.a"] for _ in range(2))
    assert torch.equal(torch.cat([first, second]), t.task.pools["a"].shown)
    assert not calls


def test_what_does_not_fit():
    g, d = networks()
    for wrong, expected in (
        (lambda: task(g["a_to_b"], d), "generator: unpaired expects an nn.ModuleDict of a_to_b and b_to_a, got ResNet"),
        (lambda: task(g, d, cycle_weight=-1.0), "cycle_weight: expected a number >= 0, got -1.0"),
        (lambda: task(g, d, loss="wgan-gp"), "loss: unpaired computes no penalties"),
        (lambda: task(g, d, config=LossConfig(r1_weight=2.0)), "r1_weight: unpaired does not compute it, got 2.0"),
        (lambda: task(g, d, regularization=RegularizationConfig(pack=2)), "pack: unpaired does not compute it, got 2"),
        (
            lambda: task(g, d).collate({"a": torch.rand(2, 3, 16, 16), "b": torch.rand(2, 3, 16, 12)}, "x"),
            r"x: expected images of two domains, as many and of one size, .* got float32 \[2, 3, 16, 16\] and",
        ),
    ):
        with pytest.raises(UsageError, match=expected):
            wrong()

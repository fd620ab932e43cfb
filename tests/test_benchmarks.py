"""What benchmarks put around the trainer to time it still fits it: they are run too seldom to notice."""

import contestants

import fastgan
from fastgan import models


def test_phases_of_an_iteration_are_timed():
    config = fastgan.Config(latent=contestants.LATENT, batch=2, compile="off")
    pair = models.build("dcgan", resolution=32, channels=3, latent=contestants.LATENT, width=4)
    ours = contestants.Ours(*pair, config)
    ours.use(contestants.stream(2, 32, "cpu"))
    ours.iterate()
    spent = contestants.phases(ours, "cpu", iterations=1)
    assert sorted(spent) == ["critic_ms", "data_ms", "generator_ms", "update_ms"]
    assert all(float(ms) >= 0 for ms in spent.values())
    assert float(spent["critic_ms"]) > 0

import numpy as np
import torch

from fastgan.data.imageset import ImageSet
from fastgan.data.stream import BatchStream, normalise

CPU = torch.device("cpu")


def numbered(n):
    """n one-pixel images, image i of value i."""
    return ImageSet(np.arange(n, dtype=np.uint8).reshape(n, 1, 1, 1), None, "numbered", "none")


def values(batch):
    return ((batch + 1) * 127.5).round().int().flatten().tolist()


def test_normalise_maps_bytes_to_minus_one_to_one():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(normalise(pixels), torch.tensor([-1.0, -0.6, 1.0]))


def test_every_epoch_holds_every_image_once_in_a_fresh_order():
    stream = BatchStream(numbered(10), 4, seed=0, device=CPU)
    seen = [value for _ in range(5) for value in values(next(stream))]  # two epochs in batches that straddle them
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:] != list(range(10))


def test_order_depends_on_the_seed_alone_and_position_restores_it():
    streams = [BatchStream(numbered(50), 8, seed, CPU) for seed in (1, 1, 2)]
    first = [[values(next(s)) for _ in range(20)] for s in streams]
    assert first[0] == first[1] != first[2]
    resumed = BatchStream(numbered(50), 8, 1, CPU)
    other = BatchStream(numbered(50), 8, 1, CPU)
    for _ in range(13):
        next(other)
    resumed.load_state_dict(other.state_dict())
    assert [values(next(resumed)) for _ in range(7)] == first[0][13:]


def test_a_batch_may_be_larger_than_the_set():
    assert sorted(values(next(BatchStream(numbered(3), 6, 0, CPU)))) == [0, 0, 1, 1, 2, 2]

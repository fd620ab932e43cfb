import numpy as np
import pytest
import torch

from fastgan.data.imageset import ImageSet
from fastgan.data.stream import BatchStream


@pytest.mark.parametrize("world", [1, 2])
def test_prefetched_equals_resident(tmp_path, world):
    """Bit-identical on a busy device: detects a buffer or batch that is reused too early."""
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (500, 3, 64, 64), np.uint8))
    images = ImageSet(np.load(tmp_path / "images.npy", mmap_mode="r"), None, "mapped", "none")
    device, busy = torch.device("cuda"), torch.randn(4096, 4096, device="cuda")
    whole = BatchStream(images, 64, 3, device)
    ahead = [BatchStream(images, 64 // world, 3, device, rank=rank, world=world, share=0) for rank in range(world)]
    assert whole.where.startswith("resident")
    assert {s.where for s in ahead} == {"memory map, prefetched"}
    differ = torch.zeros((), dtype=torch.long, device=device)
    for _ in range(60):
        busy = busy @ busy / 64
        differ += (torch.cat([next(s) for s in ahead]) != next(whole)).sum()
    assert differ.item() == 0

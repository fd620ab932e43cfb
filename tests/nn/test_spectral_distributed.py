"""Spectral norms on two ranks with different batches: the same singular vectors and weights on both."""

import subprocess
import sys

import pytest
import torch

CHILD = """
import sys, torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import fastgan
from fastgan.nn import spectral_norm

rank, store, every, broadcast, out = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "True", sys.argv[5]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
layers = [nn.Conv2d(3, 6, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(6, 5, 4, 2, 1), nn.LeakyReLU(0.2)]
discriminator = fastgan.fuse(spectral_norm(nn.Sequential(*layers).double(), every=every))
network = DistributedDataParallel(discriminator, broadcast_buffers=broadcast)
optimizer = torch.optim.SGD(discriminator.parameters(), 0.1)
start = {k: v.clone() for k, v in discriminator.state_dict().items()}
torch.manual_seed(rank)
for _ in range(3):
    optimizer.zero_grad()
    network(torch.randn(4, 3, 16, 16).double()).square().sum().backward()
    optimizer.step()
moved = [k for k, v in discriminator.state_dict().items() if not torch.equal(v, start[k])]
assert len(moved) == len(start), moved
torch.save(discriminator.state_dict(), out)
torch.distributed.barrier()  # a rank that leaves early, or a network that holds the group at exit, can abort the other
del network
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without distributed")
@pytest.mark.parametrize("every", ["forward", "step"])
@pytest.mark.parametrize("broadcast", [True, False])
def test_ranks_keep_equal_vectors_and_weights(every, broadcast, tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, str(rank), tmp_path / "store", every, str(broadcast), tmp_path / str(rank)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in ranks:
        _, error = process.communicate(timeout=200)
        assert process.returncode == 0, error[-3000:]
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in range(2))
    for name, value in first.items():
        assert torch.equal(value, second[name]), name

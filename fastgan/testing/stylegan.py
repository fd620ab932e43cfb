"""StyleGAN networks for tests: every parameter and buffer random, so that none hides an error."""

from __future__ import annotations

import torch
from torch import nn


def randomize(network: nn.Module) -> nn.Module:
    """Random numbers are added to all floating parameters and buffers, scaled so that activations stay near 1."""
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if not tensor.is_floating_point() or name.endswith("_alpha"):
                continue  # the stage of networks that grow
            if name.endswith("filter"):
                tensor.add_(0.1 * tensor.abs().max() * torch.randn_like(tensor))
            elif name.endswith("magnitude_ema"):
                tensor.copy_(0.5 + torch.rand_like(tensor))
            else:
                # The mapping network's weights and biases are stored divided by 0.01.
                scale = 10.0 if ".fc" in f".{name}" and "mapping" in name else 0.3
                tensor.add_(scale * torch.randn_like(tensor))
    return network

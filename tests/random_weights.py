"""Networks none of whose weights has its first value."""

import torch


def randomized(network):
    """Positive numbers are added to all parameters and buffers, among them variances."""
    torch.manual_seed(0)
    with torch.no_grad():
        for value in network.state_dict().values():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return network.eval()

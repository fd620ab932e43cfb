"""Compile a whole WGAN-GP discriminator step of plain PyTorch, inner and outer backward pass included, as one graph.

python examples/compile_a_step.py
"""

import torch
from torch import Tensor, nn

import fastgan

discriminator = nn.Sequential(
    nn.Conv2d(3, 32, 4, 2, 1), nn.LeakyReLU(0.2),
    nn.Conv2d(32, 64, 4, 2, 1), nn.LeakyReLU(0.2),
    nn.Conv2d(64, 128, 4, 2, 1), nn.LeakyReLU(0.2),
    nn.Flatten(), nn.Linear(128 * 4 * 4, 1),
)  # fmt: skip
optimizer = torch.optim.Adam(discriminator.parameters(), 1e-4, betas=(0.0, 0.9))


def discriminator_step(real: Tensor, fake: Tensor) -> Tensor:
    """A step that plain torch.compile cannot compile: it has no double backward."""
    points = torch.lerp(real, fake, torch.rand(len(real), 1, 1, 1)).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(points).sum(), points, create_graph=True)
    penalty = (slope.flatten(1).norm(dim=1) - 1).square().mean()
    loss = discriminator(fake).mean() - discriminator(real).mean() + 10 * penalty
    loss.backward()
    return loss.detach()


def main() -> None:
    torch.manual_seed(0)
    real, fake = torch.rand(16, 3, 32, 32) * 2 - 1, torch.rand(16, 3, 32, 32) * 2 - 1

    step = fastgan.compile(discriminator_step)
    for _ in range(5):
        optimizer.zero_grad()
        loss = step(real, fake)
        optimizer.step()
    print(f"loss {loss:.4f}, captured by {step.how[0]}\n")

    # PyTorch's double backward computes with tensors of zeros; a pass over the graph removes them.
    print(fastgan.explain(discriminator_step, real, fake))


if __name__ == "__main__":
    main()

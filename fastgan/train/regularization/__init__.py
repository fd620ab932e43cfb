"""Remedies against collapse and overfitting discriminators, a small file each; docs/losses.md lists them all.

What a step needs of them comes in as `Draws`: random numbers, and what is remembered, by name. A step without them does
without the remedy, so that looking at a network needs none.
"""

from torch import Tensor

Draws = dict[str, Tensor]

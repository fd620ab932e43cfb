"""Style mixing: some layers take the style of one image, the others that of another (Karras et al. 2019,
arXiv:1812.04948, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastgan.editing.styles import layers_of, require_styles, require_w


@torch.no_grad()
def mixed(generator: nn.Module, rows: Tensor, columns: Tensor, layers: Sequence[int] | None = None) -> Tensor:
    """w [R·C, num_ws, w_dim] of a grid, row by row: that of the row, with the layers of the column.

    rows [R, num_ws, w_dim], columns [C, num_ws, w_dim]: styles. layers: numbers from 0 (coarsest) to num_ws − 1; by
    default the first half, which gives the pose and shape of the column and the colors of the row.
    """
    network = require_styles(generator)
    require_w(rows, network, "rows")
    require_w(columns, network, "columns")
    chosen = layers_of(network, range(max(1, network.num_ws // 2)) if layers is None else layers)
    grid = rows[:, None].repeat(1, len(columns), 1, 1)
    grid[:, :, chosen] = columns[None, :, chosen]
    return grid.flatten(0, 1)

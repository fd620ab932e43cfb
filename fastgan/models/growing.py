"""Networks that grow from 4×4 images (Karras et al. 2018, arXiv:1710.10196), as `fastgan.train.growth` trains them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastgan.errors import UsageError


class Growing(nn.Module):
    """A network of which levels 0 (4×4) to `stage` are in use; the output of the last one is weighted by alpha."""

    _stage: Tensor
    _alpha: Tensor

    def __init__(self, resolution: int):
        super().__init__()
        self.stages = (resolution // 4).bit_length()
        # Buffers are saved in checkpoints. `stage` and `fading` are plain Python values, because they select what runs.
        self.register_buffer("_stage", torch.tensor(self.stages - 1))
        self.register_buffer("_alpha", torch.ones(()))
        self.stage, self.fading = self.stages - 1, False
        self.register_load_state_dict_post_hook(Growing._update_from_buffers)

    def grow(self, stage: int, alpha: float = 1.0) -> None:
        """Set the network to images of 4·2^stage pixels a side, the newest level weighted by alpha in [0, 1].

        Raises UsageError for a stage beyond the resolution that the network was built for.
        """
        if not 0 <= stage < self.stages:
            raise UsageError(f"stage: expected a number from 0 (4×4) to {self.stages - 1}, got {stage}")
        self._stage.fill_(stage)
        self.stage = stage
        self.alpha = alpha

    @property
    def alpha(self) -> float:
        """Weight of the newest level, from 0 to 1; a read waits for the device."""
        return float(self._alpha)

    @alpha.setter
    def alpha(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise UsageError(f"alpha: expected a number from 0 to 1, got {value}")
        self._alpha.fill_(value)
        # Computed here, because reading the buffer in a training step would wait for the device.
        self.fading = self.stage > 0 and value < 1

    @property
    def side(self) -> int:
        """Height and width of the images at the current stage, in pixels."""
        return 4 << self.stage

    def _update_from_buffers(self, _: object = None) -> None:
        self.stage = int(self._stage)
        self.fading = self.stage > 0 and float(self._alpha) < 1

    def faded(self, previous: Tensor, newest: Tensor) -> Tensor:
        """previous + alpha · (newest − previous): the outputs of the last two levels, interpolated."""
        return torch.lerp(previous, newest, self._alpha.to(newest.dtype))


def require_stages(family: str, resolution: int) -> None:
    """Raise UsageError unless the resolution is a power of two from 8."""
    if resolution < 8 or resolution & (resolution - 1):
        near = max(8, 1 << max(resolution, 1).bit_length() - 1)
        raise UsageError(
            f"resolution: {family} supports powers of two from 8, got {resolution}; give {near} or {2 * near}"
        )

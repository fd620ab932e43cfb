"""Batches for tests of resumed runs."""

import torch


class Images:
    """The i-th batch is a function of i, so that a resumed run takes the ones it would have taken."""

    def __init__(self):
        self.i = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.i += 1
        return torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(self.i)) * 2 - 1

    def state_dict(self):
        return {"i": self.i}

    def load_state_dict(self, state):
        self.i = state["i"]

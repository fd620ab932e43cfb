"""Rewritten methods have the signatures, docstrings, closures, pickles and tracebacks of the original ones."""

import copy
import inspect
import pickle
import subprocess
import sys
import traceback

import torch
import torch.nn.functional as F
from torch import nn

import fastgan
from fastgan.testing.op_recorder import OpRecorder

X = torch.randn(2, 3, 8, 8)


class Base(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.__secret = nn.Conv2d(3, width, 3, padding=1)

    def forward(self, x, slope=0.2, *, scale: float = 1.0):
        """What it does."""
        return F.leaky_relu(self.__secret(x), slope) * scale

    @property
    def width(self):
        return self.__secret.out_channels

    @staticmethod
    def helper(x):
        return x.relu()


class Derived(Base):
    def forward(self, x, slope=0.1, **named):
        x = super().forward(self.conv(x).relu(), slope, **named)
        return self.helper(x)


def local(factor):
    class Local(Base):
        def forward(self, x):
            def twice(y):
                return factor * y

            return twice(torch.tanh(super().forward(x))) + __class__.__name__.count("Local")

    return Local


def pair(kind, *args):
    torch.manual_seed(0)
    plain = kind(*args)
    return plain, fastgan.fuse(copy.deepcopy(plain))


def test_private_names_super_closures_defaults_and_docstrings():
    for kind in (Base, Derived, local(3)):
        plain, ours = pair(kind)
        torch.testing.assert_close(ours(X), plain(X))
        with OpRecorder() as calls:
            ours(X)
        assert calls.counts()["conv_bias_act"] >= 1
        assert inspect.signature(ours.forward) == inspect.signature(plain.forward)
        assert ours.forward.__doc__ == plain.forward.__doc__
        assert ours.forward.__qualname__ == plain.forward.__qualname__
        assert isinstance(ours, kind)
        assert ours.width == 4
    plain, ours = pair(Derived)
    torch.testing.assert_close(ours(X, 0.3, scale=2.0), plain(X, 0.3, scale=2.0))
    torch.testing.assert_close(ours(x=X, slope=0.4), plain(x=X, slope=0.4))


def test_the_user_s_class_is_unchanged():
    before = dict(vars(Base))
    plain, _ = pair(Base)
    assert dict(vars(Base)) == before
    with OpRecorder() as calls:
        plain(X)
    assert not calls.counts()


def test_tracebacks_show_the_user_s_line():
    _, ours = pair(Base)
    try:
        ours(X[:, :2])
    except Exception as error:
        lines = [frame.line for frame in traceback.extract_tb(error.__traceback__)]
    assert "return F.leaky_relu(self.__secret(x), slope) * scale" in lines


def test_pickles_open_in_another_process(tmp_path):
    (tmp_path / "users.py").write_text(
        "import torch.nn.functional as F\nfrom torch import nn\n\n"
        "class Discriminator(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 4, 3)\n\n"
        "    def forward(self, x):\n        return F.leaky_relu(self.conv(x), 0.2)\n"
    )
    make = (
        "import sys, users, fastgan, pickle; sys.stdout.buffer.write(pickle.dumps(fastgan.fuse(users.Discriminator())))"
    )
    look = (
        "import sys, pickle, torch; m = pickle.load(sys.stdin.buffer)\n"
        "from fastgan.testing.op_recorder import OpRecorder\n"
        "with OpRecorder() as calls: m(torch.ones(1, 3, 4, 4))\n"
        "print(calls.counts(), type(m).__mro__[1])"
    )
    run = {"cwd": tmp_path, "capture_output": True, "check": True}
    stored = subprocess.run([sys.executable, "-c", make], **run).stdout
    seen = subprocess.run([sys.executable, "-c", look], input=stored, **run).stdout.decode().strip()
    assert seen == "{'conv_bias_act': 1} <class 'users.Discriminator'>"


class Scaled(nn.Conv2d):
    """A convolution whose forward calls PyTorch's."""

    def forward(self, x):
        return F.relu(super().forward(x)) * 2


class Named(nn.Conv2d):
    """A convolution that overrides only the constructor."""

    def __init__(self, channels):
        super().__init__(3, channels, 3)


class Block(nn.Sequential):
    def __init__(self, channels):
        super().__init__(Named(channels), nn.LeakyReLU(0.2, True), nn.Conv2d(channels, 3, 1), nn.LeakyReLU(0.2, True))
        self.channels = channels


def test_subclasses_of_pytorchs_modules():
    for kind, args, ops in (
        (Scaled, (3, 4, 3), {"conv_bias_act": 1}),
        (Named, (4,), {"conv_bias_act": 1}),
        (Block, (4,), {"conv_stack": 1}),
    ):
        plain, ours = pair(kind, *args)
        torch.testing.assert_close(ours(X), plain(X))
        with OpRecorder() as calls:
            ours(X)
        assert calls.counts() == ops
        again = pickle.loads(pickle.dumps(ours))
        assert torch.equal(again(X), ours(X))
        assert isinstance(again, kind)
        assert again.__dict__.keys() == plain.__dict__.keys()


class OwnReduce(Base):
    def __reduce__(self):
        return OwnReduce, (), self.state_dict()

    def __setstate__(self, state):
        self.load_state_dict(state)


def test_a_user_s_own_pickling():
    _, ours = pair(OwnReduce)
    again = pickle.loads(pickle.dumps(ours))
    assert type(again) is type(ours)
    assert torch.equal(again(X), ours(X))


def test_a_parametrized_module_of_a_user():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x):
            return F.relu(x * self.gain)

    plain = nn.utils.parametrizations.weight_norm(Gain(), "gain")
    ours = fastgan.fuse(copy.deepcopy(plain))
    torch.testing.assert_close(ours(X), plain(X))
    assert nn.utils.parametrize.is_parametrized(ours)
    copied = copy.deepcopy(ours)
    nn.utils.parametrize.remove_parametrizations(copied, "gain")
    torch.testing.assert_close(copied(X), plain(X))
    assert isinstance(copied, Gain)

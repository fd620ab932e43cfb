"""Pickles are read as data: the right tensors, names and arguments, and nothing of them is executed."""

import os
import pickle
import struct
import time

import numpy as np
import pytest
import torch
from nvidia_pickles import Child, EasyDict, Network, Persistent, dumps, persistent

from fastgan._util import memory
from fastgan._util.pickle_data import LIMIT, read_pickle
from fastgan.errors import DataError
from fastgan.models.checkpoints.nvidia_pickle import read_nvidia_pickle
from fastgan.models.checkpoints.reading import read


def written(tmp_path, content, protocol=4):
    path = tmp_path / "network.pkl"
    path.write_bytes(content if isinstance(content, bytes) else dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_tensors_arguments_and_facts(tmp_path, protocol):
    torch.manual_seed(0)
    network = Network()
    content = {
        "training_set_kwargs": EasyDict(path="/data/x.zip", resolution=np.int64(32), use_labels=False),
        "G": persistent(network, 16, 0, class_name="Generator", base=np.float32(2.5), filter=[1, 3, 3, 1], none=None),
        "D": None,
    }
    found = read(written(tmp_path, content, protocol))
    assert found.facts == {"training_set_kwargs": {"path": "/data/x.zip", "resolution": 32, "use_labels": False}}
    assert list(found.networks) == ["G"]
    state = found.networks["G"]
    expected = network.state_dict()
    assert list(state.tensors) == list(expected)
    for name, value in expected.items():
        assert state.tensors[name].dtype == value.dtype, name
        assert torch.equal(state.tensors[name], value), name
    assert state.class_name == "Generator"
    assert state.positional == [16, 0]
    assert state.arguments == {"base": 2.5, "filter": [1, 3, 3, 1], "none": None}
    assert state.parameters == sum(value.numel() for value in expected.values())


def test_the_limit_of_activations_follows_from_the_source_text(tmp_path):
    """NVIDIA's two repositories differ in this default, and a pickle does not state what was left to it."""
    for source, expected in (("x, conv_clamp = 256, y", {}), ("x, conv_clamp = None", {"conv_clamp": None})):
        found = read_nvidia_pickle(written(tmp_path, {"G": persistent(Child(), source=source)}))
        assert found.networks["G"].defaults == expected


def test_values_of_the_file_may_be_changed(tmp_path):
    read(written(tmp_path, {"G": persistent(Child())})).networks["G"].tensors["weight"].add_(1)


class Runs:
    """A call that a pickle asks for."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


def hostile(path):
    """Objects that would write a file, and the global that the error names."""
    command, code = f"echo x > {path}", f"open({str(path)!r}, 'w')"
    return {
        "a command": (Runs(os.system, command), f"{os.system.__module__}.system"),
        "eval": (Runs(eval, code), "builtins.eval"),
        "exec": (Runs(exec, code), "builtins.exec"),
        "getattr": (Runs(getattr, os, "system"), "builtins.getattr"),
        "open": (Runs(open, str(path), "w"), "io.open"),
        "a class": (Runs(pickle.loads, pickle.dumps(Runs(eval, code))), "_pickle.loads"),
        "torch.load": (Runs(torch.load, str(path)), "torch.serialization.load"),
    }


@pytest.mark.parametrize("place", ["file", "network", "argument", "tensor"])
@pytest.mark.parametrize("name", hostile("x"))
def test_nothing_is_executed(tmp_path, name, place):
    target = tmp_path / "written"
    value, shown = hostile(target)[name]
    network = Child()
    content = {"G": persistent(network), "other": value}
    if place == "network":
        content = {"G": value}
    elif place == "argument":
        content = {"G": persistent(network, option=value)}
    elif place == "tensor":
        made = persistent(network)
        made.meta["state"]["_buffers"] = {"x": value}
        content = {"G": made}
    try:
        path = written(tmp_path, content)
    except (TypeError, pickle.PicklingError):  # modules cannot be pickled
        path = written(tmp_path, b"\x80\x04cbuiltins\ngetattr\n.")
    with pytest.raises(DataError, match=r"network.pkl: the pickle names .* which could run any code") as error:
        read(path)
    assert f"names {shown}, " in str(error.value)
    assert "\n" not in str(error.value)
    assert not target.exists()


def test_the_same_pickle_runs_in_python(tmp_path):
    """Otherwise the tests above could not fail."""
    pickle.loads(pickle.dumps(hostile(tmp_path / "written")["a command"][0]))
    assert (tmp_path / "written").exists()


def test_source_text_is_not_executed(tmp_path):
    code = f"open({str(tmp_path / 'written')!r}, 'w')"
    found = read(written(tmp_path, {"G": persistent(Child(), source=code)}))
    assert list(found.networks) == ["G"]
    assert not (tmp_path / "written").exists()


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_pickles_in_the_bytes_of_a_tensor_are_not_executed(tmp_path):
    """torch.storage._load_from_bytes is torch.load, which unpickles."""
    payload = pickle.dumps(Runs(os.system, f"echo x > {tmp_path / 'written'}"))
    made = persistent(Child())
    made.meta["state"]["_buffers"] = {"x": rebuilt(data=payload)}
    with pytest.raises(DataError, match=r"the pickle names \w+\.system, which could run any code"):
        read(written(tmp_path, {"G": made}))
    assert not (tmp_path / "written").exists()


def rebuilt(size=(2,), stride=(1,), offset=0, data=None):
    data = torch.zeros(2).storage().__reduce__()[1][0] if data is None else data
    return Runs(
        torch._utils._rebuild_tensor_v2, Runs(torch.storage._load_from_bytes, data), offset, size, stride, False, {}
    )


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"size": (1 << 40,), "stride": (0,)}, "'x' has .* values in a storage of 2"),
        ({"size": (3,)}, "'x' has .* values in a storage of 2"),
        ({"offset": 1}, "'x' has .* values in a storage of 2"),
        ({"stride": (2,)}, "'x' has .* values in a storage of 2"),
        ({"stride": (-1,)}, "'x' is damaged: expected sizes and strides, whole numbers from 0"),
        ({"size": (1.5,)}, "'x' is damaged: expected sizes and strides, whole numbers from 0"),
        ({"size": (2, 1)}, "'x' has .* values in a storage of 2"),
        ({"data": b""}, "the pickle is cut off"),
        ({"data": "text"}, "'x' is damaged: expected the bytes of its values"),
    ],
)
def test_damaged_tensors(tmp_path, options, sentence):
    made = persistent(Child())
    made.meta["state"]["_buffers"] = {"x": rebuilt(**options)}
    with pytest.raises(DataError, match=sentence) as error:
        read(written(tmp_path, {"G": made}))
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_storage_that_claims_more_than_its_bytes(tmp_path):
    data = torch.zeros(2).storage().__reduce__()[1][0]
    made = persistent(Child())
    for changed in (data[:-4], data + b"1234", data[:-16] + struct.pack("<q", 1 << 40) + data[-8:]):
        made.meta["state"]["_buffers"] = {"x": rebuilt(data=changed)}
        with pytest.raises(DataError, match=r"'x' is damaged: expected 2 values, \d+ bytes are there"):
            read(written(tmp_path, {"G": made}))


def bombs():
    """Small pickles that take for ever, or more memory than there is, in readers without limits."""
    head = b"\x80\x04"
    tuples = b")" + b"q\x00h\x00h\x00\x86" * 200  # each twice in the next: the hash of the last takes 2^200 steps
    pairs = b"](" + b"K\x00K\x01\x86" * 50_000 + b"e" + b"q\x00"
    return {
        "a memo of 2^32": (head + b"Nr\xff\xff\xff\xff0}.", "expected a file of weights"),
        "a length of 2^63": (head + b"\x8e" + struct.pack("<Q", 1 << 63) + b".", "is cut off"),
        "a byte array of 2^40": (head + b"\x96" + struct.pack("<Q", 1 << 40) + b".", "is cut off"),
        "a frame of 2^60": (head + b"\x95" + struct.pack("<Q", 1 << 60) + b"}.", "expected a file of weights"),
        "a number of 2^31 bytes": (head + b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b".", "is damaged"),
        "tuples in tuples as a key": (head + b"}" + tuples + b"Ns.", "is damaged"),
        "a list copied often": (
            head + pairs + b"ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00\x85R0" * 200 + b"}.", "more than",
        ),
        "lists in lists": (head + b"]" * 900_000 + b"a" * 899_999 + b".", "more than|expected a pickle of a dict"),
        "many instructions": (head + b"}" + b"N0" * LIMIT + b".", "more than"),
        "an extension": (head + b"\x82\x01.", "has the instruction 0x82"),
        "an instance": (head + b"(ios\nsystem\n.", "has the instruction 0x69"),
        "an object outside": (head + b"}\x97.", "has the instruction 0x97"),
        "an empty stack": (head + b"R.", "is damaged"),
        "a mark in the end": (head + b"(.", "is damaged"),
        "no end": (head + b"}", "is cut off"),
        "text that is not UTF-8": (head + b"\x8c\x01\xff.", "is damaged"),
        "state for a dict's class": (head + b"ccollections\nOrderedDict\n}b.", "is damaged"),
    }  # fmt: skip


@pytest.mark.parametrize("name", bombs())
def test_bombs(tmp_path, name):
    data, sentence = bombs()[name]
    start = time.process_time()
    with pytest.raises(DataError, match=rf"network.pkl: .*({sentence})") as error:
        read(written(tmp_path, data))
    assert time.process_time() - start < 10
    assert "\n" not in str(error.value)


def test_modules_that_contain_each_other(tmp_path):
    """Twenty modules that each contain the next one twice are a million; one that contains itself has no end."""
    inner = Persistent("Child", {"_parameters": {}, "_modules": {}})
    for _ in range(20):
        inner = Persistent("Child", {"_modules": {"a": inner, "b": inner}})
    with pytest.raises(DataError, match="are nested too deeply or too many"):
        read(written(tmp_path, {"G": inner}))
    # G is written as a call of the persistence function with a state that names the call itself through the memo.
    endless = dumps({"G": Persistent("Child", {"_modules": {"a": None}})})
    content, _ = read_pickle(endless, lambda one: True)
    call = content["G"]
    call.args[0]["state"]["_modules"]["a"] = call
    from fastgan.models.checkpoints.nvidia_pickle import _Reader

    with pytest.raises(DataError, match="are nested too deeply or too many"):
        _Reader().network(call, "G")


def test_arguments_that_contain_each_other(tmp_path):
    value = [1]
    for _ in range(12):
        value = [value] * 20
    with pytest.raises(DataError, match="its arguments are nested too deeply or too many"):
        read(written(tmp_path, {"G": persistent(Child(), option=value)}))


def test_truncated_files(tmp_path):
    whole = dumps({"G": persistent(Child(), 1, option=2), "training_set_kwargs": EasyDict(a=1)})
    for length in [*range(1, 200, 7), *range(200, len(whole), 97), len(whole) - 1]:
        with pytest.raises(DataError, match=r"network.pkl: ") as error:
            read(written(tmp_path, whole[:length]))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([1], "expected a pickle of a dict of networks, got list"),
        ({"a": 1}, "expected a file of weights, got one with the entries a"),
        ({"G": Persistent("Child", [1])}, "'G' is no module with its class and state"),
        ({"G": Persistent(None, {})}, "'G' is no module with its class and state"),
        ({"G": Persistent("Child", {"_buffers": {"x": 3}})}, "'x' is no tensor"),
        ({"G": Persistent("Child", {"_parameters": 3})}, "'_parameters' is damaged: expected a dict by names"),
        ({"G": Persistent("Child", {"_modules": {"a": 3}})}, "'a' is no module"),
    ],
)
def test_other_content(tmp_path, content, sentence):
    with pytest.raises(DataError, match=rf"network.pkl: .*{sentence}"):
        read(written(tmp_path, content))


def test_a_file_that_does_not_fit_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "free_host_memory", lambda: 1000)
    monkeypatch.setattr(memory, "_LITTLE", 0)
    with pytest.raises(DataError, match=r"reading this pickle takes .* of memory"):
        read(written(tmp_path, {"G": persistent(Child())}))

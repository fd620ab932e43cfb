import re

import numpy as np
import pytest
import torch

from fastgan.errors import DataError
from fastgan.models import esrgan
from fastgan.models.esrgan import RRDBNet, SRVGGNetCompact

NETWORKS = [
    SRVGGNetCompact(scale=4, width=8, blocks=2),
    SRVGGNetCompact(scale=2, width=5, blocks=1, shuffle=4),
    SRVGGNetCompact(scale=3, width=8, blocks=1, shuffle=4),
    RRDBNet(scale=4, width=8, growth=4, blocks=2),
    RRDBNet(scale=2, width=8, growth=4, blocks=1),
    RRDBNet(scale=1, width=5, growth=3, blocks=1),
]


@pytest.mark.parametrize("options", [{}, {"fp16": True}, {"fused": False}])
@pytest.mark.parametrize("network", NETWORKS)
def test_models_are_loaded_and_give_the_output_of_ncnn(write_ncnn, run_ncnn, network, options):
    """Compared with ncnn's own runtime, at sizes that are not multiples of its vector length."""
    if isinstance(network, SRVGGNetCompact):
        options = {name: value for name, value in options.items() if name != "fused"}
    param = write_ncnn(network, **options)
    found = esrgan.load(param)
    assert type(found) is type(network)
    assert (found.scale, found.multiple, found.reach) == (network.scale, network.multiple, network.reach)
    for key, value in network.state_dict().items():
        expected = value.half().float() if options.get("fp16") and value.dim() == 4 else value
        assert torch.equal(found.state_dict()[key], expected), key
    assert esrgan.load(param.with_suffix(".bin")).state_dict().keys() == found.state_dict().keys()

    unit = network.multiple
    for h, w in ((7 * unit, 5 * unit), (unit, 3 * unit)):
        image = np.random.default_rng(h).random((3, h, w), np.float32)
        with torch.no_grad():
            ours = found(torch.from_numpy(image)[None])[0].numpy()
        theirs = run_ncnn(param, image)
        assert theirs.shape == ours.shape
        assert np.abs(theirs).max() > 0.05
        # float32 sums of up to 9·24 terms near 1, in another order; ncnn uses the Winograd transform.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


def edit(param, pattern, replacement, count=1):
    text, found = re.subn(pattern, replacement, param.read_text(), count=count, flags=re.MULTILINE)
    assert found, pattern
    lines = text.splitlines()
    lines[1] = f"{len(lines) - 2} 99"
    param.write_text("\n".join(lines) + "\n")


SRVGG, RRDB = NETWORKS[1], RRDBNet(width=4, growth=2, blocks=1)
LAST_CONV = r"4=1 5=1 6=135"

#: network, pattern in its .param file, replacement, message of the error
EDITS = [
    (SRVGG, r"^PReLU ", "Sigmoid ", r"layer prelu2 \(Sigmoid\) is not supported: .* have no such layer"),
    (SRVGG, r"^PixelShuffle(.*) 0=4$", r"PixelShuffle\1 0=4 1=1", r"\(PixelShuffle\): expected 1=0, got 1"),
    (SRVGG, r"^PixelShuffle", "Reorg", r"\(Reorg\) is unexpected: expected a PixelShuffle of b"),
    (SRVGG, r"1=4.0\S+ 2=4.0\S+", "1=3.0 2=3.0", r"\(Interp\): expected 1=4.0, got 3.0"),
    (SRVGG, r"0=1 1=4.0", "0=2 1=4.0", r"\(Interp\): expected 0=1, got 2"),
    (SRVGG, r"1=5.0\S+ 2=5.0\S+", "1=0.3 2=0.3", "its scale is 4 · 0.3: expected a whole number"),
    (SRVGG, r"1=5.0\S+ 2=5.0\S+", "1=0.5 2=0.75", r"\(Interp\): expected 2=0.5, got 0.75"),
    (SRVGG, r"^BinaryOp(.*) 0=0", r"BinaryOp\1 0=1", r"\(BinaryOp\): expected 0=0, got 1"),
    (SRVGG, r"^(Interp .* 1 1) data_\d", r"\1 b2", r"\(Interp\) is unexpected: expected a Interp of data"),
    (SRVGG, r"\Z", "ReLU more 1 1 output better\n", r"layer more \(ReLU\) is unexpected: expected the network to end"),
    (SRVGG, r"^Input .*\n", "", "expected one Input layer with one output, got 0 outputs"),
    (SRVGG, LAST_CONV, f"3=2 {LAST_CONV}", r"\(Convolution\): expected 3=1, got 2"),
    (SRVGG, LAST_CONV, "4=0 5=1 6=135", r"\(Convolution\): expected 4=1, got 0"),
    (SRVGG, LAST_CONV, f"{LAST_CONV} 7=5", r"\(Convolution\): expected 7=0, got 5"),
    (SRVGG, LAST_CONV, f"{LAST_CONV} 8=2", r"\(Convolution\) is quantized to int8, which is not supported"),
    (SRVGG, LAST_CONV, f"{LAST_CONV} 9=1", r"\(Convolution\): expected no activation, got 9=1"),
    (SRVGG, LAST_CONV, "4=1 5=1 6=136", r"net.bin: expected the weights of layer .* got tag|net.bin is incomplete"),
    (RRDB, r"2.000000e-01$", "1.000000e-01", r"expected a leaky ReLU of slope 0.2, got 9=2 with \(0.1,\)"),
    (RRDB, r"=2,2.000000e-01", "=2,3.000000e-01", r"\(Eltwise\): expected 1=\(0.2, 1.0\), got \(0.3, 1.0\)"),
    (RRDB, r"^Eltwise(.*) 0=1", r"Eltwise\1 0=2", r"\(Eltwise\): expected 0=1, got 2"),
    (RRDB, r"^(Concat .* 2 1) (\S+) (\S+)", r"\1 \3 \2", r"\(Concat\): expected its inputs in the order"),
    (RRDB, r"^Concat", "Pooling p 1 1 data data2\nConcat", r"layer p \(Pooling\) is not supported"),
    (RRDB, r"^Interp(.*) 0=1", r"Noop\1 0=1", r"\(Convolution\) is unexpected: expected a Interp of"),
    (RRDB, r"^Convolution .* 0=3 .*\n", "", "net.bin has"),
]


@pytest.mark.parametrize(
    ("network", "pattern", "replacement", "message"), EDITS, ids=[str(i) for i in range(len(EDITS))]
)
def test_graphs_of_other_networks_are_errors(write_ncnn, network, pattern, replacement, message):
    param = write_ncnn(network)
    esrgan.load(param)
    edit(param, pattern, replacement)
    with pytest.raises(DataError, match=message) as error:
        esrgan.load(param)
    assert str(error.value).startswith(f"{param}: ")


def test_wrong_number_of_convolutions(write_ncnn):
    with pytest.raises(DataError, match=r"expected 6 convolutions and 15 in each block of an RRDBNet, .* got 6 convol"):
        esrgan.load(write_ncnn(RRDBNet(width=4, growth=2, blocks=0)))


def test_missing_reorg_before_the_first_convolution(write_ncnn):
    param = write_ncnn(NETWORKS[4])
    edit(param, r"^Reorg .* 1 1 data (\S+) .*$", r"Noop n 1 1 data \1")
    with pytest.raises(DataError, match="first convolution has 12 input channels: expected a Reorg by 2 before"):
        esrgan.load(param)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "net.param does not begin with 7767517"),
        ("7767517", "line 2: expected the number of layers and the number of blobs"),
        ("7767517\nx", "line 2: expected the number of layers and the number of blobs"),
        (
            "7767517\n2 2\nInput data 0 1 data",
            "net.param is incomplete or damaged: line 2 gives 2 layers, and there are 1",
        ),
        ("7767517\n1 1\nInput data 0 2 data", "net.param, line 3: expected a layer, got 'Input data 0 2 data'"),
        ("7767517\n1 1\nInput", "line 3: expected a layer, got 'Input'"),
        ("7767517\n1 1\nInput data 0 1 data 0=x", "line 3: expected a layer"),
        ("7767517\n1 1\nInput data 0 1 data -23301=3,1,2", "line 3: expected a layer"),
        ("7767517\n1 1\nInput data 0 1 data", "net.bin has 5 bytes, and the weights of its layers are 0"),
    ],
)
def test_damaged_graphs_are_errors(tmp_path, text, message):
    (tmp_path / "net.param").write_text(text)
    (tmp_path / "net.bin").write_bytes(b"12345")
    with pytest.raises(DataError, match=message):
        esrgan.load(tmp_path / "net.param")


def test_graphs_in_binary_form_are_errors(tmp_path):
    for name in ("net.param", "net.bin"):
        (tmp_path / name).write_bytes((7767517).to_bytes(4, "little") + bytes(9))
    with pytest.raises(DataError, match="as an ncnn graph in text form does; it is a graph in binary form"):
        esrgan.load(tmp_path / "net.param")


@pytest.mark.parametrize("missing", [".bin", ".param"])
def test_one_of_the_two_files_is_missing(write_ncnn, missing):
    param = write_ncnn(SRVGG)
    param.with_suffix(missing).unlink()
    (left,) = param.parent.iterdir()
    with pytest.raises(
        DataError, match=rf"consists of two files, and net{missing} is missing in the folder of {left.name}"
    ):
        esrgan.load(left)


def test_damaged_weights(write_ncnn):
    param = write_ncnn(SRVGG, fp16=True)
    weights = param.with_suffix(".bin")
    whole = weights.read_bytes()
    for length in (2, 100, len(whole) - 1):
        weights.write_bytes(whole[:length])
        with pytest.raises(
            DataError, match=rf"net.bin is incomplete: it has {length:,} bytes, and the weights of layer"
        ):
            esrgan.load(param)
    weights.write_bytes(whole + b"\0")
    with pytest.raises(
        DataError, match=rf"net.bin has {len(whole) + 1:,} bytes, and the weights of its layers are {len(whole):,}"
    ):
        esrgan.load(param)
    for tag, found in ((0x000D4B38, "int8"), (7, "tag 0x00000007")):
        weights.write_bytes(tag.to_bytes(4, "little") + whole[4:])
        with pytest.raises(DataError, match=rf"layer convolution1 \(Convolution\) as float32 or float16, got {found}"):
            esrgan.load(param)
    weights.write_bytes(whole[:4] + b"\xff\x7f" + whole[6:])  # NaN
    with pytest.raises(DataError, match=r"body.0.weight has values that are NaN or infinite"):
        esrgan.load(param)

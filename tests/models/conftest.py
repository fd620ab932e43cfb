"""Writes super-resolution networks as ncnn models, independently of the reader in fastgan.models.ncnn."""

import struct
from collections import Counter

import pytest
import torch

from fastgan.models.esrgan import SRVGGNetCompact


class Writer:
    """Layers of a .param file and bytes of a .bin file; each method returns the name of its layer's output blob.

    fused: activations are parameters of the convolution and residuals one Eltwise layer, as ncnnoptimize writes them;
    otherwise they are separate layers.
    """

    def __init__(self, fp16=False, fused=True):
        self.fp16, self.fused = fp16, fused
        self.layers, self.bytes = [], b""
        self.image = self.layer("Input", [], "", "data")

    def layer(self, kind, inputs, params, output=None):
        number = len(self.layers)
        self.layers.append((kind, f"{kind.lower()}{number}", list(inputs), [output or f"b{number}"], params))
        return self.layers[-1][3][0]

    def conv(self, x, conv, leaky=False):
        weight, bias = (tensor.detach().numpy() for tensor in (conv.weight, conv.bias))
        params = f"0={weight.shape[0]} 1=3 4=1 5=1 6={weight.size}"
        if leaky and self.fused:
            params += " 9=2 -23310=1,2.000000e-01"
        if self.fp16:
            values = weight.astype("<f2").tobytes()
            self.bytes += struct.pack("<I", 0x01306B47) + values + b"\0" * (-len(values) % 4)
        else:
            self.bytes += struct.pack("<I", 0) + weight.tobytes()
        self.bytes += bias.tobytes()
        y = self.layer("Convolution", [x], params)
        return self.layer("ReLU", [y], "0=2.000000e-01") if leaky and not self.fused else y

    def residual(self, x, to):
        if self.fused:
            return self.layer("Eltwise", [x, to], "0=1 -23301=2,2.000000e-01,1.000000e+00")
        return self.add(self.layer("BinaryOp", [x], "0=2 1=1 2=2.000000e-01"), to)

    def add(self, x, y):
        return self.layer("BinaryOp", [x, y], "0=0")

    def nearest(self, x, factor):
        return self.layer("Interp", [x], f"0=1 1={factor:e} 2={factor:e}")

    def save(self, stem, last):
        """Write both files, with a Split layer for blobs with several consumers. last: the output blob."""
        consumers, lines, blobs = Counter(blob for layer in self.layers for blob in layer[2]), [], 0
        copies = {blob: [f"{blob}_{i}" for i in range(n)] for blob, n in consumers.items() if n > 1}
        unused = {blob: list(names) for blob, names in copies.items()}
        for kind, name, inputs, (output,), params in self.layers:
            inputs = [unused[blob].pop() if blob in unused else blob for blob in inputs]
            layers = [(kind, name, inputs, ["output" if output == last else output], params)]
            if output in copies:
                layers.append(("Split", f"split_{output}", [output], copies[output], ""))
            for kind, name, inputs, outputs, params in layers:
                blobs += len(outputs)
                words = [f"{kind:12} {name:12}", len(inputs), len(outputs), *inputs, *outputs, params]
                lines.append(" ".join(str(word) for word in words).strip())
        stem.with_suffix(".param").write_text("\n".join(["7767517", f"{len(lines)} {blobs}", *lines, ""]))
        stem.with_suffix(".bin").write_bytes(self.bytes)
        return stem.with_suffix(".param")


def srvgg(network, stem, fp16=False):
    writer = Writer(fp16)
    image = x = writer.image
    for layer in network.body:
        if isinstance(layer, torch.nn.PReLU):
            writer.bytes += layer.weight.detach().numpy().tobytes()
            x = writer.layer("PReLU", [x], f"0={layer.weight.numel()}")
        else:
            x = writer.conv(x, layer)
    x = writer.layer("PixelShuffle", [x], f"0={network.shuffle}")
    x = writer.add(x, writer.nearest(image, network.shuffle))
    if network.shuffle != network.scale:
        ratio = network.scale / network.shuffle
        x = writer.layer("Interp", [x], f"0=3 1={ratio:e} 2={ratio:e}")
    return writer.save(stem, x)


def rrdb(network, stem, fp16=False, fused=True):
    writer = Writer(fp16, fused)
    x = writer.image
    if network.multiple > 1:
        x = writer.layer("Reorg", [x], f"0={network.multiple}")
    first = x = writer.conv(x, network.conv_first)
    for block in network.body:
        outer = x
        for dense in (block.rdb1, block.rdb2, block.rdb3):
            maps = [x]
            for conv in (dense.conv1, dense.conv2, dense.conv3, dense.conv4):
                y = writer.layer("Concat", maps, "") if len(maps) > 1 else x
                maps.append(writer.conv(y, conv, leaky=True))
            x = writer.residual(writer.conv(writer.layer("Concat", maps, "0=0"), dense.conv5), x)
        x = writer.residual(x, outer)
    x = writer.add(first, writer.conv(x, network.conv_body))
    x = writer.conv(writer.nearest(x, 2), network.conv_up1, leaky=True)
    x = writer.conv(writer.nearest(x, 2), network.conv_up2, leaky=True)
    x = writer.conv(writer.conv(x, network.conv_hr, leaky=True), network.conv_last)
    return writer.save(stem, x)


@pytest.fixture
def write_ncnn(tmp_path):
    """write_ncnn(network, name="net", fp16=False, fused=True) writes both files and returns the path of the .param."""

    def write(network, name="net", **options):
        return (srvgg if isinstance(network, SRVGGNetCompact) else rrdb)(network, tmp_path / name, **options)

    return write

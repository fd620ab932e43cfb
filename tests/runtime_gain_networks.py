"""Networks in the spellings of public StyleGAN2 and R3GAN code: convolutions called with a weight that is scaled when
used, biases and gains beside the activations, low-pass filters as depthwise convolutions."""

import functools
from math import sqrt

import torch
import torch.nn.functional as F
from torch import nn


def low_pass(taps):
    row = torch.tensor(taps, dtype=torch.float32)
    square = row[None] * row[:, None]
    return square / square.sum()


def biased_lrelu(input, bias=None, negative_slope=0.2, scale=2**0.5):
    if bias is not None:
        rest = [1] * (input.ndim - bias.ndim - 1)
        return F.leaky_relu(input + bias.view(1, bias.shape[0], *rest), negative_slope=negative_slope) * scale
    return F.leaky_relu(input, negative_slope=negative_slope) * scale


def resample(x, kernel, up=1, down=1, pad=(0, 0)):
    """Zeros, padding, filter and decimation, by a depthwise convolution of single channels."""
    n, c, h, w = x.shape
    kh, kw = kernel.shape
    out = x.reshape(-1, h, 1, w, 1, 1)
    out = F.pad(out, [0, 0, 0, up - 1, 0, 0, 0, up - 1])
    out = out.view(-1, h * up, w * up, 1)
    out = F.pad(out, [0, 0, max(pad[0], 0), max(pad[1], 0), max(pad[0], 0), max(pad[1], 0)])
    out = out.permute(0, 3, 1, 2)
    out = out.reshape([-1, 1, h * up + pad[0] + pad[1], w * up + pad[0] + pad[1]])
    out = F.conv2d(out, torch.flip(kernel, [0, 1]).view(1, 1, kh, kw))
    out = out[:, :, ::down, ::down]
    return out.reshape(n, c, out.shape[2], out.shape[3])


class ScaledConv(nn.Module):
    """The gain is a number of the module, the bias in the call."""

    def __init__(self, in_channels, out_channels, kernel, stride=1, padding=0, bias=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.scale = 1 / sqrt(in_channels * kernel**2)
        self.stride, self.padding = stride, padding
        self.bias = nn.Parameter(torch.randn(out_channels)) if bias else None

    def forward(self, input):
        out = F.conv2d(
            input,
            self.weight * self.scale,
            bias=self.bias,
            stride=self.stride,
            padding=self.padding,
        )
        return out


class BiasedLeakyReLU(nn.Module):
    def __init__(self, channel, bias=True, negative_slope=0.2, scale=2**0.5):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(channel)) if bias else None
        self.negative_slope, self.scale = negative_slope, scale

    def forward(self, input):
        return biased_lrelu(input, self.bias, self.negative_slope, self.scale)


class Blur(nn.Module):
    def __init__(self, taps, pad):
        super().__init__()
        self.register_buffer("kernel", low_pass(taps))
        self.pad = pad

    def forward(self, input):
        return resample(input, self.kernel, pad=self.pad)


class ScaledLinear(nn.Module):
    def __init__(self, in_features, out_features, activation=None):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features))
        self.bias = nn.Parameter(torch.randn(out_features))
        self.activation, self.scale = activation, 1 / sqrt(in_features)

    def forward(self, input):
        if self.activation:
            out = F.linear(input, self.weight * self.scale)
            out = biased_lrelu(out, self.bias)
        else:
            out = F.linear(input, self.weight * self.scale, bias=self.bias)
        return out


class ConvLayer(nn.Sequential):
    """A Sequential of [blur,] scaled convolution [, biased activation]."""

    def __init__(self, in_channel, out_channel, kernel, downsample=False, bias=True, activate=True):
        layers = []
        stride, padding = 1, kernel // 2
        if downsample:
            p = (4 - 2) + (kernel - 1)
            layers.append(Blur([1, 3, 3, 1], ((p + 1) // 2, p // 2)))
            stride, padding = 2, 0
        layers.append(ScaledConv(in_channel, out_channel, kernel, stride, padding, bias=bias and not activate))
        if activate:
            layers.append(BiasedLeakyReLU(out_channel, bias=bias))
        super().__init__(*layers)


class ResBlock(nn.Module):
    def __init__(self, in_channel, out_channel):
        super().__init__()
        self.conv1 = ConvLayer(in_channel, in_channel, 3)
        self.conv2 = ConvLayer(in_channel, out_channel, 3, downsample=True)
        self.skip = ConvLayer(in_channel, out_channel, 1, downsample=True, activate=False, bias=False)

    def forward(self, input):
        out = self.conv1(input)
        out = self.conv2(out)
        skip = self.skip(input)
        out = (out + skip) / sqrt(2)
        return out


class StyleDiscriminator(nn.Module):
    """The residual discriminator, as a Sequential of layers that are Sequentials."""

    def __init__(self, size=16, width=8, largest=16):
        super().__init__()
        channel = min(width, largest)
        convs = [ConvLayer(3, channel, 1)]
        while size > 4:
            out = min(2 * channel, largest)
            convs.append(ResBlock(channel, out))
            channel, size = out, size // 2
        self.convs = nn.Sequential(*convs)
        self.final_conv = ConvLayer(channel + 1, channel, 3)
        self.final_linear = nn.Sequential(
            ScaledLinear(channel * 16, channel, activation="fused_lrelu"), ScaledLinear(channel, 1)
        )

    def forward(self, input):
        out = self.convs(input)
        batch, channel, height, width = out.shape
        group = min(batch, 4)
        stddev = out.view(group, -1, 1, channel, height, width)
        stddev = torch.sqrt(stddev.var(0, unbiased=False) + 1e-8)
        stddev = stddev.mean([2, 3, 4], keepdims=True).squeeze(2)
        stddev = stddev.repeat(group, 1, height, width)
        out = torch.cat([out, stddev], 1)
        out = self.final_conv(out)
        out = out.view(batch, -1)
        return self.final_linear(out)


# --- R3GAN's spellings ---


class Convolution(nn.Module):
    """Calls F.conv2d with the weight of a layer that it holds, in the dtype of the images."""

    def __init__(self, inputs, outputs, kernel, groups=1):
        super().__init__()
        self.Layer = nn.Conv2d(inputs, outputs, kernel, padding=(kernel - 1) // 2, groups=groups, bias=False)

    def forward(self, x):
        return nn.functional.conv2d(
            x, self.Layer.weight.to(x.dtype), padding=self.Layer.padding, groups=self.Layer.groups
        )


class BiasedActivation(nn.Module):
    Function = nn.LeakyReLU(0.2)

    def __init__(self, units):
        super().__init__()
        self.Bias = nn.Parameter(torch.randn(units))

    def forward(self, x):
        y = x + self.Bias.to(x.dtype).view(1, -1, 1, 1) if len(x.shape) > 2 else x + self.Bias.to(x.dtype).view(1, -1)
        return BiasedActivation.Function(y)


class ResidualBlock(nn.Module):
    def __init__(self, channels, groups=4, expansion=2):
        super().__init__()
        wide = channels * expansion
        self.LinearLayer1 = Convolution(channels, wide, 1)
        self.LinearLayer2 = Convolution(wide, wide, 3, groups)
        self.LinearLayer3 = Convolution(wide, channels, 1)
        self.NonLinearity1, self.NonLinearity2 = BiasedActivation(wide), BiasedActivation(wide)

    def forward(self, x):
        y = self.LinearLayer1(x)
        y = self.LinearLayer2(self.NonLinearity1(y))
        y = self.LinearLayer3(self.NonLinearity2(y))
        return x + y


class Downsample(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.register_buffer("Kernel", low_pass([1, 3, 3, 1]))
        if inputs != outputs:
            self.LinearLayer = Convolution(inputs, outputs, 1)

    def forward(self, x):
        kernel = self.Kernel.view(1, 1, 4, 4).to(x.dtype)
        images = x.view(x.shape[0] * x.shape[1], 1, x.shape[2], x.shape[3])
        y = F.conv2d(images, kernel, stride=2, padding=1)
        x = y.view(x.shape[0], x.shape[1], y.shape[2], y.shape[3])
        return self.LinearLayer(x) if hasattr(self, "LinearLayer") else x


class ResidualDiscriminator(nn.Module):
    """last: side of the last feature maps."""

    def __init__(self, width=8, stages=2, blocks=1, last=4):
        super().__init__()
        self.ExtractionLayer = Convolution(3, width, 1)
        layers = []
        for i in range(stages):
            layers += [ResidualBlock(width * 2**i) for _ in range(blocks)]
            layers.append(Downsample(width * 2**i, width * 2 ** (i + 1)))
        self.MainLayers = nn.ModuleList(layers)
        wide = width * 2**stages
        self.Basis = nn.Conv2d(wide, wide, last, groups=wide, bias=False)
        self.Linear = nn.Linear(wide, 1, bias=False)

    def forward(self, x):
        x = self.ExtractionLayer(x)
        for layer in self.MainLayers:
            x = layer(x)
        return self.Linear(self.Basis(x).view(x.shape[0], -1))


# --- decorated functions, whose source is not rewritten ---


def profiled(function):
    @functools.wraps(function)
    def run(*args, **kwargs):
        with torch.autograd.profiler.record_function(function.__name__):
            return function(*args, **kwargs)

    return run


@profiled
def bias_lrelu_clamp(x, b, gain, clamp):
    x = x + b.reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
    x = F.leaky_relu(x, 0.2) * gain
    return x.clamp(-clamp, clamp)


@profiled
def filter_depthwise(x, f, padding):
    f = f.flip([0, 1])[None, None].repeat([x.shape[1], 1, 1, 1])
    return F.conv2d(F.pad(x, padding), f, groups=x.shape[1])


class DecoratedBlock(nn.Module):
    """A filter, a convolution with stride, bias, activation, gain and clamp, and a residual connection."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs, 3, 3)), nn.Parameter(torch.randn(outputs))
        self.skip = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.gain = 1 / sqrt(9 * inputs)
        self.register_buffer("resample_filter", low_pass([1, 3, 3, 1]))

    def forward(self, x):
        y = filter_depthwise(x, self.resample_filter, [1, 1, 1, 1])[:, :, ::2, ::2]
        y = F.conv2d(y, self.skip * self.gain) * sqrt(0.5)
        x = filter_depthwise(x, self.resample_filter, [2, 2, 2, 2])
        x = F.conv2d(x, self.weight * self.gain, stride=2)
        x = bias_lrelu_clamp(x, self.bias, 1.0, 256 * sqrt(0.5))
        return y.add_(x)


class DecoratedDiscriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(DecoratedBlock(3, 8), DecoratedBlock(8, 8))
        self.out = nn.Linear(8 * 16, 1)

    def forward(self, x):
        return self.out(self.blocks(x).flatten(1))

"""Plain PyTorch in place of ops that are being written."""

import torch
from torch.nn import functional as F


def upfirdn2d(x, filter, up=1, down=1, padding=0, *, flip=False, gain=1.0):
    def two(v):
        return (v, v) if isinstance(v, int) else tuple(v)

    uy, ux = two(up)
    dy, dx = two(down)
    p = two(padding)
    top, bottom, left, right = p if len(p) == 4 else (p[0], p[0], p[1], p[1])
    n, c, h, w = x.shape
    x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, ux - 1, 0, 0, 0, uy - 1)).reshape(n, c, h * uy, w * ux)
    x = F.pad(x, (left, right, top, bottom))
    if filter is None:
        return x[:, :, ::dy, ::dx] * gain
    f = filter.outer(filter) if filter.dim() == 1 else filter
    f = (f if flip else f.flip(0, 1)) * gain
    return F.conv2d(x, f.to(x.dtype).expand(c, 1, *f.shape), groups=c)[:, :, ::dy, ::dx]


def filtered_lrelu(x, bias, up_filter, down_filter, *, up=1, down=1, padding=0, gain=2**0.5, slope=0.2, clamp=None):
    x = upfirdn2d(x + bias[:, None, None], up_filter, up=up, padding=padding, gain=up**2)
    x = F.leaky_relu(x, slope) * gain
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return upfirdn2d(x, down_filter, down=down)


def modulated_conv2d(x, weight, styles, *, demodulate=True, up=False, padding=0, filter=None, input_gain=None):
    s = styles if input_gain is None else styles * input_gain
    x = x * s[:, :, None, None].to(x.dtype)
    if up:
        k = weight.shape[-1]
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
        taps = filter.shape[-1]
        before, after = padding + (taps + 1) // 2 - (k - 1), padding + (taps - 2) // 2 - (k - 2)
        x = upfirdn2d(x, filter, padding=(before, after, before, after), gain=4)
    else:
        x = F.conv2d(x, weight, padding=padding)
    if demodulate:
        d = torch.rsqrt(styles.square() @ weight.square().sum((2, 3)).t() + 1e-8)
        x = x * d[:, :, None, None].to(x.dtype)
    return x

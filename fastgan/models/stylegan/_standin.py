"""Plain PyTorch in place of ops that are being written."""

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

import pytest
import torch
import torch.nn.functional as F

from fastgan.ops import conv1d, conv_transpose1d

X, W = torch.randn(2, 4, 11, dtype=torch.float64), torch.randn(6, 2, 3, dtype=torch.float64)
OPTIONS = [{}, {"stride": 2, "padding": 1}, {"dilation": 3, "padding": (2,)}, {"stride": (3,), "dilation": 2}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("transposed", [False, True])
def test_equals_pytorch_in_both_orders(options, transposed):
    if transposed and "stride" in options:
        options = options | {"output_padding": 1}
    ours, plain = (conv_transpose1d, F.conv_transpose1d) if transposed else (conv1d, F.conv1d)
    results = []
    for function in (ours, plain):
        x = (X.repeat(1, 2, 1)[:, :6] if transposed else X).clone().requires_grad_()
        w = W.clone().requires_grad_()
        y = function(x, w, groups=2, **options)
        first = torch.autograd.grad(y.square().sum(), (x, w), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, w))
        results.append([y, *first, *second])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: conv1d(X[0], W, groups=2), r"x: expected \[N, C, L\], got \[4, 11\]"),
        (lambda: conv1d(X, W[0], groups=2), r"weight: expected \[K, C/groups, R\], got \[2, 3\]"),
        (lambda: conv1d(X, W, groups=2, stride=(1, 2)), r"stride: expected a whole number, or one in a sequence"),
        (lambda: conv1d(X, W), "x: expected 2 channels"),
        (lambda: conv_transpose1d(X, W), "x: expected 6 channels"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_gradgradcheck():
    x, w = X[:, :, :5].clone().requires_grad_(), W[:2].clone().requires_grad_()
    torch.autograd.gradgradcheck(lambda x, w: conv1d(x, w, stride=2, padding=1, groups=2), (x, w))

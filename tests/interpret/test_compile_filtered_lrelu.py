"""The Triton kernel of filtered_lrelu compiles for every supported GPU, without a GPU, as it would be launched."""

import pytest
import torch
from kernel_compiler import (
    ARCHITECTURES,
    compile_all,
    divisions_of_64_bits,
    products,
    shared_bytes,
    spilled_bytes,
    wide_copies,
    wide_loads,
)

from fastgan.ops.filtered_lrelu import triton

pytest.importorskip("triton")

TARGETS = [pytest.param(arch, marks=[] if arch == 90 else pytest.mark.full) for arch in ARCHITECTURES]
ELEMENTS = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}
SIZES = ("groups", "channels", "height", "width", "high_height", "high_width", "out_height", "out_width")
STARTS = ("start_h", "start_w", "skip_h", "skip_w")
LEAST_SHARED = 227 * 1024  # of sm_90 and sm_100


def jobs(monkeypatch, arch, dtype, layout, taps=(12, 12), up=2, down=2):
    """Forward with masks, and the derivative, for images of StyleGAN3."""
    found = []

    def record(kernel, grid):
        return lambda *args, **named: found.append(named)

    monkeypatch.setattr(triton, "launch", record)
    x = torch.zeros(2, 64, 64, 64, dtype=dtype).contiguous(memory_format=layout)
    first, second = torch.ones(taps[0]), torch.ones(taps[1])
    pads = [taps[0] - 1] * 4
    triton.FORWARD.run(x, torch.ones(64), first, second, [up] * 2, [down] * 2, pads, 1.4, 0.2, 256.0, True)
    masks = torch.zeros(2, 64, 128, 32, dtype=torch.uint8)
    triton.LINEAR.run(x, masks, first, second, [up] * 2, [down] * 2, pads, [1] * 4, True, 1.4, 0.2)
    types = {**dict.fromkeys((*SIZES, *STARTS), "i32"), "masks": "*u8"}
    types |= dict.fromkeys(("bias", "first", "second"), "*fp32")
    options = [{"num_warps": one.pop("num_warps"), "enable_fp_fusion": one.pop("enable_fp_fusion")} for one in found]
    return [
        {"module": "filtered_lrelu.triton_kernels", "kernel": "filtered_lrelu_kernel", "arch": arch,
         "element": ELEMENTS[dtype], "constants": one, "types": types,
         "aligned": ["x", "y", "masks", "first", "second", "bias", "channels", "width"], "options": opts}
        for one, opts in zip(found, options, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("arch", TARGETS)
def test_tensor_cores_multiply_and_nothing_spills(monkeypatch, arch):
    """In half precision, and in float32 where PyTorch's settings allow TF32; both layouts, all kinds of layers."""
    monkeypatch.setattr(triton, "products", lambda dtype: "tf32x3" if dtype == torch.float32 else "tf32")
    kinds = [((12, 12), 2, 2), ((24, 12), 4, 2), ((12, 24), 2, 4)]
    found = [
        job
        for dtype in (torch.float16, torch.bfloat16, torch.float32)
        for layout in (torch.contiguous_format, torch.channels_last)
        for kind in (kinds if arch != 90 else kinds[:1])
        for job in jobs(monkeypatch, arch, dtype, layout, *kind)
    ]
    for one, answer in zip(found, compile_all(found), strict=True):
        about = one["element"], one["constants"]
        assert f".target {ARCHITECTURES[arch]}" in answer["ptx"]
        assert products(answer) is not None, about
        # Three products of TF32 in place of one take more registers than there are.
        assert spilled_bytes(answer) <= (512 if one["element"] == "fp32" else 0), (about, answer["usage"])
        assert shared_bytes(answer) <= LEAST_SHARED // (1 if arch >= 90 else 2), about
        assert not divisions_of_64_bits(answer), about
        size = 4 if one["element"] == "fp32" else 2
        if one["constants"]["CHANNELS_LAST"] and one["constants"]["BLOCK_C"] * size >= 16:
            assert wide_loads(answer) + wide_copies(answer) > 0, about


@pytest.mark.full
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_exact_float32_compiles(monkeypatch, arch):
    monkeypatch.setattr(triton, "products", lambda dtype: "ieee")
    found = jobs(monkeypatch, arch, torch.float32, torch.contiguous_format)
    for answer in compile_all(found):
        assert ".entry filtered_lrelu_kernel" in answer["ptx"]
        assert spilled_bytes(answer) <= 512, answer["usage"]
        assert shared_bytes(answer) <= LEAST_SHARED // (1 if arch >= 90 else 2)

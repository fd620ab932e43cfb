"""What the compiler makes of the Triton convolutions for every supported GPU, without a GPU: tensor cores, asynchronous
wide copies, shared memory within the limit, and no registers in memory. By default for sm_90, in the full run for all.
"""

import pytest
import torch
from kernel_compiler import (
    ARCHITECTURES,
    compile_all,
    divisions_in_loops,
    divisions_of_64_bits,
    products,
    shared_bytes,
    spilled_bytes,
    wide_copies,
    wide_stores,
)

from fastgan.ops.bias_act import triton as epilogue
from fastgan.ops.conv.triton_configs import CONFIGS, Config, Gpu, configs, shared_memory, wgrad_configs
from fastgan.ops.conv.triton_launch import constants, finish_tile

pytest.importorskip("triton")

FORWARD, BACKWARD, WGRAD = "conv_fwd_kernel", "conv_bwd_kernel", "conv_wgrad_kernel"
TARGETS = [pytest.param(arch, marks=[] if arch == 90 else pytest.mark.full) for arch in ARCHITECTURES]
TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
#: The instructions for tiles of 64 rows and more.
LARGE_PRODUCTS = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
POINTERS = ("x", "weight", "bias", "saved", "y", "dy", "dx", "dw", "partial", "workspace", "padded")
COUNTS = ("rows", "height", "width", "channels", "out_height", "out_width", "outputs", "images", "pixels",
          "step_image", "step_p", "step_q")  # fmt: skip


def conv_job(kernel, arch, element, config, few=0, what="act"):
    """A 4×4 convolution with stride 2 of sizes that are multiples of 16, as in the discriminator of DCGAN.

    few: the channels of a pixel that are summed over, if they share an index with the taps. what: "act", "slope" or
    "plain", the epilogue.
    """
    double = element == "fp64"
    taps = 4 if kernel == BACKWARD else 16
    made = constants(
        torch.empty(0, dtype=TORCH[element]), (4, 4), few, few * taps or 1024, [2, 2], [1, 1], [1, 1], config
    )
    options = {name: made.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    made |= epilogue.act_constants("leaky_relu", 0.2, 1.5, 0.7)
    made |= {"HAS_BIAS": what == "act", "HAS_ACT": what == "act", "HAS_SLOPE": what == "slope", "WIDEN": False}
    made |= {"BIAS_GRAD": what == "slope" and config.splits == 1, "PACKED": made["PRECISION"] == "tf32"}
    made |= {"STEP_R": 2, "STEP_S": 2, "MOVE_H": -1, "MOVE_W": -1}
    wide = "*fp64" if double else "*fp32"
    types = {**dict.fromkeys(COUNTS, "i32"), "partial": wide, "workspace": wide}
    if config.splits > 1:
        types[{FORWARD: "y", BACKWARD: "dx", WGRAD: "dw"}[kernel]] = wide
    summed = "outputs" if kernel == BACKWARD else "channels"
    aligned = [*POINTERS, *({"outputs", "channels"} - ({summed} if few else set()))]
    module = "conv.triton_wgrad_kernels" if kernel == WGRAD else "conv.triton_kernels"
    return {"module": module, "kernel": kernel, "arch": arch, "element": element, "constants": made, "types": types,
            "aligned": aligned, "options": options}  # fmt: skip


def finish_jobs(arch):
    """The kernels that surround the products."""
    plain = conv_job(FORWARD, arch, "bf16", CONFIGS[-1])
    plain["types"]["y"] = "*bf16"
    rows, width = finish_tile(512)
    finish = {**plain["constants"], "SPLITS": 4, "BIAS_GRAD": True, "HAS_SLOPE": True}
    finish |= {"BLOCK_M": rows, "BLOCK_N": width}
    common = {**plain, "module": "conv.triton_epilogue_kernels", "options": {}}
    return [
        {**common, "kernel": "conv_finish_kernel", "constants": finish},
        {**common, "kernel": "pad_channels_kernel", "constants": {"PADDED": 4, "BLOCK": 256}},
    ]


def candidates(arch, dtype, kernel, few=False, slope=False):
    """The configs that are candidates for some layer of a discriminator on a GPU of that architecture."""
    device = Gpu(132, shared_memory((arch // 10, arch % 10)))
    found: dict[Config, None] = {}
    for rows, outputs in ((65536, 64), (16384, 128), (4096, 256), (1024, 512), (64, 1)):
        if kernel == WGRAD:
            sized = wgrad_configs(rows, outputs, 3 if few else outputs // 2 or 512, 16, dtype, device, tf32=True)
        else:
            widest = 256 if kernel == FORWARD and not slope else 128
            depth = 48 if few else 8 * outputs
            sized = configs(rows, outputs, depth, dtype, device, tf32=True, few=few, pad=few, widest=widest)
        found |= dict.fromkeys(c._replace(splits=min(c.splits, 2)) for c in sized)
    return list(found)


def check(jobs, dtype, arch):
    for one, answer in zip(jobs, compile_all(jobs), strict=True):
        about = one["kernel"], one["options"], {n: one["constants"][n] for n in ("FEW", "SPLITS", "BLOCK_M", "BLOCK_N")}
        assert f".target {ARCHITECTURES[arch]}" in answer["ptx"]
        assert products(answer) is not None, about
        if one["constants"]["BLOCK_M"] >= 64 and (arch == 90 or dtype == torch.bfloat16):
            assert products(answer) == LARGE_PRODUCTS[arch], about
        assert shared_bytes(answer) <= shared_memory((arch // 10, arch % 10)), about
        # A few words may be on the stack; a tile that does not fit into registers takes hundreds of bytes.
        assert spilled_bytes(answer) <= 64, (about, answer["usage"])
        assert not divisions_of_64_bits(answer), about
        if not one["constants"]["FEW"]:
            assert not divisions_in_loops(answer), about
            assert wide_stores(answer) > 0, about
        if not one["constants"]["FEW"] and (dtype != torch.float32 or one["kernel"] != WGRAD):
            assert wide_copies(answer) > 0, about
            # Of both operands: nothing else is copied in pieces.
            assert answer["ptx"].count("cp.async.ca") == 0, about


@pytest.mark.parametrize("kernel", [FORWARD, BACKWARD, WGRAD])
@pytest.mark.parametrize("arch", TARGETS)
def test_half_precision_uses_tensor_cores_without_spilling(arch, kernel):
    epilogue_of = {FORWARD: "act", BACKWARD: "slope", WGRAD: "plain"}[kernel]
    jobs = [conv_job(kernel, arch, "bf16", c, 0, epilogue_of) for c in candidates(arch, torch.bfloat16, kernel)]
    check(jobs, torch.bfloat16, arch)


@pytest.mark.parametrize("arch", TARGETS)
def test_few_channels_are_copied_asynchronously_once_they_are_padded(arch):
    jobs = [
        conv_job(kernel, arch, "bf16", c, 4 if c.pad else 3, "act" if kernel == FORWARD else "plain")
        for kernel in (FORWARD, WGRAD)
        for c in candidates(arch, torch.bfloat16, kernel, few=True)
        if kernel == FORWARD or c.pad
    ]
    check(jobs, torch.bfloat16, arch)
    padded = [one for one in jobs if one["constants"]["FEW"] == 4 and one["kernel"] == FORWARD]
    for answer in compile_all(padded):
        assert "cp.async.ca" in answer["ptx"]
        assert ", 0x8," in answer["ptx"]


@pytest.mark.parametrize("arch", TARGETS)
def test_weight_gradients_of_few_channels_compile_tap_by_tap(arch):
    found = [c for c in candidates(arch, torch.bfloat16, WGRAD, few=True) if not c.pad]
    jobs = [conv_job(WGRAD, arch, "bf16", c, 0, "plain") for c in found]
    for one in jobs:
        one["aligned"].remove("channels")
    for one, answer in zip(jobs, compile_all(jobs), strict=True):
        assert products(answer) is not None
        assert spilled_bytes(answer) <= 64, one["options"]
        assert not divisions_in_loops(answer)
        assert wide_copies(answer) > 0  # of dy


@pytest.mark.parametrize("arch", TARGETS)
def test_tangents_compile(arch):
    """With the slope in place of the activation."""
    found = candidates(arch, torch.bfloat16, FORWARD, slope=True)
    check([conv_job(FORWARD, arch, "bf16", c, 0, "slope") for c in found], torch.bfloat16, arch)


@pytest.mark.parametrize("arch", TARGETS)
def test_tf32_uses_tensor_cores(arch, monkeypatch):
    monkeypatch.setattr("fastgan.ops.conv.triton_launch.precision", lambda x: "tf32")
    jobs = [
        conv_job(kernel, arch, "fp32", c, 0, {FORWARD: "act", BACKWARD: "slope", WGRAD: "plain"}[kernel])
        for kernel in (FORWARD, BACKWARD, WGRAD)
        for c in candidates(arch, torch.float32, kernel)[:4]
    ]
    check(jobs, torch.float32, arch)


@pytest.mark.parametrize("arch", TARGETS)
def test_other_numbers_compile(arch, monkeypatch):
    monkeypatch.setattr("fastgan.ops.conv.triton_launch.precision", lambda x: "ieee")
    device = Gpu(132, shared_memory((arch // 10, arch % 10)))
    jobs = [
        conv_job(kernel, arch, element, configs(100_000, 64, 1024, TORCH[element], device)[0])
        for kernel in (FORWARD, BACKWARD, WGRAD)
        for element in ("fp16", "fp32", "fp64")
    ]
    for one, answer in zip(jobs, compile_all(jobs), strict=True):
        assert f".entry {one['kernel']}" in answer["ptx"]
        assert shared_bytes(answer) <= device.shared
        if one["element"] == "fp64":
            assert not answer["single"], one["kernel"]


@pytest.mark.parametrize("arch", TARGETS)
def test_what_surrounds_the_products_compiles(arch):
    jobs = finish_jobs(arch)
    for one, answer in zip(jobs, compile_all(jobs), strict=True):
        assert f".entry {one['kernel']}" in answer["ptx"]
        assert spilled_bytes(answer) == 0
        assert not divisions_of_64_bits(answer)

"""What the compiler makes of upfirdn2d and of the passes around a modulated convolution for every supported GPU,
without a GPU: 16 bytes at a time, no tile in memory. By default for sm_90, in the full run for all."""

import re

import pytest
from kernel_compiler import ARCHITECTURES, compile_all, divisions_of_64_bits, spilled_bytes, wide_loads, wide_stores

from fastgan.ops.bias_act.triton import act_constants
from fastgan.ops.channel_scale import triton as channel_scale
from fastgan.ops.upfirdn2d import triton as upfirdn2d

pytest.importorskip("triton")
TARGETS = [pytest.param(arch, marks=[] if arch == 90 else pytest.mark.full) for arch in ARCHITECTURES]
#: Bytes of registers that may be in memory: 8 or 16 for sm_100, where a tile that does not fit takes hundreds.
FEW_WORDS = 64
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}


def resampling(arch, element, up, down, taps, fast, *, separable=True, channels=64, width=256):
    """The job of an upfirdn2d of [N, channels, width, width]."""
    block_x, block_c = upfirdn2d.tile(width // up, channels, fast, BYTES[element], taps, separable)
    rows = upfirdn2d.rows(width, (taps, taps), (up, up), (down, down), separable)
    constants = {
        "GAIN": 4.0, "UP_Y": up, "UP_X": up, "DOWN_Y": down, "DOWN_X": down, "SHIFT_Y": up - 1, "SHIFT_X": 0,
        "TAPS_Y": taps, "TAPS_X": taps, "SEPARABLE": separable, "HAS_FILTER": True, "FLIP": False,
        "CHANNEL_IS_FAST": fast, "DOUBLE": element == "fp64", "ROWS": rows, "BLOCK_X": block_x, "BLOCK_C": block_c,
    }  # fmt: skip
    counts = ("height", "width", "out_height", "out_width", "channels", "start_y", "start_x")
    types = {**dict.fromkeys(counts, "i32"), "filter": "*fp64" if element == "fp64" else "*fp32"}
    aligned = ["x", "y", *(["channels"] if fast else ["height", "width", "out_height", "out_width"])]
    return {"module": "upfirdn2d.triton_kernels", "kernel": "upfirdn2d_kernel", "arch": arch, "element": element,
            "constants": constants, "types": types, "aligned": aligned, "options": {}}  # fmt: skip


def about(job):
    names = ("UP_Y", "DOWN_Y", "TAPS_Y", "CHANNEL_IS_FAST", "SEPARABLE")
    return job["element"], *(job["constants"][name] for name in names if name in job["constants"])


# up, down, taps
STYLEGAN = [(1, 1, 4), (2, 1, 4), (1, 2, 4)]


@pytest.mark.parametrize("arch", TARGETS)
def test_upfirdn2d_takes_16_bytes_of_channels_at_a_time(arch):
    jobs = [
        resampling(arch, element, *options, True, separable=separable)
        for element, separable in (("bf16", True), ("bf16", False), ("fp32", True))
        for options in STYLEGAN
    ]
    for job, answer in zip(jobs, compile_all(jobs), strict=True):
        assert f".target {ARCHITECTURES[arch]}" in answer["ptx"]
        up, down, taps = (job["constants"][name] for name in ("UP_X", "DOWN_X", "TAPS_X"))
        rows = job["constants"]["ROWS"]
        # Each input of each line once, as often as the columns of the filter reach it; the taps themselves besides.
        lines = ((rows - 1) * down - (up - 1) + taps - 1) // up + 1
        inputs = lines * (((up - 1) * down + taps - 1) // up + 1)
        assert wide_loads(answer) == inputs, about(job)
        assert answer["ptx"].count("ld.global") == inputs + taps ** (1 if job["constants"]["SEPARABLE"] else 2), about(
            job
        )
        assert wide_stores(answer) == answer["ptx"].count("st.global") == rows * up, about(job)
        assert spilled_bytes(answer) <= FEW_WORDS, about(job)
        assert not divisions_of_64_bits(answer), about(job)


@pytest.mark.parametrize("arch", TARGETS)
def test_upfirdn2d_of_other_filters_and_layouts_compiles(arch):
    jobs = [resampling(arch, "bf16", *options, False) for options in STYLEGAN]
    if arch != 90:  # they take long to compile
        jobs += [resampling(arch, "bf16", 2, 1, 12, True), resampling(arch, "bf16", 1, 2, 12, True)]
    jobs += [resampling(arch, "fp32", 1, 1, 4, False, separable=False)]
    jobs += [resampling(arch, "fp16", 3, 2, 6, False), resampling(arch, "fp64", 2, 1, 4, False)]
    jobs += [resampling(arch, "bf16", 2, 1, 4, True, channels=3)]
    for job, answer in zip(jobs, compile_all(jobs), strict=True):
        assert spilled_bytes(answer) <= FEW_WORDS, about(job)
        assert not divisions_of_64_bits(answer), about(job)
        assert answer["shared"] == 0 or job["constants"]["UP_X"] > 2, about(job)
        if job["element"] == "fp64":
            assert not answer["single"]
        if job["constants"]["UP_X"] == 2 and not job["constants"]["CHANNEL_IS_FAST"]:
            # Both phases of a pixel in one store.
            assert len(re.findall(r"st\.global", answer["ptx"])) == job["constants"]["ROWS"], about(job)


def scaling(kernel, arch, element, fast, channels=64, pixels=4096):
    """The job of a kernel of channel_scale of [N, channels, pixels], with all that it can do."""
    block_p, block_c = channel_scale.tile(channels, pixels, fast)
    constants = {
        **act_constants("leaky_relu", 0.2, 1.4, 256.0), "HAS_NOISE": True, "ONE_NOISE": False, "HAS_BIAS": True,
        "SCALE_GRAD": True, "NOISE_GRAD": True, "BIAS_GRAD": True, "CHANNEL_IS_FAST": fast,
        "DOUBLE": element == "fp64", "BLOCK_P": block_p, "BLOCK_C": block_c,
    }  # fmt: skip
    wide = dict.fromkeys(("scale", "noise", "bias", "partial", "dots", "sums", "dnoise"), "*fp32")
    wide = {name: "*fp64" if element == "fp64" else value for name, value in wide.items()}
    types = {**wide, **dict.fromkeys(("channels", "pixels", "chunk", "chunks"), "i32")}
    aligned = [*wide, "x", "y", "a", "b", "dy", "saved", "dx", "channels", "pixels", "chunk"]
    return {"module": "channel_scale.triton_kernels", "kernel": kernel, "arch": arch, "element": element,
            "constants": constants, "types": types, "aligned": aligned, "options": {}}  # fmt: skip


# Tensors that a kernel reads, and writes.
SCALING = {"scaled_fwd_kernel": (1, 1), "channel_dot_kernel": (2, 0), "scaled_bwd_kernel": (3, 1)}


@pytest.mark.parametrize("arch", TARGETS)
def test_passes_around_a_modulated_convolution_take_16_bytes_at_a_time(arch):
    jobs = [
        scaling(kernel, arch, element, fast)
        for kernel in SCALING
        for element in ("bf16", "fp32")
        for fast in (True, False)
    ]
    for job, answer in zip(jobs, compile_all(jobs), strict=True):
        read, written = SCALING[job["kernel"]]
        each = job["constants"]["BLOCK_P"] * job["constants"]["BLOCK_C"] // 128 * BYTES[job["element"]] // 16
        assert wide_loads(answer) >= read * each, (job["kernel"], about(job))
        assert wide_stores(answer) >= written * each, (job["kernel"], about(job))
        assert spilled_bytes(answer) <= FEW_WORDS, (job["kernel"], about(job))
        assert not divisions_of_64_bits(answer), job["kernel"]


def test_double_scales_in_double():
    jobs = [scaling(kernel, 90, "fp64", fast) for kernel in SCALING for fast in (True, False)]
    for job, answer in zip(jobs, compile_all(jobs), strict=True):
        assert not answer["single"], job["kernel"]


def normalizing(kernel, arch, element, fast, channels=64, pixels=4096):
    """The job of a kernel of instance_norm_act of [N, channels, pixels]."""
    block_p, block_c = channel_scale.tile(channels, pixels, fast)
    constants = {
        "ALPHA": 0.2, "EPSILON": 1e-5, "CHANNEL_IS_FAST": fast, "DOUBLE": element == "fp64", "BLOCK_P": block_p,
        "BLOCK_C": block_c, "BLOCK_K": 64,
    }  # fmt: skip
    if kernel == "join_statistics_kernel":
        constants["BLOCK_C"] = 16
    wide = dict.fromkeys(("mean", "scale", "means", "squares", "sums", "dots"), "*fp32")
    wide = {name: "*fp64" if element == "fp64" else value for name, value in wide.items()}
    types = {**wide, **dict.fromkeys(("channels", "pixels", "chunk", "chunks"), "i32")}
    aligned = [*wide, "x", "y", "dy", "dx", "channels", "pixels", "chunk"]
    return {"module": "instance_norm.triton_kernels", "kernel": kernel, "arch": arch, "element": element,
            "constants": constants, "types": types, "aligned": aligned, "options": {}}  # fmt: skip


NORMALIZING = {
    "part_statistics_kernel": (2, 0), "normalized_fwd_kernel": (1, 1), "part_grad_sums_kernel": (2, 0),
    "normalized_bwd_kernel": (2, 1),
}  # fmt: skip


@pytest.mark.parametrize("arch", TARGETS)
def test_instance_norm_takes_16_bytes_at_a_time(arch):
    jobs = [normalizing(kernel, arch, "bf16", fast) for kernel in NORMALIZING for fast in (True, False)]
    for job, answer in zip(jobs, compile_all(jobs), strict=True):
        reads, writes = NORMALIZING[job["kernel"]]
        each = job["constants"]["BLOCK_P"] * job["constants"]["BLOCK_C"] // 128 * BYTES["bf16"] // 16
        assert wide_loads(answer) >= reads * each, (job["kernel"], about(job))
        assert wide_stores(answer) >= writes * each, (job["kernel"], about(job))
        assert spilled_bytes(answer) <= FEW_WORDS, about(job)
        assert not divisions_of_64_bits(answer), about(job)
    others = [normalizing(kernel, arch, "fp64", True) for kernel in (*NORMALIZING, "join_statistics_kernel")]
    others.append(normalizing("join_statistics_kernel", arch, "bf16", True))
    for job, answer in zip(others, compile_all(others), strict=True):
        assert spilled_bytes(answer) <= FEW_WORDS, about(job)
        if job["element"] == "fp64":
            assert not answer["single"], about(job)

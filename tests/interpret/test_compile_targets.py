"""Every Triton kernel compiles for every supported GPU, without a GPU: by default for sm_90, in the full run for all.

Convolutions: test_compile_convolutions.py.
"""

import itertools

import pytest
from kernel_compiler import ARCHITECTURES, compile_all, divisions_of_64_bits, spilled_bytes, wide_loads, wide_stores

pytest.importorskip("triton")

TARGETS = [pytest.param(arch, marks=[] if arch == 90 else pytest.mark.full) for arch in ARCHITECTURES]
SIZES = {"rows": "i32", "outer": "i32", "inner": "i32", "channels": "i32"}
ELEMENTWISE = ["bias_act_fwd_kernel", "bias_act_bwd_kernel", "bias_act_bwd_bwd_kernel"]
LEAKY_RELU, TANH, SILU, SOFTPLUS = 2, 3, 5, 6


def job(kernel, arch, element, act=LEAKY_RELU, fast=True):
    constants = {
        "HAS_BIAS": True,
        "BIAS_GRAD": True,
        "REPEATS": 8,
        "ACT": act,
        "ALPHA": 0.2,
        "GAIN": 1.4142135623730951,
        "INVERSE_GAIN": 0.7071067811865475,
        "HAS_CLAMP": True,
        "CLAMP": 0.7,
        "CHANNEL_IS_FAST": fast,
        "DOUBLE": element == "fp64",
        "BLOCK_O": 16 if fast else 4,
        "BLOCK_I": 128 if fast else 512,
    }
    wide = "*fp64" if element == "fp64" else "*fp32"
    types = {**SIZES, "partial": wide}
    if kernel == "sum_rows_kernel":
        constants = {"BLOCK_K": 64, "BLOCK_C": 16}
        types["result"] = wide
    aligned = ["x", "y", "dy", "ddx", "dx", "ddy", "saved", "dsaved", "inner"]
    return {"module": "bias_act.triton_kernels", "kernel": kernel, "arch": arch, "element": element,
            "constants": constants, "types": types, "aligned": aligned, "options": {}}  # fmt: skip


SPECTRAL = [
    "spectral_product_kernel",
    "spectral_finish_kernel",
    "spectral_sigma_kernel",
    "spectral_scale_kernel",
    "spectral_inner_kernel",
    "spectral_grad_kernel",
]


def spectral_jobs(arch, element, layers=16):
    constants = {
        "LAYERS": layers,
        "CHUNK": 2048,
        "BLOCK_R": 16,
        "BLOCK_C": 128,
        "BLOCK_P": 8,
        "REPEATS": 8,
        "BLOCK": 1024,
        "EPS": 1e-12,
    }
    variants = itertools.product(SPECTRAL, (True, False), (True, False))
    return [
        {
            "module": "spectral_norm.triton_kernels",
            "kernel": kernel,
            "arch": arch,
            "element": element,
            "constants": {**constants, "TO_U": first, "FROM_SUMS": second, "U_FIRST": first, "LAST": second},
            "types": {"table": "*i64", "layers": "i32"},
            "aligned": [],
            "options": {},
        }
        for kernel, first, second in variants
        if kernel in SPECTRAL[:2] or (first and second)  # the other kernels do not have these options
    ]


@pytest.mark.parametrize("element", ["fp32", "fp64"])
def test_spectral_kernels_load_16_bytes_at_a_time(element):
    """In the branches for weights whose rows are multiples of 16 bytes."""
    jobs = spectral_jobs(90, element)
    each = 16 * 128 // 128 * (4 if element == "fp32" else 8) // 16  # of 16 × 128 elements by 128 threads
    expected = {
        "spectral_product_kernel": (2 * each, 0),  # M x and Mᵀ x
        "spectral_scale_kernel": (each, each),
        "spectral_inner_kernel": (2 * each, 0),  # W and dY
        "spectral_grad_kernel": (each, each),
    }
    for one, answer in zip(jobs, compile_all(jobs), strict=True):
        loads, stores = expected.get(one["kernel"], (0, 0))
        assert wide_loads(answer) >= loads, one
        assert wide_stores(answer) >= stores, one


PENALTY = [
    "sample_dot_kernel",
    "dot_finish_kernel",
    "penalty_kernel",
    "penalty_finish_kernel",
    "sample_scale_kernel",
]


def penalty_jobs(arch, element):
    wide = "*fp64" if element == "fp64" else "*fp32"
    constants = {"DOUBLE": element == "fp64", "BLOCK": 1024, "HAS_TARGET": True, "TARGET": 1.0}
    types = {**dict.fromkeys(("partial", "dot", "value", "slope", "norm", "c"), wide), "size": "i32"}
    types |= {"chunk": "i32", "chunks": "i32"}
    return [
        {
            "module": "norm_penalty.triton_kernels",
            "kernel": kernel,
            "arch": arch,
            "element": element,
            "constants": constants,
            "types": types,
            "aligned": [],
            "options": {},
        }
        for kernel in PENALTY
    ]


@pytest.mark.parametrize("arch", TARGETS)
def test_kernels_compile(arch):
    jobs = [
        job(kernel, arch, element, act, fast)
        for kernel in ELEMENTWISE
        for element, act, fast in [
            ("bf16", LEAKY_RELU, True),
            ("fp32", LEAKY_RELU, False),
            ("fp32", SOFTPLUS, True),
            ("bf16", TANH, False),
            ("fp64", SILU, True),
        ]
    ]
    jobs += [job("sum_rows_kernel", arch, element) for element in ("fp32", "fp64")]
    jobs += [*spectral_jobs(arch, "fp32"), *spectral_jobs(arch, "fp64"), *spectral_jobs(arch, "fp32", layers=1)]
    jobs += [*penalty_jobs(arch, "fp32"), *penalty_jobs(arch, "bf16"), *penalty_jobs(arch, "fp64")]
    for one, answer in zip(jobs, compile_all(jobs), strict=True):
        assert f".entry {one['kernel']}" in answer["ptx"]
        assert answer["cubin"] > 1000
        assert f".target {ARCHITECTURES[arch]}" in answer["ptx"]


@pytest.mark.parametrize("arch", TARGETS)
def test_elementwise_kernels_load_16_bytes_at_a_time_and_divide_in_32_bits(arch):
    """In both layouts, where sizes are multiples of 16. Registers do not go to memory."""
    jobs = [
        job(kernel, arch, element, LEAKY_RELU, fast)
        for kernel in ELEMENTWISE
        for element in ("bf16", "fp32")
        for fast in (True, False)
    ]
    for one, answer in zip(jobs, compile_all(jobs), strict=True):
        about = one["kernel"], one["element"], one["constants"]["CHANNEL_IS_FAST"]
        assert not divisions_of_64_bits(answer), about
        assert wide_loads(answer) >= {"bias_act_fwd_kernel": 1, "bias_act_bwd_kernel": 2}.get(one["kernel"], 3), about
        assert spilled_bytes(answer) == 0, about
    penalties = [one for element in ("bf16", "fp32") for one in penalty_jobs(arch, element)]
    for one, answer in zip(penalties, compile_all(penalties), strict=True):
        assert not divisions_of_64_bits(answer), one["kernel"]
        assert spilled_bytes(answer) == 0, one["kernel"]


def test_double_computes_in_double():
    """A constant in a kernel is float32 unless it is converted. Kernels for double must contain no float32."""
    jobs = [job(kernel, 90, "fp64", act) for kernel in ELEMENTWISE for act in range(7)]
    jobs += [job("sum_rows_kernel", 90, "fp64"), *spectral_jobs(90, "fp64"), *penalty_jobs(90, "fp64")]
    for one, answer in zip(jobs, compile_all(jobs), strict=True):
        assert not answer["single"], (one["kernel"], one["constants"].get("ACT"))

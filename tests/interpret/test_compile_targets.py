"""Every Triton kernel compiles for every supported GPU, without a GPU: by default for sm_90, in the full run for all.

In a process of its own, because TRITON_INTERPRET, if set, replaces the compiler. Triton's cache of compiled kernels,
which is keyed by their content, is kept between runs.
"""

import itertools
import json
import os
import re
import subprocess
import sys

import pytest
import torch

from fastgan.ops.bias_act import triton as epilogue
from fastgan.ops.conv import triton as conv

pytest.importorskip("triton")

CHILD = """
import importlib, json, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

for job in map(json.loads, sys.stdin):
    module = importlib.import_module(f"fastgan.ops.{job['module']}.triton_kernels")
    kernel = getattr(module, job["kernel"])
    constants = {name: job["constants"][name] for name in kernel.arg_names if name in job["constants"]}
    signature = {
        name: "constexpr" if name in constants else job["types"].get(name, "*" + job["element"])
        for name in kernel.arg_names
    }
    # As the launcher finds them if the channels are multiples of 16: alignment makes loads wide.
    aligned = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in job["aligned"]}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", job["arch"], 32), options=job["options"])
    ptx = compiled.asm["ptx"]
    answer = {"cubin": len(compiled.asm["cubin"]), "entry": f".entry {job['kernel']}" in ptx}
    answer["shared"] = compiled.metadata.shared
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        answer["usage"] = subprocess.check_output([TOOL, "--dump-resource-usage", file.name], text=True)
    answer["products"] = any(name in ptx for name in ("mma.sync", "wgmma.mma_async", "tcgen05.mma"))
    answer["wide"] = {kind: ptx.count(f"{kind}.global.v4.b32") + ptx.count(f"{kind}.global.v2.b64")
                      for kind in ("ld", "st")}
    answer["asynchronous"] = "cp.async.c" in ptx and ", 0x10," in ptx
    answer["target"] = next(line for line in ptx.splitlines() if line.startswith(".target"))
    # Not in the PTX, where a float32 constant is already folded into a double, with its rounding.
    answer["single"] = [line.strip() for line in compiled.asm["ttir"].splitlines() if "f32" in line]
    print(json.dumps(answer), flush=True)
"""

ARCHITECTURES = {80: "sm_80", 90: "sm_90", 100: "sm_100"}
TARGETS = [pytest.param(arch, marks=[] if arch == 90 else pytest.mark.full) for arch in ARCHITECTURES]
SIZES = {"rows": "i32", "channels": "i32", "pixels": "i32"}
ARGUMENTS = {
    "conv_fwd_kernel": ("x", "weight", "bias", "y"),
    "conv_bwd_kernel": ("dy", "weight", "saved", "dx", "partial"),
}
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
        "BLOCK_K": 16 if fast else 2048,
        "BLOCK_C": 128 if fast else 1,
    }
    wide = "*fp64" if element == "fp64" else "*fp32"
    types = {**SIZES, "partial": wide}
    if kernel == "sum_rows_kernel":
        constants = {"BLOCK_K": 64, "BLOCK_C": 16}
        types["result"] = wide
    return {"module": "bias_act", "kernel": kernel, "arch": arch, "element": element, "constants": constants,
            "types": types, "aligned": [], "options": {}}  # fmt: skip


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
            "module": "spectral_norm",
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
        assert answer["wide"]["ld"] >= loads, one
        assert answer["wide"]["st"] >= stores, one


PENALTY = ["sample_dot_kernel", "dot_finish_kernel", "penalty_finish_kernel", "sample_scale_kernel"]


def penalty_jobs(arch, element):
    wide = "*fp64" if element == "fp64" else "*fp32"
    constants = {"REPEATS": 8, "DOUBLE": element == "fp64", "BLOCK": 1024, "HAS_TARGET": True, "TARGET": 1.0}
    types = {**dict.fromkeys(("partial", "dot", "value", "slope", "norm", "c"), wide), "size": "i32", "chunks": "i32"}
    return [
        {
            "module": "norm_penalty",
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


TORCH = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp64": torch.float64}
CONV_POINTERS = ("x", "weight", "bias", "y", "dy", "saved", "dx", "partial")
COUNTS = ("rows", "height", "width", "channels", "out_height", "out_width", "outputs")


def conv_job(kernel, arch, element, config, channels=64):
    """A 4×4 convolution with stride 2. channels: the ones that are summed over; there are 64 outputs."""
    x, weight = torch.empty(0, dtype=TORCH[element]), torch.empty(1, 1, 4, 4)
    taps = 16 if kernel == "conv_fwd_kernel" else 4
    constants = conv._constants(x, weight, channels, taps, [2, 2], [1, 1], [1, 1], config)
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages", "enable_fp_fusion")}
    constants |= epilogue.act_constants("leaky_relu", 0.2, 1.5, 0.7)
    constants |= {"HAS_BIAS": True, "HAS_ACT": True, "BIAS_GRAD": True, "WIDEN": False}  # x is not on a GPU here
    constants |= {"STEP_R": 2, "STEP_S": 2, "MOVE_H": -1, "MOVE_W": -1}
    types = {**dict.fromkeys(COUNTS, "i32"), "partial": "*fp64" if element == "fp64" else "*fp32"}
    aligned = [name for name in CONV_POINTERS if name in ARGUMENTS[kernel]]
    summed, made = ("channels", "outputs") if kernel == "conv_fwd_kernel" else ("outputs", "channels")
    aligned += [made, summed] if channels % 16 == 0 else [made]
    return {"module": "conv", "kernel": kernel, "arch": arch, "element": element, "constants": constants,
            "types": types, "aligned": aligned, "options": options}  # fmt: skip


def compile_all(jobs):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    text = "\n".join(json.dumps(j) for j in jobs)
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=text, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


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
    answers = compile_all(jobs)
    assert len(answers) == len(jobs)
    for answer in answers:
        assert answer["entry"]
        assert answer["cubin"] > 1000
        assert ARCHITECTURES[arch] in answer["target"]


def test_double_computes_in_double():
    """A constant in a kernel is float32 unless it is converted. Kernels for double must contain no float32."""
    jobs = [job(kernel, 90, "fp64", act) for kernel in ELEMENTWISE for act in range(7)]
    jobs += [job("sum_rows_kernel", 90, "fp64"), *spectral_jobs(90, "fp64"), *penalty_jobs(90, "fp64")]
    for one, answer in zip(jobs, compile_all(jobs), strict=True):
        assert not answer["single"], (one["kernel"], one["constants"].get("ACT"))


@pytest.mark.parametrize("arch", TARGETS)
def test_convolutions_compile(arch):
    """In half precision every config uses tensor cores, needs no local memory, and fits into 99 KB of shared memory."""
    halves = [
        conv_job(kernel, arch, "bf16", config, channels)
        for kernel in ARGUMENTS
        for config, channels in [*((c, 64) for c in conv.CONFIGS), (conv.CONFIGS[1], 3), (conv.CONFIGS[1], 40)]
    ]
    for one, answer in zip(halves, compile_all(halves), strict=True):
        about = one["kernel"], one["options"], one["constants"]["FEW"]
        assert ARCHITECTURES[arch] in answer["target"]
        assert answer["products"], about
        assert answer["shared"] <= 99 * 1024, about
        # A few words may be on the stack (24 bytes with Triton 3.7); a tile that does not fit into registers takes
        # hundreds of bytes.
        assert int(re.search(r"STACK:(\d+)", answer["usage"])[1]) <= 64, (about, answer["usage"])
        assert "LOCAL:0 " in answer["usage"], (about, answer["usage"])
        if {"channels", "outputs"} <= set(one["aligned"]):
            assert answer["asynchronous"], about


@pytest.mark.parametrize("arch", TARGETS)
def test_convolutions_compile_for_wide_numbers(arch):
    wide = [
        conv_job(kernel, arch, element, conv.configs(100_000, 64, TORCH[element])[0])
        for kernel in ARGUMENTS
        for element in ("fp16", "fp32", "fp64")
    ]
    for one, answer in zip(wide, compile_all(wide), strict=True):
        assert answer["entry"]
        assert answer["shared"] <= 99 * 1024
        if one["element"] == "fp64":
            assert not answer["single"]

"""Every Triton kernel compiles for every GPU that is served, though none is here: in a process of its own, since
TRITON_INTERPRET would make the kernels something else."""

import itertools
import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")

CHILD = """
import importlib, json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

for job in map(json.loads, sys.stdin):
    kernel = getattr(importlib.import_module(f"fastgan.ops.{job['op']}.triton_kernels"), job["kernel"])
    constants = {name: job["constants"][name] for name in kernel.arg_names if name in job["constants"]}
    signature = {
        name: "constexpr" if name in constants else job["types"].get(name, "*" + job["element"])
        for name in kernel.arg_names
    }
    compiled = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", job["arch"], 32))
    ptx = compiled.asm["ptx"]
    answer = {"cubin": len(compiled.asm["cubin"]), "entry": f".entry {job['kernel']}" in ptx}
    answer["target"] = next(line for line in ptx.splitlines() if line.startswith(".target"))
    # Not in the PTX: there a float32 constant has been folded into a double, with its rounding.
    answer["single"] = [line.strip() for line in compiled.asm["ttir"].splitlines() if "f32" in line]
    print(json.dumps(answer), flush=True)
"""

ARCHITECTURES = {80: "sm_80", 90: "sm_90", 100: "sm_100"}
SIZES = {"rows": "i32", "channels": "i32", "pixels": "i32"}
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
    return {
        "op": "bias_act",
        "kernel": kernel,
        "arch": arch,
        "element": element,
        "constants": constants,
        "types": types,
    }


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
            "op": "spectral_norm",
            "kernel": kernel,
            "arch": arch,
            "element": element,
            "constants": {**constants, "TO_U": first, "FROM_SUMS": second, "U_FIRST": first, "LAST": second},
            "types": {"table": "*i64", "layers": "i32"},
        }
        for kernel, first, second in variants
        if kernel in SPECTRAL[:2] or (first and second)  # the other kernels have no such choice
    ]


def compile_all(jobs, tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    text = "\n".join(json.dumps(j) for j in jobs)
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=text, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_kernels_compile(arch, tmp_path):
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
    answers = compile_all(jobs, tmp_path)
    assert len(answers) == len(jobs)
    for answer in answers:
        assert answer["entry"]
        assert answer["cubin"] > 1000
        assert ARCHITECTURES[arch] in answer["target"]


def test_double_computes_in_double(tmp_path):
    """A constant in a kernel is float32 unless something says otherwise; in double nothing may be."""
    jobs = [job(kernel, 90, "fp64", act) for kernel in ELEMENTWISE for act in range(7)]
    jobs += [job("sum_rows_kernel", 90, "fp64"), *spectral_jobs(90, "fp64")]
    for one, answer in zip(jobs, compile_all(jobs, tmp_path), strict=True):
        assert not answer["single"], (one["kernel"], one["constants"].get("ACT"))

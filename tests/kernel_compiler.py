"""Compiles Triton kernels for GPUs that need not be here, for tests of what the compiler makes of them.

In a process of its own, because TRITON_INTERPRET, if set, replaces the compiler, and another release of Triton may take
the place of the installed one. Triton's cache of compiled kernels, which is keyed by their content, is kept.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

CHILD = """
import importlib, json, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"

for job in map(json.loads, sys.stdin):
    module = importlib.import_module(f"fastgan.ops.{job['module']}")
    kernel = getattr(module, job["kernel"])
    constants = {name: job["constants"][name] for name in kernel.arg_names if name in job["constants"]}
    signature = {
        name: "constexpr" if name in constants else job["types"].get(name, "*" + job["element"])
        for name in kernel.arg_names
    }
    # As the launcher finds them if the sizes are multiples of 16: alignment makes loads wide.
    aligned = {
        (index,): [["tt.divisibility", 16]] for index, name in enumerate(kernel.arg_names) if name in job["aligned"]
    }
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", job["arch"], 32), options=job["options"])
    answer = {"release": triton.__version__, "cubin": len(compiled.asm["cubin"]), "ptx": compiled.asm["ptx"]}
    answer["shared"] = compiled.metadata.shared
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        answer["usage"] = subprocess.check_output([TOOL, "--dump-resource-usage", file.name], text=True)
    answer["ttir"] = compiled.asm["ttir"]
    # Not in the PTX, where a float32 constant is already folded into a double, with its rounding.
    answer["single"] = [line.strip() for line in compiled.asm["ttir"].splitlines() if "f32" in line]
    print(json.dumps(answer), flush=True)
"""

#: A folder with another release of Triton, which the compiling process then searches first.
PACKAGES = "KERNEL_COMPILER_PACKAGES"

ARCHITECTURES = {80: "sm_80", 90: "sm_90", 100: "sm_100"}


def compile_all(jobs):
    """What the compiler makes of each job."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    if packages := environment.get(PACKAGES):
        environment["PYTHONPATH"] = os.pathsep.join([packages, environment.get("PYTHONPATH", "")])
    text = "\n".join(json.dumps(job) for job in jobs)
    done = subprocess.run(
        [sys.executable, "-c", CHILD], input=text, env=environment, capture_output=True, text=True, timeout=550
    )
    assert done.returncode == 0, done.stderr[-4000:]
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(jobs)
    if packages:
        (found,) = Path(packages).glob("triton-*.dist-info")
        assert {answer["release"] for answer in answers} == {found.name.split("-")[1].removesuffix(".dist")}
    return answers


def products(answer):
    """The instruction of tensor cores that the kernel uses, or None."""
    return next((n for n in ("wgmma.mma_async", "tcgen05.mma", "mma.sync") if n in answer["ptx"]), None)


def wide_copies(answer):
    """How many 16-byte copies from global to shared memory the kernel has."""
    return len(re.findall(r"cp\.async\.cg\.shared\.global [^;]*, 0x10,", answer["ptx"]))


def wide_loads(answer):
    """How many 16-byte loads into registers the kernel has."""
    return len(re.findall(r"ld\.global(?:\.\w+)*\.(?:v4\.b32|v2\.b64|v8\.b16)", answer["ptx"]))


def wide_stores(answer):
    """How many 16-byte stores to global memory the kernel has."""
    return len(re.findall(r"st\.global(?:\.\w+)*\.(?:v4\.b32|v2\.b64)", answer["ptx"]))


def divisions_of_64_bits(answer):
    return re.findall(r"(?:div|rem)\.[su]64", answer["ptx"])


def divisions_in_loops(answer):
    """The divisions that the innermost loops of a kernel compute in each iteration."""
    bodies = re.findall(r"scf\.for [^\n]*\n((?:(?!scf\.for).)*?)scf\.yield", answer["ttir"], re.DOTALL)
    assert bodies, "the kernel has no loop"
    return re.findall(r"arith\.(?:div|rem|floordiv|ceildiv)\w+", "".join(bodies))


def spilled_bytes(answer):
    """Bytes of a thread's registers that are kept in memory."""
    stack, local = (int(re.search(rf"{name}:(\d+)", answer["usage"])[1]) for name in ("STACK", "LOCAL"))
    return stack + local


def shared_bytes(answer):
    """Dynamic shared memory of a program."""
    return answer["shared"]

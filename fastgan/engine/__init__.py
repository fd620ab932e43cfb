"""Whole training steps as graphs: capture, graph passes, CUDA graphs, benchmarks and profiles of a step."""

from fastgan.engine.benchmark import benchmark
from fastgan.engine.benchmark_result import Benchmark, Contestant
from fastgan.engine.compile import CompiledForward, CompiledStep, compile
from fastgan.engine.explain import Explanation, explain
from fastgan.engine.profile import Profile, ProfileRow, profile

__all__ = [
    "Benchmark",
    "CompiledForward",
    "CompiledStep",
    "Contestant",
    "Explanation",
    "Profile",
    "ProfileRow",
    "benchmark",
    "compile",
    "explain",
    "profile",
]

"""Whole training steps as graphs: capture, graph passes, CUDA graphs."""

from fastgan.engine.compile import CompiledStep, compile
from fastgan.engine.explain import Explanation, explain

__all__ = ["CompiledStep", "Explanation", "compile", "explain"]

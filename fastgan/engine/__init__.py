"""Whole training steps as graphs: capture, our passes, CUDA graphs."""

from fastgan.engine.compile import CompiledStep, compile

__all__ = ["CompiledStep", "compile"]

"""Shared by tests and benchmarks: op cases, tolerances, op recorder, timing. Needs only PyTorch."""

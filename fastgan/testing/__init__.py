"""What the tests and the benchmarks share: cases, tolerances by rule, recording, timing. Needs PyTorch alone."""

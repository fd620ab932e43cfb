"""int8 quantization of ONNX files: calibration, ranges, layer sensitivity, QDQ nodes.

Why not a library: benchmarks/quantizers.py compares it with `onnxruntime.quantization` and NNCF; see docs/export.md.
"""

"""int8 quantization: calibration ranges, layer sensitivity, QDQ nodes."""

"""Metrics of generated images. `evaluate.evaluate` computes them, `registry.METRICS` lists them, `extractors` has the
feature networks."""

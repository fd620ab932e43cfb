"""Judging generated images: evaluate.evaluate, the table of metrics in registry, the networks in extractors."""

"""Helpers that every package may use: files, environment, timing, measurements, packages.

Nothing here imports another package of fastgan.
"""

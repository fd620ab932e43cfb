"""Used by every package: files, environment, timing, measurements. Nothing here imports another package of fastgan."""

"""What every package may use: files, environment, timing, measurements. Nothing here imports another package of fastgan."""

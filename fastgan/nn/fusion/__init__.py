"""What makes a network of plain PyTorch run on our ops: fuse, and the plan that its report shows."""

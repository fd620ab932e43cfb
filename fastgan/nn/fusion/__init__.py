"""fuse: runs networks of plain PyTorch on fastgan's ops."""

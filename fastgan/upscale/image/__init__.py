"""Image files: read with all that is beside the pixels, enlarged through a network of any channels, written whole."""

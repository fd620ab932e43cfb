"""Image files: read with their metadata, upscaled by networks of any channels, written atomically."""

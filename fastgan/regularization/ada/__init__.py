"""The whole set of augmentations of adaptive discriminator augmentation: Karras et al. 2020 (arXiv:2006.06676)."""

"""Degrades a photograph in several ways, as super-resolution networks see it in training, and writes degraded.png.

    python examples/degrade.py PHOTO.jpg

The upper row: the middle of the photograph, twice as small by bicubic downscaling, and two first-order degradations.
The lower row: four second-order ones (Real-ESRGAN). All are shown at the size of the original.
"""

import sys

import numpy as np
import torch
from PIL import Image

from fastgan.degradation import Degradation, Random

SIDE, SCALE, GAP = 192, 2, 4  # pixels


def main() -> None:
    with Image.open(sys.argv[1]) as file:
        photo = np.asarray(file.convert("RGB"), dtype=np.float32) / 255
    top, left = (max(0, (length - SIDE) // 2) for length in photo.shape[:2])
    middle = photo[top : top + SIDE, left : left + SIDE]
    height, width = (length - length % SCALE for length in middle.shape[:2])
    images = torch.from_numpy(middle[:height, :width]).permute(2, 0, 1)[None]

    random = Random(seed=8, device=torch.device("cpu"))
    kinds = ["bicubic", *["first-order"] * 2, *["second-order"] * 4]
    # Each call draws what is the same for a whole batch anew: sizes, Gaussian or Poisson noise, and the order.
    low = [Degradation(SCALE, kind).apply(images, random) for kind in kinds]
    shown = [images, *(each.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3) for each in low)]

    framed = torch.nn.functional.pad(torch.cat(shown), (0, GAP, 0, GAP), value=1.0)
    sheet = framed.unflatten(0, (2, 4)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)[:-GAP, :-GAP]
    Image.fromarray((sheet * 255).round().byte().numpy()).save("degraded.png")
    print("degraded.png: original, bicubic, two first-order; four second-order")


if __name__ == "__main__":
    main()

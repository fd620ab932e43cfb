"""How cropping an image changes the output of super-resolution networks, by distance from the edge of the crop.

    python benchmarks/tiles.py --photos FOLDER [--out benchmarks/results/tiles.csv]

Each network runs on a crop of 192×96 pixels of every photograph, and on the left half of the crop, at whose right edge
it sees padding. From the difference, in levels of 255, follows the overlap of tiles (fastgan/upscale/tiles.py).
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastgan.models import esrgan
from fastgan.upscale import pretrained

NETWORKS = ("realesr-animevideov3-x4", "realesrgan-x4plus-anime", "realesrgan-x4plus")
HEIGHT, WIDTH = 96, 192
DISTANCES = (0, 4, 8, 12, 16, 18, 24, 32, 40, 48, 56, 64, 72, 80)


def differences(network: torch.nn.Module, photo: Path) -> list[tuple[int, float, float]]:
    """(distance, largest difference at this distance or more, root mean square at it) for DISTANCES."""
    with Image.open(photo) as image:
        left, top = (image.width - WIDTH) // 2, (image.height - HEIGHT) // 2
        pixels = np.array(image.convert("RGB").crop((left, top, left + WIDTH, top + HEIGHT)))
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    half = WIDTH // 2
    with torch.inference_mode():
        whole, part = network(x).clamp(0, 1), network(x[..., :half].contiguous()).clamp(0, 1)
    scale = network.scale
    distance = 255 * (whole[..., : half * scale] - part)[0].abs().numpy()
    # [3, H, distance from the cut in pixels of the input, scale]
    by_column = distance.reshape(3, -1, half, scale)[:, :, ::-1]
    return [(d, by_column[:, :, d:].max(), np.sqrt((by_column[:, :, d] ** 2).mean())) for d in DISTANCES]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, 192×96 or larger")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tiles.csv"))
    options = parser.parse_args()
    photos = sorted(path for path in options.photos.iterdir() if path.suffix.lower() in (".png", ".jpg"))
    rows = []
    for name in NETWORKS:
        network = esrgan.load(pretrained.fetch(name)).eval()
        for photo in photos:
            for distance, largest, root in differences(network, photo):
                rows.append([name, network.reach, photo.name, distance, f"{largest:.3f}", f"{root:.4f}"])
                print(*rows[-1], flush=True)
    with options.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["network", "reach", "photo", "distance", "largest_difference_in_levels", "rms_in_levels"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()

"""The kinds of files that fastgan reads: for each a small valid one, its mutations, and what opens it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import mutations
from array_kinds import (
    idx_fields,
    idx_seeds,
    images,
    npy,
    npy_header,
    npz_seeds,
    open_classes,
    tar_fields,
    tar_seeds,
    zip_json,
    zip_seeds,
)
from export_kinds import (
    onnx_fields,
    onnx_metadata,
    onnx_metadata_seeds,
    onnx_seeds,
    open_openvino,
    open_ort,
    open_pt2,
    pt2_fields,
    pt2_seeds,
)
from image_kinds import (
    jpeg_fields,
    jpeg_seeds,
    open_both,
    open_image,
    png_fields,
    png_seeds,
    tiff_fields,
    tiff_seeds,
    webp_fields,
    webp_seeds,
)
from pickle_kinds import open_networks, pickle_seeds, pickle_words
from run_kinds import JSON, TOML, YAML, open_config, open_run, run_seeds, run_tamper
from video_kinds import latin_title, open_video, video_seeds
from weight_kinds import (
    ncnn_seeds,
    open_ncnn,
    open_weights,
    pth_seeds,
    pth_tensors,
    safetensors_header,
    safetensors_seeds,
)

Mutate = Callable[[Random, bytes], bytes]


@dataclass
class Kind:
    """name: of the file. seeds: makes valid files. mutate: new bytes of one. open: what fastgan does with one.

    imports: modules that are imported once, before processes are forked.
    """

    name: str
    seeds: Callable[[Path], list[bytes]]
    mutate: Mutate
    open: Callable[[Path], object]
    imports: tuple[str, ...] = ()


def either(*ways: Mutate) -> Mutate:
    return lambda random, data: random.choice(ways)(random, data)


KINDS: dict[str, Kind] = {}


def _add(label: str, name: str, seeds, mutate: Mutate, open_: Callable[[Path], object], *imports: str) -> None:
    KINDS[label] = Kind(name, seeds, mutate, open_, imports)


_b = mutations.of_bytes
_add(
    "pth",
    "w.pth",
    pth_seeds,
    either(_b, mutations.of_zip, pth_tensors, pth_tensors),
    open_weights,
    "torch",
    "fastgan.models.esrgan",
)
_add(
    "safetensors",
    "w.safetensors",
    safetensors_seeds,
    either(_b, safetensors_header, safetensors_header),
    open_weights,
    "torch",
    "fastgan.models.esrgan",
)
_add(
    "nvidia-pickle",
    "network.pkl",
    pickle_seeds,
    either(_b, pickle_words, pickle_words),
    open_networks,
    "torch",
    "fastgan.models.checkpoints",
    "fastgan.models.r3gan",
)
_add("ncnn", "w.param", ncnn_seeds, _b, open_ncnn, "torch", "fastgan.models.esrgan")
_add(
    "npz",
    "d.npz",
    npz_seeds,
    either(_b, lambda r, d: mutations.of_zip(r, d, npy_header), mutations.of_zip),
    open_classes,
    "fastgan.data",
)
_add("npy", "d.npy", lambda _: [npy(images())], either(_b, npy_header), open_classes, "fastgan.data")
_add("idx", "images-idx3-ubyte", idx_seeds, either(_b, idx_fields), open_classes, "fastgan.data")
_add("zip", "d.zip", zip_seeds, either(_b, zip_json), open_classes, "fastgan.data", "PIL.PngImagePlugin")
_add(
    "tar",
    "d.tar",
    tar_seeds,
    either(_b, tar_fields, tar_fields),
    open_classes,
    "fastgan.data",
    "PIL.PngImagePlugin",
)
_add(
    "png",
    "x.png",
    png_seeds,
    either(_b, png_fields, png_fields),
    open_both,
    "fastgan.data",
    "fastgan.upscale.image.read",
)
_add("jpeg", "x.jpg", jpeg_seeds, either(_b, jpeg_fields), open_both, "fastgan.data", "fastgan.upscale.image.read")
_add("tiff", "x.tif", tiff_seeds, either(_b, tiff_fields, tiff_fields), open_image, "fastgan.upscale.image.read")
_add(
    "webp",
    "x.webp",
    webp_seeds,
    either(_b, webp_fields, webp_fields),
    open_both,
    "fastgan.data",
    "fastgan.upscale.image.read",
)
_add("video", "x.mp4", video_seeds, either(_b, _b, latin_title), open_video, "fastgan.upscale.video.decode")
_add("onnx", "m.onnx", onnx_seeds, either(_b, onnx_fields, onnx_fields), open_ort, "onnx")
_add("onnx-openvino", "m.onnx", onnx_seeds, either(_b, onnx_fields, onnx_fields), open_openvino, "onnx")
_add("onnx-metadata", "m.onnx", onnx_metadata_seeds, onnx_metadata, open_ort, "onnx")
_add("pt2", "m.pt2", pt2_seeds, either(_b, pt2_fields, pt2_fields), open_pt2, "torch")
_add("run", "run.zip", run_seeds, run_tamper, open_run, "torch", "fastgan.train.trainer", "fastgan.cli.train")
_add("toml", "c.toml", lambda _: [TOML], _b, open_config, "torch", "fastgan.cli.train")
_add("yaml", "c.yaml", lambda _: [YAML], _b, open_config, "torch", "fastgan.cli.train", "ruamel.yaml")
_add("json", "c.json", lambda _: [JSON], either(_b, mutations.of_json), open_config, "torch", "fastgan.cli.train")

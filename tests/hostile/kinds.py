"""The kinds of files that fastgan reads: for each a small valid one, its mutations, and what opens it."""

import gzip
import hashlib
import io
import json
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import mutations
import numpy as np

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


# --- images -----------------------------------------------------------------------------------------------------------


def _picture(mode: str, kind: str, **options) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def _png_seeds(_):
    return [_picture("RGB", "PNG"), _picture("P", "PNG"), _picture("LA", "PNG"), _picture("RGB", "PNG", dpi=(72, 72))]


def _jpeg_seeds(_):
    return [
        _picture("RGB", "JPEG"),
        _picture("L", "JPEG", progressive=True),
        _picture("RGB", "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    ]


def _tiff_seeds(_):
    return [
        _picture("RGB", "TIFF"),
        _picture("L", "TIFF", compression="tiff_lzw"),
        _picture("RGB", "TIFF", compression="tiff_deflate"),
        _picture("I;16", "TIFF"),
    ]


def _webp_seeds(_):
    return [_picture("RGB", "WEBP"), _picture("RGBA", "WEBP", lossless=True)]


def _png_fields(random: Random, data: bytes) -> bytes:
    """Bytes within a chunk, whose checksum is then right; or a header of another size."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += 12 + size
    chosen = random.choice(chunks)
    if chosen[0] == b"IHDR" and random.random() < 0.8:
        width, height = (random.choice((0, 1, 20, 20_000, 100_000, 2**31 - 1, 2**32 - 1)) for _ in range(2))
        chosen[1] = struct.pack(">II", width, height) + (
            chosen[1][8:]
            if random.random() < 0.5
            else bytes((random.choice((1, 8, 16)), random.randrange(7), 0, 0, random.randrange(2)))
        )
    else:
        chosen[1] = mutations.of_bytes(random, chosen[1])
    if random.random() < 0.1:
        chunks.insert(
            1, [random.choice((b"iCCP", b"zTXt", b"tEXt", b"eXIf", b"acTL", b"PLTE")), zlib.compress(bytes(1 << 24))]
        )
    return data[:8] + b"".join(
        struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks
    )


def _jpeg_fields(random: Random, data: bytes) -> bytes:
    """The frame header states another size or number of components."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
    size = struct.pack(">HH", *(random.choice((0, 1, 20_000, 65_535, 65_500)) for _ in range(2)))
    changed = data[: at + 5] + size + data[at + 9 :]
    return changed if random.random() < 0.7 else mutations.of_bytes(random, changed)


def _webp_fields(random: Random, data: bytes) -> bytes:
    """Another canvas: of VP8X, VP8L or VP8."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 4)):
        changed[random.randrange(12, 40)] = random.choice((0, 0xFF, 0x3F, random.randrange(256)))
    return bytes(changed)


def _tiff_fields(random: Random, data: bytes) -> bytes:
    """A value in the directory is another one."""
    start = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, start)[0]
    changed = bytearray(data)
    for _ in range(random.randint(1, 2)):
        at = start + 2 + 12 * random.randrange(entries)
        field = random.choice(((0, "<H"), (2, "<H"), (4, "<I"), (8, "<I"), (8, "<I")))
        value = random.choice((0, 1, 2, 3, 8, 16, 32, 317, 20_000, 65_535, 2**31 - 1, 2**32 - 1))
        struct.pack_into(field[1], changed, at + field[0], value if field[1] == "<I" else value & 0xFFFF)
    return bytes(changed)


def _open_image(path: Path) -> object:
    from fastgan.upscale.image import read

    read.read_size(path)
    return read.read(path)


def _open_image_folder(path: Path) -> object:
    """As training data: the image among three good ones."""
    from fastgan.data import open_source

    folder = path.parent / "folder"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(_picture("RGB", "PNG"))
    shutil.copy(path, folder / f"x{path.suffix}")
    return open_source(folder, resolution=16)


def _open_both(path: Path) -> object:
    from fastgan.errors import FastganError

    try:
        _open_image(path)
    except FastganError:
        _open_image_folder(path)
        raise
    return _open_image_folder(path)


# --- arrays and archives ----------------------------------------------------------------------------------------------


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (6, 8, 8), dtype=np.uint8)


def _npz_seeds(_):
    found = []
    for save in (np.savez, np.savez_compressed):
        out = io.BytesIO()
        save(out, images=_images(), labels=np.arange(6))
        found.append(out.getvalue())
    return found


def _npy_header(random: Random, data: bytes) -> bytes:
    """Another shape, dtype or order in the header of a .npy file."""
    if not data.startswith(b"\x93NUMPY"):
        return mutations.of_bytes(random, data)
    shape = random.choice(((10**9, 10**3), (2**62,), (6, 8, 8), (-1,), (0, 8, 8), (2**40, 0), (10**10,)))
    kind = random.choice(("|u1", "|u1", "<i8", "|O", "<f4", "|V9", "<U99", "[('a', '<i4')]", "nonsense"))
    header = repr({"descr": kind, "fortran_order": random.random() < 0.5, "shape": shape}).encode()
    if random.random() < 0.1:
        header = b"(" * 20_000
    header = header.ljust(len(header) + 10) + b"\n"
    return data[:8] + struct.pack("<H", len(header) & 0xFFFF) + header + data[128:]


def _open_classes(path: Path) -> object:
    """A source with labels, as conditional networks count them."""
    from fastgan.data import open_source

    return open_source(path, resolution=8, channels=1).num_classes


def _idx_seeds(_):
    plain = b"\0\0\x08\x03" + struct.pack(">3I", 6, 8, 8) + _images().tobytes()
    return [plain, gzip.compress(plain)]


def _idx_fields(random: Random, data: bytes) -> bytes:
    packed = data[:2] == b"\x1f\x8b"
    plain = gzip.decompress(data) if packed else data
    axes = random.choice((0, 1, 2, 3, 4, 65, 255))
    lengths = [random.choice((0, 1, 2, 6, 8, 2**16, 2**31, 2**32 - 1)) for _ in range(axes)]
    changed = b"\0\0\x08" + bytes((axes,)) + struct.pack(f">{axes}I", *lengths) + plain[16:]
    if packed and random.random() < 0.3:
        changed = b"\0\0\x08\x03" + struct.pack(">3I", 2**16, 2**10, 2**10) + bytes(1 << 28)
    return gzip.compress(changed, 1) if packed else changed


def _zip_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


def _zip_seeds(_):
    labels = json.dumps({"labels": [[f"{i}.png", i % 2] for i in range(4)]}).encode()
    pictures = {f"{i}.png": _picture("RGB", "PNG") for i in range(4)}
    classes = {f"cat/{i}.png": _picture("RGB", "PNG") for i in range(2)} | {"dog/0.jpg": _picture("RGB", "JPEG")}
    return [_zip_of({"dataset.json": labels, **pictures}), _zip_of(classes)]


def _zip_json(random: Random, data: bytes) -> bytes:
    def inner(random, content):
        return mutations.of_json(random, content) if content[:1] == b"{" else mutations.of_bytes(random, content)

    return mutations.of_zip(random, data, inner)


def _tar_seeds(_):
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for i in range(4):
                for suffix, content in (("png", _picture("RGB", "PNG")), ("cls", b"1"), ("json", b'{"label": 2}')):
                    name = f"{i:04d}.{suffix}" if i else f"{'é' * 60}/{i:04d}.{suffix}"
                    info = tarfile.TarInfo(name)
                    info.size, info.pax_headers = len(content), {"comment": "x"} if form == tarfile.PAX_FORMAT else {}
                    tar.addfile(info, io.BytesIO(content))
        found.append(out.getvalue())
    return found


def _tar_fields(random: Random, data: bytes) -> bytes:
    """A header with another size, type or name, whose checksum is right; or other pax records."""
    headers = [i for i in range(0, len(data), 512) if data[i + 257 : i + 262] == b"ustar"]
    changed = bytearray(data)
    for _ in range(random.randint(1, 2)):
        at = random.choice(headers)
        way = random.randrange(5)
        if way == 0:  # sizes in base 256, negative and huge
            changed[at + 124 : at + 136] = random.choice(
                (b"\xff" * 12, b"\xff" * 11 + b"\0", b"\x80" + bytes(3) + b"\xff" * 8, b"\x80" + b"\x7f" * 11)
            )
        elif way == 1:
            changed[at + 124 : at + 136] = random.choice(
                (b"77777777777\0", b"-0000000001\0", b"           \0", b"0000000000x\0", b"00000001000\0")
            )
        elif way == 2:
            changed[at + 156] = random.choice(b"0123456789gxLKSVAD\0\xff")
        elif way == 3:
            changed[at + random.randrange(512)] = random.randrange(256)
        else:
            record = random.choice(
                (
                    b"30 size=-999999999999999999999\n",
                    b"9" * 400 + b" a=b\n",
                    b"0 a=b\n",
                    b"12 size=abc\n",
                    b"25 GNU.sparse.map=1,2,3,\n",
                    b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n",
                    b"-5 x=y\n",
                    b"1" + b"0" * 300,
                )
            )
            changed[at + 512 : at + 512 + len(record)] = record
            changed[at + 156] = random.choice(b"xg")
        changed[at + 148 : at + 156] = b" " * 8
        changed[at + 148 : at + 156] = f"{sum(changed[at : at + 512]):06o}\0 ".encode()
    return bytes(changed)


# --- weights ----------------------------------------------------------------------------------------------------------


def _state():
    import torch

    from fastgan.models.esrgan.srvgg import SRVGGNetCompact

    torch.manual_seed(0)
    return SRVGGNetCompact(2, 3, 4, 1, 2).state_dict()


def _pth_seeds(_):
    import torch

    found = []
    for value, options in (
        (_state(), {}),
        ({"params_ema": _state()}, {}),
        (_state(), {"_use_new_zipfile_serialization": False}),
    ):
        out = io.BytesIO()
        torch.save(value, out, **options)
        found.append(out.getvalue())
    return found


def _pth_tensors(random: Random, data: bytes) -> bytes:
    """A tensor of another kind under a right name: with stride 0, sparse, nested, quantized, on "meta", complex, ..."""
    import warnings

    import torch

    state = dict(_state())
    name = random.choice(list(state))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [
            lambda: torch.zeros(1).expand(40_000, 40_000, 3, 3),
            lambda: torch.zeros(1).expand(12_000, 3, 3, 3),
            lambda: torch.zeros(1, dtype=torch.float64).expand(4_000_000_000),
            lambda: torch.empty(4, 3, 3, 3, device="meta"),
            lambda: torch.zeros(4, 3, 3, 3).to_sparse(),
            lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
            lambda: torch.zeros(4, 3, 3, 3, dtype=torch.complex64),
            lambda: torch.zeros(4, 3, 3, 3, dtype=torch.bool),
            lambda: torch.quantize_per_tensor(torch.zeros(4, 3, 3, 3), 0.1, 0, torch.qint8),
            lambda: torch.zeros(()),
            lambda: torch.zeros(0, 3, 3, 3),
            lambda: torch.zeros(4, 3, 3, 3, dtype=torch.float8_e4m3fn),
            lambda: "text",
            lambda: None,
            lambda: [1, 2],
            lambda: 10**40,
            lambda: torch.zeros(3, 3).to_sparse_csr(),
            lambda: torch.full((4, 3, 3, 3), float("nan")),
            lambda: torch.nn.Parameter(torch.zeros(1).expand(2**20, 3, 3, 3)),
            lambda: torch.zeros(*[1] * 60),
        ]
        value = random.choice(made)()
    if random.random() < 0.2:
        name = random.choice((1, None, "body.\0.weight", "\udc80", "a" * 10_000, "body.-1.weight", ("a", 1)))
    state[name] = value
    if random.random() < 0.3:
        state = {
            key: torch.zeros(1).expand(2000, *value.shape[1:])
            if isinstance(value, torch.Tensor) and not value.is_nested and value.dim()
            else value
            for key, value in state.items()
        }
    if random.random() < 0.1:
        for _ in range(800):
            state = {"params_ema": state}
    out = io.BytesIO()
    try:
        torch.save(state, out)
    except Exception:  # some have no file format
        return mutations.of_bytes(random, data)
    return out.getvalue()


def _open_weights(path: Path) -> object:
    from fastgan.models import esrgan

    return esrgan.load(path)


def _safetensors_seeds(_):
    from safetensors.torch import save

    return [save(_state()), save({key: value.half() for key, value in _state().items()}, {"note": "x"})]


def _safetensors_header(random: Random, data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    header = mutations.of_json(random, data[8 : 8 + size])
    stated = random.choice((len(header), len(header), len(header), 2**31, 2**40, 2**64 - 1, 0))
    return stated.to_bytes(8, "little") + header + data[8 + size :]


def _ncnn_seeds(_):
    param = b"""7767517
8 9
Input            data   0 1 data
Split            split  1 2 data a b
Convolution      conv0  1 1 a c 0=4 1=3 4=1 5=1 6=108
PReLU            act    1 1 c d 0=4
Convolution      conv1  1 1 d e 0=12 1=3 4=1 5=1 6=432
PixelShuffle     shuf   1 1 e f 0=2
Interp           up     1 1 b g 0=1 1=2.0 2=2.0
BinaryOp         add    2 1 f g output 0=0
"""
    return [param]


def _open_ncnn(path: Path) -> object:
    path.with_suffix(".bin").write_bytes(bytes(4 + 4 * 108 + 16 + 16 + 4 + 4 * 432 + 48))
    return _open_weights(path)


# --- exported networks ------------------------------------------------------------------------------------------------


def _onnx_seeds(folder: Path) -> list[bytes]:
    import torch
    from fixtures_networks import Generator, Upscaler, write_generator, write_upscaler

    torch.manual_seed(0)
    found = []
    for i, spec in enumerate((True, False)):
        write_upscaler(folder / f"u{i}.onnx", Upscaler(), spec=spec)
        found.append((folder / f"u{i}.onnx").read_bytes())
    write_generator(folder / "g.onnx", Generator())
    found.append((folder / "g.onnx").read_bytes())
    return found


def _onnx_metadata_seeds(folder: Path) -> list[bytes]:
    return [data for data in _onnx_seeds(folder) if b"fastgan" in data]


def _onnx_fields(random: Random, data: bytes) -> bytes:
    """Sizes, types, names, attributes and weights of the graph, as valid protobuf."""
    import onnx

    model = onnx.load_from_string(data)
    graph = model.graph
    for _ in range(random.randint(1, 2)):
        way = random.randrange(10)
        value = random.choice([*graph.input, *graph.output])
        dims = value.type.tensor_type.shape.dim
        if way == 0 and dims:
            random.choice(dims).dim_value = random.choice((0, -1, 1, 3, 7, 1_000_000, 2**40))
        elif way == 1:
            value.type.tensor_type.elem_type = random.choice((0, 1, 2, 6, 7, 8, 10, 11, 99))
        elif way == 2:
            value.name = random.choice(("", "x", "\u202e\x1b[31m", "a" * 10_000))
        elif way == 3 and graph.initializer:
            weight = random.choice(graph.initializer)
            weight.dims[:] = random.choice(([], [0], [-1], [10**6, 10**6], [1] * 70, [4, 3, 3, 3]))
        elif way == 4:
            node = random.choice(graph.node)
            node.op_type = random.choice(("Nope", "Identity", "Loop", "Relu", "Expand", "Shape", "NonZero", "Reshape"))
        elif way == 5:
            node = random.choice(graph.node)
            if node.attribute:
                attribute = random.choice(node.attribute)
                attribute.ints[:] = [random.choice((-1, 0, 1, 2**31, 2**62)) for _ in range(random.randrange(6))]
                attribute.i = random.choice((-1, 0, 2**40))
        elif way == 6:
            value.type.tensor_type.ClearField("shape")
        elif way == 7:
            random.choice(model.opset_import).version = random.choice((0, 1, 9, 99, 2**40))
        elif way == 8:
            values = graph.output if random.random() < 0.3 else graph.node
            del values[: random.randrange(1, 3)]
        else:
            random.choice(graph.node).input[0] = random.choice(("", "missing", graph.node[-1].output[0]))
    return model.SerializeToString()


def _onnx_metadata(random: Random, data: bytes) -> bytes:
    import onnx

    model = onnx.load_from_string(data)
    for entry in model.metadata_props:
        if entry.key == "fastgan":
            text = mutations.of_json(random, entry.value.encode())
            entry.value = text.decode("utf-8", "replace")
    return model.SerializeToString()


def _run_session(path: Path, backend: str) -> object:
    from fastgan.runtime import generate
    from fastgan.runtime.labels import in_turn
    from fastgan.runtime.session import Session, latents

    session = Session(path, backend=backend, device="cpu", threads=1)
    session.describe()
    spec = session.spec
    if spec.kind == "image":
        h, w = session.fixed or (8, 12)
        frames = np.zeros((session.fixed_batch or 1, h, w, spec.channels), np.uint8)
        result = session.pixels(frames)
        assert result.shape == (len(frames), spec.scale * h, spec.scale * w, spec.channels)
        return session(session.example(session.fixed_batch or 1, (16, 16))).shape
    n = session.fixed_batch or 2
    y = in_turn(n, spec.classes) if spec.classes else None
    result = session(latents(n, session.latent_shape, 0), y)
    assert result.ndim == 4
    return [image.shape for image in generate.images(session, generate.points(session, list(range(n)), None))]


def _open_ort(path: Path) -> object:
    return _run_session(path, "onnxruntime")


def _open_openvino(path: Path) -> object:
    return _run_session(path, "openvino")


def _pt2_seeds(_):
    facts = {"kind": "latent", "latent_shape": [8], "classes": 0, "channels": 3, "scale": 1, "multiple": 1, "reach": 0,
             "range": [-1.0, 1.0], "device": "cpu", "hardware": "none", "torch": "2.13.0"}  # fmt: skip
    inner = json.dumps({"AOTI_DEVICE_KEY": "cpu", "fastgan": json.dumps(facts)}).encode()
    return [_zip_of({"g/data/aotinductor/model/x_metadata.json": inner, "g/version": b"1"})]


def _pt2_fields(random: Random, data: bytes) -> bytes:
    def inner(random, content):
        if content[:1] != b"{":
            return mutations.of_bytes(random, content)
        if random.random() < 0.3:
            return mutations.of_json(random, content)
        outer = json.loads(content)
        outer["fastgan"] = mutations.of_json(random, outer["fastgan"].encode()).decode("utf-8", "replace")
        return json.dumps(outer).encode()

    return mutations.of_zip(random, data, inner)


def _open_pt2(path: Path) -> object:
    from fastgan.runtime.session import Session

    return Session(path, device="cpu", trust=True)


# --- videos -----------------------------------------------------------------------------------------------------------


def _video_seeds(folder: Path) -> list[bytes]:
    import av

    found = []
    for suffix, codec in (("mp4", "libx264"), ("mkv", "mpeg4"), ("webm", "libvpx"), ("avi", "mjpeg")):
        path = folder / f"clip.{suffix}"
        with av.open(str(path), "w") as file:
            stream = file.add_stream(codec, rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            file.metadata["title"] = "a title"
            for i in range(6):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * i, np.uint8), format="rgb24")
                for packet in stream.encode(frame):
                    file.mux(packet)
            for packet in stream.encode():
                file.mux(packet)
        found.append(path.read_bytes())
    return found


def _latin_title(random: Random, data: bytes) -> bytes:
    return data.replace(b"a title", random.choice((b"\xe9 t\xeftle", b"\xff\xfe\0\xd8\xff\xff\xff", b"\x80" * 7)))


def _open_video(path: Path) -> object:
    from fastgan.upscale.video.decode import VideoSource

    source = VideoSource(path)
    return sum(1 for _ in zip(source.frames(), range(100), strict=False))


# --- run directories and configurations -------------------------------------------------------------------------------

#: Flags of the run that is tampered with: seconds in all.
RUN = (
    "--model=mlp", "--width=4", "--latent=4", "--steps=4", "--checkpoint-every=2", "--sample-every=2",
    "--log-every=1", "--batch=4", "--device=cpu", "--compile=off",
)  # fmt: skip
_STEP = "checkpoints/00000004"
_RUN_FILES = (
    *["config.json"] * 3, *["metrics.jsonl"] * 2, "status.json", "layers.json", "eval.json", "generator.onnx.json",
    *[f"{_STEP}/state.json"] * 2, f"{_STEP}/SHA256SUMS", f"{_STEP}/ema.safetensors", f"{_STEP}/optimizer.safetensors",
    "samples/fixed-00000004.png",
)  # fmt: skip


def _run_seeds(folder: Path) -> list[bytes]:
    from fastgan import cli

    run = folder / "run"
    data = folder / "tiny.npz"
    data.write_bytes(_npz_seeds(folder)[0])
    assert cli.run(["train", f"--data={data}", f"--out={run}", *RUN]) == 0
    (run / "eval.json").write_text(
        json.dumps(
            [{"step": 4, "data": "tiny", "fid": 1.5, "samples": 10, "extractor": "digits", "real": {"fid": 0.5}}]
        )
    )
    (run / "generator.onnx").write_bytes(b"")
    (run / "generator.onnx.json").write_text(
        json.dumps({"step": 4, "parity": [{"batch": 1, "max_abs_error": 1e-6}], "runtime": {"provider": "CPU"}})
    )
    for name in set(_RUN_FILES):
        assert (run / name).is_file(), name
    shutil.make_archive(str(folder / "run"), "zip", run)
    return [(folder / "run.zip").read_bytes()]


def _run_tamper(random: Random, data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}
    name = random.choice(_RUN_FILES)
    if name.endswith(".jsonl"):
        way = mutations.of_json_lines
    elif name.endswith(".json") and random.random() < 0.8:
        way = mutations.of_json
    elif name.endswith(".safetensors") and random.random() < 0.6:
        way = _safetensors_header
    else:
        way = mutations.of_bytes
    files[name] = way(random, files[name])
    if name.startswith("checkpoints") and not name.endswith("SUMS"):  # as whoever tampers with it would
        folder = name.rpartition("/")[0]
        files[f"{folder}/SHA256SUMS"] = "".join(
            f"{hashlib.sha256(content).hexdigest()}  {each.rpartition('/')[2]}\n"
            for each, content in files.items()
            if each.startswith(folder) and not each.endswith("SUMS")
        ).encode()
    return _zip_of(files)


_RUN_COMMANDS = (
    ("report", "{run}"),
    ("compare", "{run}", "{good}", "--out", "{out}/c.html"),
    ("sample", "{run}", "--n", "2", "--out", "{out}/g.png"),
    ("sample", "{run}", "--n", "2", "--keep-best", "0.5", "--out", "{out}/g.png"),
    ("train", "--resume", "{run}", "--steps", "5"),
    ("export", "{run}", "--out", "{out}/g.onnx"),
)


def _open_run(path: Path) -> object:
    """One of the commands that read runs; which, the content decides."""
    from fastgan import cli

    folder = path.parent
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / "run")
    shutil.copytree(folder.parent / "seeds" / "run", folder / "good")
    words = _RUN_COMMANDS[zlib.crc32(path.read_bytes()) % len(_RUN_COMMANDS)]
    return cli.run(["--debug", *(w.format(run=folder / "run", good=folder / "good", out=folder) for w in words)])


_TOML = b"""steps = 7
seed = 3
[optim]
lr_g = 1e-3
beta1 = 0.5
[data]
batch = 8
source = "embedded"
[logging]
log_every = 5
"""
_YAML = b"""steps: 7
seed: 3
optim:
  lr_g: 1e-3
  beta1: 0.5
data: {batch: 8, source: embedded}
model:
  family: mlp
  options: {}
"""
_JSON = b'{"steps": 7, "seed": 3, "optim": {"lr_g": 0.001, "beta1": 0.5}, "data": {"batch": 8}}'


def _open_config(path: Path) -> object:
    from fastgan.cli import train

    return train._options(["--config", str(path)])


KINDS: dict[str, Kind] = {}


def _add(label: str, name: str, seeds, mutate: Mutate, open_: Callable[[Path], object], *imports: str) -> None:
    KINDS[label] = Kind(name, seeds, mutate, open_, imports)


_b = mutations.of_bytes
_add(
    "pth",
    "w.pth",
    _pth_seeds,
    either(_b, mutations.of_zip, _pth_tensors, _pth_tensors),
    _open_weights,
    "torch",
    "fastgan.models.esrgan",
)
_add(
    "safetensors",
    "w.safetensors",
    _safetensors_seeds,
    either(_b, _safetensors_header, _safetensors_header),
    _open_weights,
    "torch",
    "fastgan.models.esrgan",
)
_add("ncnn", "w.param", _ncnn_seeds, _b, _open_ncnn, "torch", "fastgan.models.esrgan")
_add(
    "npz",
    "d.npz",
    _npz_seeds,
    either(_b, lambda r, d: mutations.of_zip(r, d, _npy_header), mutations.of_zip),
    _open_classes,
    "fastgan.data",
)
_add("npy", "d.npy", lambda _: [_npy(_images())], either(_b, _npy_header), _open_classes, "fastgan.data")
_add("idx", "images-idx3-ubyte", _idx_seeds, either(_b, _idx_fields), _open_classes, "fastgan.data")
_add("zip", "d.zip", _zip_seeds, either(_b, _zip_json), _open_classes, "fastgan.data", "PIL.PngImagePlugin")
_add(
    "tar",
    "d.tar",
    _tar_seeds,
    either(_b, _tar_fields, _tar_fields),
    _open_classes,
    "fastgan.data",
    "PIL.PngImagePlugin",
)
_add(
    "png",
    "x.png",
    _png_seeds,
    either(_b, _png_fields, _png_fields),
    _open_both,
    "fastgan.data",
    "fastgan.upscale.image.read",
)
_add("jpeg", "x.jpg", _jpeg_seeds, either(_b, _jpeg_fields), _open_both, "fastgan.data", "fastgan.upscale.image.read")
_add("tiff", "x.tif", _tiff_seeds, either(_b, _tiff_fields, _tiff_fields), _open_image, "fastgan.upscale.image.read")
_add(
    "webp",
    "x.webp",
    _webp_seeds,
    either(_b, _webp_fields, _webp_fields),
    _open_both,
    "fastgan.data",
    "fastgan.upscale.image.read",
)
_add("video", "x.mp4", _video_seeds, either(_b, _b, _latin_title), _open_video, "fastgan.upscale.video.decode")
_add("onnx", "m.onnx", _onnx_seeds, either(_b, _onnx_fields, _onnx_fields), _open_ort, "onnx")
_add("onnx-openvino", "m.onnx", _onnx_seeds, either(_b, _onnx_fields, _onnx_fields), _open_openvino, "onnx")
_add("onnx-metadata", "m.onnx", _onnx_metadata_seeds, _onnx_metadata, _open_ort, "onnx")
_add("pt2", "m.pt2", _pt2_seeds, either(_b, _pt2_fields, _pt2_fields), _open_pt2, "torch")
_add("run", "run.zip", _run_seeds, _run_tamper, _open_run, "torch", "fastgan.train.trainer", "fastgan.cli.train")
_add("toml", "c.toml", lambda _: [_TOML], _b, _open_config, "torch", "fastgan.cli.train")
_add("yaml", "c.yaml", lambda _: [_YAML], _b, _open_config, "torch", "fastgan.cli.train", "ruamel.yaml")
_add("json", "c.json", lambda _: [_JSON], either(_b, mutations.of_json), _open_config, "torch", "fastgan.cli.train")

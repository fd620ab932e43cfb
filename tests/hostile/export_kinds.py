"""Mutated exported networks."""

import json
from pathlib import Path
from random import Random

import mutations
import numpy as np
from array_kinds import _zip_of


def onnx_seeds(folder: Path) -> list[bytes]:
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


def onnx_metadata_seeds(folder: Path) -> list[bytes]:
    return [data for data in onnx_seeds(folder) if b"fastgan" in data]


def onnx_fields(random: Random, data: bytes) -> bytes:
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


def onnx_metadata(random: Random, data: bytes) -> bytes:
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


def open_ort(path: Path) -> object:
    return _run_session(path, "onnxruntime")


def open_openvino(path: Path) -> object:
    return _run_session(path, "openvino")


def pt2_seeds(_):
    facts = {"kind": "latent", "latent_shape": [8], "classes": 0, "channels": 3, "scale": 1, "multiple": 1, "reach": 0,
             "range": [-1.0, 1.0], "device": "cpu", "hardware": "none", "torch": "2.13.0"}  # fmt: skip
    inner = json.dumps({"AOTI_DEVICE_KEY": "cpu", "fastgan": json.dumps(facts)}).encode()
    return [_zip_of({"g/data/aotinductor/model/x_metadata.json": inner, "g/version": b"1"})]


def pt2_fields(random: Random, data: bytes) -> bytes:
    def inner(random, content):
        if content[:1] != b"{":
            return mutations.of_bytes(random, content)
        if random.random() < 0.3:
            return mutations.of_json(random, content)
        outer = json.loads(content)
        outer["fastgan"] = mutations.of_json(random, outer["fastgan"].encode()).decode("utf-8", "replace")
        return json.dumps(outer).encode()

    return mutations.of_zip(random, data, inner)


def open_pt2(path: Path) -> object:
    from fastgan.runtime.session import Session

    return Session(path, device="cpu", trust=True)

"""A model repository for NVIDIA Triton Inference Server: a folder with a configuration and an exported file in it."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgan._util.files import aside_folder, failure, overwritable, sync, write_whole
from fastgan.errors import UsageError
from fastgan.export.targets.base import is_export, register, report_path, write_report
from fastgan.export.targets.onnx import Onnx
from fastgan.runtime.backends.tensorrt import TensorRT
from fastgan.runtime.spec import Spec

if TYPE_CHECKING:
    from fastgan.export.prepare import Prepared

#: The first line of a configuration, by which a folder is known as fastgan's.
_MARK = "# written by fastgan\n"
#: How long the server may delay a request to fill a batch, microseconds.
DELAY_US = 2000
#: Largest batch by kind of network, by default.
MAX_BATCH = {"latent": 64, "mapping": 64, "synthesis": 64, "image": 8, "signal": 8}


@register
class TritonServer(Onnx):
    """A model repository REPOSITORY/NAME with the verified ONNX file; the report is REPOSITORY/NAME.json."""

    name = "triton"
    help = "a folder REPOSITORY/NAME for NVIDIA Triton Inference Server"
    suffixes = ()

    def check_out(self, out: Path, *, overwrite: bool) -> None:
        _check_replaced(out, overwrite=overwrite)
        overwritable(report_path(out), overwrite, own=is_export(out))

    def publish(self, written: Path, out: Path, prepared: Prepared, report: dict[str, Any]) -> None:
        write_repository(written, out.parent, out.name, prepared.spec, overwrite=True)  # it was checked before
        report_path(out).unlink(missing_ok=True)
        write_report(out, report)


def write_repository(
    model: Path,
    folder: Path,
    name: str,
    spec: Spec,
    *,
    max_batch: int | None = None,
    tensorrt: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write folder/name/{config.pbtxt, 1/model.onnx}, and return folder/name. Other models in `folder` stay.

    model: an ONNX file that export wrote, or a TensorRT engine (.engine, .plan) built with the server's version.
    name: of the model for the server's clients: letters, digits, `_`, `-` and `.`. max_batch: the server's largest, by
    default 64 for latents and 8 for images and signals; an engine must have been built for it. tensorrt: on a GPU, ONNX
    Runtime runs the network in TensorRT, which builds an engine at the first request of each shape. overwrite: replace
    an older folder/name as a whole, whatever versions and files are in it; one with the files of an earlier export only
    is replaced in any case. A folder that is no model of a repository never is.
    Raises UsageError for wrong arguments, WriteError where it cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name):
        raise UsageError(
            f"name: expected letters, digits, `_`, `-` and `.`, beginning with a letter or digit, got {name!r}"
        )
    max_batch = MAX_BATCH[spec.kind] if max_batch is None else max_batch
    if max_batch < 1:
        raise UsageError(f"max_batch: expected 1 or more, got {max_batch}")
    engine = model.suffix.lower() in TensorRT.suffixes
    backend, file = ("tensorrt", "model.plan") if engine else ("onnxruntime", "model.onnx")
    if tensorrt and engine:
        raise UsageError(f"tensorrt: {model} is an engine already")
    if not model.is_file():
        raise UsageError(f"model: {model} is not a file")
    target = folder / name
    _check_replaced(target, overwrite=overwrite)
    tensors = [] if engine else _tensors(model, spec)  # the server reads those of an engine itself
    text = _configuration(name, backend, tensors, max_batch, tensorrt=tensorrt)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with aside_folder(target) as work:
            new, old = work / "new", work / "old"
            (new / "1").mkdir(parents=True)
            new.chmod(0o755)  # the server runs as another user
            shutil.copyfile(model, new / "1" / file)
            sync(new / "1" / file)
            write_whole(new / "config.pbtxt", text.encode())
            if target.exists():
                os.replace(target, old)
            try:
                os.replace(new, target)
            except OSError:
                if old.exists():
                    os.replace(old, target)
                raise
        sync(folder)
    except OSError as error:
        raise failure(target, error) from error
    return target


def _check_replaced(target: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not (target / "config.pbtxt").is_file():
        raise UsageError(f"folder: {target} exists and is no model of a repository; it is not replaced")
    written = {"config.pbtxt", "1", "1/model.onnx", "1/model.plan"}
    others = sorted({str(path.relative_to(target)) for path in target.rglob("*")} - written)
    ours = is_export(target) or (target / "config.pbtxt").read_bytes().startswith(_MARK.encode())
    if not overwrite and (others or not ours):
        what = f"holds {others[0]!r}, which no export has written" if others else "exists and is no earlier export"
        raise UsageError(f"folder: {target} {what}; --overwrite replaces it as a whole")


def _configuration(name: str, backend: str, tensors: list[str], max_batch: int, *, tensorrt: bool) -> str:
    """The text of config.pbtxt: ModelConfig of the server's model_config.proto."""
    # Half the largest and the largest: other batches wait at most DELAY_US.
    preferred = sorted({max(1, max_batch // 2), max_batch})
    lines = [
        f'name: "{name}"',
        f'backend: "{backend}"',
        f"max_batch_size: {max_batch}",
        *tensors,
        "dynamic_batching {",
        f"  preferred_batch_size: [ {', '.join(map(str, preferred))} ]",
        f"  max_queue_delay_microseconds: {DELAY_US}",
        "}",
        # One instance on every GPU of the server, or one on the CPU where it has none.
        "instance_group [ { count: 1, kind: KIND_AUTO } ]",
        "version_policy { latest { num_versions: 1 } }",
    ]
    if tensorrt:
        # The precision is that of the file. Engines are stored for the next start of the server.
        options = {"trt_engine_cache_enable": "true", "trt_engine_cache_path": f"/tmp/{name}"}
        lines += ["optimization { execution_accelerators { gpu_execution_accelerator [ {", '  name: "tensorrt"']
        lines += [f'  parameters {{ key: "{key}" value: "{value}" }}' for key, value in options.items()]
        lines += ["} ] } }"]
    return _MARK + "\n".join(lines) + "\n"


def _tensors(model: Path, spec: Spec) -> list[str]:
    """Lines for the inputs and the output of an ONNX file. dims leave out the batch; −1 is any size.

    They are the file's own: the server refuses −1 where the file has a number.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError("onnx is not installed; install it with: pip install 'fastgan[onnx]'") from None
    try:
        graph = onnx.load(model, load_external_data=False).graph
    except Exception as error:  # protobuf's own, whose module moved between its versions
        raise UsageError(f"model: {model} is no ONNX file") from error
    FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    lines: list[str] = []
    labels = [FLOAT if spec.label_vectors else INT64] * bool(spec.classes)
    inputs = [FLOAT, *labels, *(FLOAT for _ in spec.controls)]
    for field, values, types in (("input", graph.input, inputs), ("output", graph.output, [FLOAT])):
        if [value.type.tensor_type.elem_type for value in values] != types:
            names = spec.inputs if field == "input" else (spec.output,)
            typed = [f"{'int64' if t == INT64 else 'float32'} {name}" for t, name in zip(types, names, strict=True)]
            wanted = f"one float32 {field}" if len(types) == 1 else " and ".join(typed)
            raise UsageError(f"model: expected {wanted}, {model} has another {field}")
        for i, value in enumerate(values):
            shape = value.type.tensor_type.shape.dim
            dims = [size.dim_value if size.HasField("dim_value") else -1 for size in shape]
            if not dims or dims[0] != -1:
                raise UsageError(f"model: expected a dynamic batch, the {field} of {model} is {dims}")
            if field == "input" and not spec.sizes and i == 0 and tuple(dims[1:]) != spec.latent_shape:
                raise UsageError(f"model: expected latents {list(spec.latent_shape)}, {model} takes {dims[1:]}")
            lines += [f"{field} [ {{", f'  name: "{value.name}"']
            lines += [f"  data_type: {'TYPE_INT64' if types[i] == INT64 else 'TYPE_FP32'}"]
            if len(dims) == 1:  # labels [N]: the server needs a dimension beside the batch, [N, 1]
                lines += ["  dims: [ 1 ]", "  reshape { shape: [ ] }", "} ]"]
            else:
                lines += [f"  dims: [ {', '.join(map(str, dims[1:]))} ]", "} ]"]
    return lines

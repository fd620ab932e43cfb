"""The two exported halves of a generator with styles: NAME.mapping.onnx and NAME.synthesis.onnx. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastgan.errors import UsageError
from fastgan.runtime import backends
from fastgan.runtime.session import Array, Session
from fastgan.runtime.spec import Spec

_HALVES = ("mapping", "synthesis")


def pair_files(path: Path) -> tuple[Path, Path]:
    """The paths of mapping and synthesis for NAME.onnx, or for one of the two."""
    name = Path(path.stem).stem if Path(path.stem).suffix[1:] in _HALVES else path.stem
    mapping, synthesis = (path.with_name(f"{name}.{half}{path.suffix}") for half in _HALVES)
    return mapping, synthesis


def is_pair(path: Path) -> bool:
    """Whether a path names a pair: one of its two files, or NAME.onnx where only these exist."""
    if path.suffix.lower() not in backends.suffixes():
        return False
    return path in pair_files(path) or (not path.exists() and all(file.is_file() for file in pair_files(path)))


class StylePair:
    """A generator of two sessions: `mapping` from latents to styles w, and `synthesis` from w to images.

    pair(z, y, truncation_psi=0.7): images float32 [N, C, H, W], as of one file. pair.mapping(z, y, truncation_psi=0.7)
    gives w [N, num_ws, w_dim], which may be mixed, moved and interpolated, and pair.synthesis(w, noise_strength=1.0,
    noise=0.0) its images.

    Raises UsageError where the sessions are no such halves, or those of different generators.
    """

    def __init__(self, mapping: Session, synthesis: Session):
        for half, session in zip(_HALVES, (mapping, synthesis), strict=True):
            if session.spec.kind != half:
                raise UsageError(f"{half}: expected a {half} network, got one from {session.spec.origin}")
        one, other = (session.about.get("pair") for session in (mapping, synthesis))
        if one != other or mapping.spec.styles != synthesis.spec.latent_shape:
            raise UsageError(
                f"synthesis: {_name(synthesis)} belongs to another generator than {_name(mapping)}: they were not"
                " exported together, or from other weights"
            )
        self.mapping, self.synthesis = mapping, synthesis
        own, images = mapping.spec, synthesis.spec
        self.spec = Spec(
            "latent", own.latent_shape, own.classes, own.label_vectors, images.channels, range=images.range
        )
        self.about: dict[str, Any] = mapping.about
        self.class_names = mapping.class_names
        self.backend, self.provider = synthesis.backend, synthesis.provider

    @classmethod
    def open(cls, path: str | Path, **options: Any) -> StylePair:
        """The pair of which `path` is one file, or NAME.onnx. options: of both sessions, see Session."""
        files = pair_files(Path(path))
        for file, other in zip(files, reversed(files), strict=True):
            if not file.is_file():
                raise UsageError(f"model: {other} needs the other half of its pair beside it, {file.name}")
        return cls(*(Session(file, **options) for file in files))

    def __call__(self, z: Array, y: Any = None, *, truncation_psi: float = 1.0) -> Array:
        """Latents, and labels y as of a session → images."""
        return self.synthesis(self.styles(z, y, truncation_psi))

    def styles(self, z: Array, y: Any = None, truncation_psi: float = 1.0) -> Array:
        """Latents, and labels → w. Raises UsageError for a truncation that the mapping network does not have."""
        if not self.mapping.spec.controls:
            if truncation_psi != 1:
                raise UsageError(f"truncation: {_name(self.mapping)} has no mean style to move toward")
            return self.mapping(z, y)
        return self.mapping(z, y, truncation_psi=truncation_psi)


def open_generator(path: str | Path, **options: Any) -> Session | StylePair:
    """What an exported generator's path names: a pair, or one file. options: see Session."""
    return StylePair.open(path, **options) if is_pair(Path(path)) else Session(path, **options)


def _name(session: Session) -> str:
    model = session.model
    return str(model) if isinstance(model, Path) else type(model).__name__

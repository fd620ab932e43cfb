"""The metrics by name: what each says, what it needs, how it is computed. A new one is an entry of the table.

The name of a figure carries its protocol: `fid5k_inception_clean` is of 5,000 samples against 5,000 real images under
Inception with the clean resize; figures of different names do not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from fastgan.data.imageset import ImageSet
from fastgan.errors import UsageError
from fastgan.metrics import paired
from fastgan.metrics.c2st import c2st, sheet
from fastgan.metrics.cas import WIDTH, probe
from fastgan.metrics.diversity import pair_diversity
from fastgan.metrics.features import Extractor, Features
from fastgan.metrics.fid import Moments, frechet_distance
from fastgan.metrics.kid import kid
from fastgan.metrics.nearest import THUMBNAIL, Repeats, repeats, thumbnail_blocks, thumbnails
from fastgan.metrics.prdc import K_DENSITY, K_PRECISION, Prdc, prdc
from fastgan.metrics.reference import reference_features
from fastgan.metrics.scores import inception_score
from fastgan.metrics.spectrum import spectral_distance

_SPLITS = 10


@dataclass(frozen=True)
class Row:
    """One figure. name: with its protocol. error: standard error. real: the same figure of the real images.

    value: None where it could not be computed; `note` then says why. parts: by class, of a figure that is their mean.
    """

    name: str
    value: float | None
    better: str
    error: float | None = None
    real: float | None = None
    note: str = ""
    parts: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(eq=False)
class Sides:
    """Real images and samples, uint8 [N, C, H, W] and [M, C, H, W], and what is computed of them once for all metrics.

    all_real: all images of the reference set, among which copies are looked for. pictures: what metrics have to show,
    uint8 [N, C, H, W] by name.
    """

    real: np.ndarray
    fake: np.ndarray
    all_real: np.ndarray
    real_labels: np.ndarray | None
    fake_labels: np.ndarray | None
    class_names: tuple[str, ...]
    extractor: Extractor | None
    seed: int
    same_order: bool
    say: Callable[[str], object]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def network(self) -> Extractor:
        if self.extractor is None:
            raise UsageError("extractor: these metrics need one, got None")
        return self.extractor

    @cached_property
    def real_seen(self) -> Features:
        return reference_features(self.network, self.real, self.say)

    @cached_property
    def fake_seen(self) -> Features:
        return self.network(self.fake)

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Real and generated, on the extractor's device."""
        device = self.network.device
        return self.real_seen.features.to(device), self.fake_seen.features.to(device)

    @cached_property
    def manifolds(self) -> Prdc:
        return prdc(*self.features)

    @cached_property
    def repeats(self) -> dict[str, Repeats]:
        """By what sees: pixels, and the extractor."""
        found = {}
        device = torch.device("cpu") if self.extractor is None else self.extractor.device
        real, fake = (thumbnails(images).to(device) for images in (self.real, self.fake))
        found[f"pixels{THUMBNAIL}"] = repeats(real, fake, thumbnail_blocks(self.all_real))
        if self.extractor is not None:
            found[self.extractor.protocol] = repeats(*self.features)
        return found

    def name(self, metric: str, protocol: str | None = None) -> str:
        """`fid5k_inception_clean`; `fid500_ref5k_...` where the numbers of samples and of real images differ."""
        real, fake = len(self.real), len(self.fake)
        head, _, option = metric.partition("_")
        words = [head + short(fake), *([f"ref{short(real)}"] if real != fake else []), option, protocol or ""]
        return "_".join(word for word in words if word)


def short(n: int) -> str:
    """5000 → 5k."""
    return f"{n // 1000}k" if n % 1000 == 0 and n else str(n)


def _fid(s: Sides) -> list[Row]:
    a, b = (Moments().update(features).statistics() for features in s.features)
    note = ""
    if a.singular or b.singular:
        note = f"{min(a.n, b.n):,} samples in {len(a.mean)} dimensions: the covariance is singular, and the bias large"
    return [Row(s.name("fid", s.network.protocol), frechet_distance(a, b), "lower", note=note)]


def _kid(s: Sides) -> list[Row]:
    found = kid(*s.features)
    return [Row(s.name("kid", s.network.protocol), found.value, "lower", found.error)]


def _is(s: Sides) -> list[Row]:
    found = inception_score(s.fake_seen.logits, splits=_SPLITS, seed=s.seed)
    real = inception_score(s.real_seen.logits, splits=_SPLITS, seed=s.seed).value
    return [Row(s.name(f"is_splits{_SPLITS}", s.network.protocol), found.value, "higher", found.error, real)]


def _pr(s: Sides) -> list[Row]:
    names = (("precision", s.manifolds.precision), ("recall", s.manifolds.recall))
    return [Row(s.name(f"{name}_k{K_PRECISION}", s.network.protocol), value, "higher") for name, value in names]


def _dc(s: Sides) -> list[Row]:
    names = (("density", s.manifolds.density), ("coverage", s.manifolds.coverage))
    return [Row(s.name(f"{name}_k{K_DENSITY}", s.network.protocol), value, "higher") for name, value in names]


def _class_fid(s: Sides) -> list[Row]:
    name = s.name("fid_classes", s.network.protocol)
    if s.real_labels is None:
        return [Row(name, None, "lower", note="the real images have no labels")]
    fake_labels, whose = s.fake_labels, "the samples' own labels"
    if fake_labels is None:
        if not s.network.own:
            return [Row(name, None, "lower", note="the samples have no labels, and the extractor knows other classes")]
        fake_labels = s.fake_seen.logits.argmax(1).numpy()
        whose = f"the samples' classes as {s.network.protocol} sees them"
    parts: dict[str, float | None] = {}
    missing = []
    for label, class_name in enumerate(s.class_names):
        real, fake = (
            features[torch.from_numpy(labels == label).to(features.device)]
            for features, labels in zip(s.features, (s.real_labels, fake_labels), strict=True)
        )
        if min(len(real), len(fake)) < 2:
            parts[class_name] = None
            missing.append(f"{class_name} ({len(real)} real, {len(fake)} generated)")
            continue
        parts[class_name] = frechet_distance(Moments().update(real).statistics(), Moments().update(fake).statistics())
    values = [value for value in parts.values() if value is not None]
    note = f"mean over {len(values)} classes by {whose}; few samples each: compare with the same protocol alone"
    if missing:
        note += f"; without {', '.join(missing)}"
    return [Row(name, float(np.mean(values)) if values else None, "lower", note=note, parts=parts)]


def _spectral(s: Sides) -> list[Row]:
    return [Row(s.name("spectral_db"), spectral_distance(s.real, s.fake), "lower")]


def _diversity(s: Sides) -> list[Row]:
    found = pair_diversity(s.network, s.fake, seed=s.seed)
    real = pair_diversity(s.network, s.real, seed=s.seed).value
    return [Row(s.name("diversity", s.network.protocol), found.value, "as real", found.error, real)]


def _copies(s: Sides) -> list[Row]:
    rows = []
    for eye, seen in s.repeats.items():
        rows.append(Row(s.name("doubles", eye), seen.doubles, "as real", real=seen.real))
        rows.append(Row(s.name("copied", eye), seen.copied, "as real", real=seen.real))
    return rows


def _cas(s: Sides) -> list[Row]:
    if s.real_labels is None:
        return [Row(s.name("cas", f"cnn{WIDTH}"), None, "higher", note="the real images have no labels")]
    real, fake = (
        ImageSet(s.real, s.real_labels, "the reference", ""),
        ImageSet(s.fake, s.fake_labels, "the samples", ""),
    )
    found = probe(fake, real, seed=s.seed)
    own = "" if found.own_labels else "_taught"
    name = f"cas{short(found.learnt)}_test{short(found.tested)}{own}_cnn{WIDTH}"
    note = "accuracy on real images of a classifier that learnt from samples; real: from as many real images"
    if not found.own_labels:
        note += (
            "; the samples' labels are that one's, so this says whether classes can be learnt from them,"
            " not whether they are the classes that were asked for"
        )
    return [Row(name, found.accuracy, "higher", _binomial(found.accuracy, found.tested), found.real, note)]


def _c2st(s: Sides) -> list[Row]:
    found = c2st(s.real, s.fake, seed=s.seed)
    s.pictures["c2st"] = sheet(s.fake, found.order)
    note = (
        f"a classifier, real against generated, is right on so many of {found.tested:,} images it never saw;"
        f" chance alone: at most {found.chance:.3f} in 95 % of cases"
    )
    name = s.name("c2st", f"cnn{WIDTH}")
    return [Row(name, found.accuracy, "as real", _binomial(found.accuracy, found.tested), 0.5, note)]


def _binomial(share: float, n: int) -> float:
    """The standard error of a share of n."""
    return (share * (1 - share) / n) ** 0.5


def _paired(name: str, compute: Callable[[np.ndarray, np.ndarray], paired.Estimate]) -> Callable[[Sides], list[Row]]:
    def row(s: Sides) -> list[Row]:
        if not s.same_order:
            raise UsageError(
                f"metrics: {name} compares each sample with its own true image, so there must be as many samples as"
                " real images, in the same order"
            )
        found = compute(s.fake, s.real)
        return [Row(s.name(name), found.value, "higher", found.error, note="paired by order")]

    return row


@dataclass(frozen=True)
class Metric:
    """compute: the figures of two sides. network: whether it needs an extractor. asked: only where asked for."""

    about: str
    compute: Callable[[Sides], list[Row]]
    network: bool = True
    asked: bool = False


METRICS: dict[str, Metric] = {
    "fid": Metric("Fréchet distance: how far the clouds of features are apart", _fid),
    "kid": Metric("kernel distance: the same without bias, with a standard error", _kid),
    "is": Metric("inception score: clear images of all classes, by the classifier's own view", _is),
    "pr": Metric("precision (do samples look real) and recall (is all of the real there)", _pr),
    "dc": Metric("density and coverage: the same, robust against outliers", _dc),
    "class_fid": Metric("Fréchet distance within each class", _class_fid),
    "spectral": Metric("difference of the power spectra: marks of upsampling, blur, noise", _spectral, network=False),
    "diversity": Metric("distance of random pairs of samples, beside that of real pairs", _diversity),
    "copies": Metric("samples that repeat each other or a real image", _copies),
    "cas": Metric("classification accuracy score: what a classifier learns from the samples", _cas, False, True),
    "c2st": Metric("can a classifier tell samples from real images, and which (c2st.png)", _c2st, False, True),
    "psnr": Metric("peak signal-to-noise ratio of paired images", _paired("psnr", paired.psnr), False, True),
    "ssim": Metric("structural similarity of paired images", _paired("ssim", paired.ssim), False, True),
}


def select(metrics: str | list[str] | None) -> list[str]:
    """The names asked for, "fid,kid" or a list, or all that need not be asked for. UsageError for an unknown one."""
    if metrics is None:
        return [name for name, metric in METRICS.items() if not metric.asked]
    names = [name.strip() for name in metrics.split(",")] if isinstance(metrics, str) else list(metrics)
    for name in names:
        if name not in METRICS:
            raise UsageError(f"metrics: expected some of {', '.join(METRICS)}, got {name!r}")
    return names

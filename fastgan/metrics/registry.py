"""The metrics by name: description, requirements and computation. A new metric is one function and one line of METRICS.

The name of a result contains its protocol: `fid5k_inception_clean` is the FID of 5,000 samples and 5,000 real images
with Inception features and the clean resize. Only results of the same name can be compared.
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
from fastgan.metrics import pixels
from fastgan.metrics.classification import WIDTH, c2st, c2st_grid, cas
from fastgan.metrics.features import Extractor, Features, reference_features
from fastgan.metrics.fid import Moments, frechet_distance
from fastgan.metrics.kid import Estimate, kid
from fastgan.metrics.neighbors import THUMBNAIL, Duplicates, find_duplicates, thumbnail_blocks, thumbnails
from fastgan.metrics.prdc import K_DENSITY, K_PRECISION, Prdc, prdc
from fastgan.metrics.scores import inception_score, pair_diversity

_SPLITS = 10
_PUBLISHED = "papers use Inception-v3: to compare with them, --extractor inception (weights: docs/metrics.md)"


@dataclass(frozen=True)
class Row:
    """One result. name: with its protocol. better: "lower", "higher" or "as real". error: standard error. real: the
    same metric of the real images. note: explanation. parts: the values by class of a metric that is their mean.

    value: None if it could not be computed; `note` then gives the reason.
    """

    name: str
    value: float | None
    better: str
    error: float | None = None
    real: float | None = None
    note: str = ""
    parts: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(eq=False)
class Comparison:
    """Real images and samples, uint8 [N, C, H, W] and [M, C, H, W], and what several metrics compute from them.

    all_real: all images of the reference set, which samples may be copies of. real_labels, fake_labels: int64 [N] and
    [M], or None. same_order: whether there are as many samples as images in the reference set. pictures: images for the
    user by name, uint8 [N, C, H, W], added by metrics.
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
    pictures: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def network(self) -> Extractor:
        if self.extractor is None:
            raise UsageError("extractor: these metrics need one, got None")
        return self.extractor

    @cached_property
    def real_features(self) -> Features:
        return reference_features(self.network, self.real)

    @cached_property
    def fake_features(self) -> Features:
        return self.network(self.fake)

    @cached_property
    def features(self) -> tuple[Tensor, Tensor]:
        """Features float32 [N, D] of real images and [M, D] of samples, on the extractor's device."""
        device = self.network.device
        return self.real_features.features.to(device), self.fake_features.features.to(device)

    @cached_property
    def prdc(self) -> Prdc:
        return prdc(*self.features)

    @cached_property
    def duplicates(self) -> dict[str, Duplicates]:
        """By pixels, and by the features of the extractor if there is one: name → fractions."""
        found = {}
        device = torch.device("cpu") if self.extractor is None else self.extractor.device
        real, fake = (thumbnails(images).to(device) for images in (self.real, self.fake))
        found[f"pixels{THUMBNAIL}"] = find_duplicates(real, fake, thumbnail_blocks(self.all_real))
        if self.extractor is not None:
            found[self.extractor.protocol] = find_duplicates(*self.features)
        return found

    def name(self, metric: str, protocol: str | None = None) -> str:
        """`fid5k_inception_clean`; `fid500_ref5k_...` if the numbers of samples and real images differ."""
        real, fake = len(self.real), len(self.fake)
        head, _, option = metric.partition("_")
        parts = [head + short(fake), *([f"ref{short(real)}"] if real != fake else []), option, protocol or ""]
        return "_".join(part for part in parts if part)


def short(n: int) -> str:
    """5000 → "5k", 2500 → "2500"."""
    return f"{n // 1000}k" if n % 1000 == 0 and n else str(n)


def _fid(c: Comparison) -> list[Row]:
    a, b = (Moments().update(features).statistics() for features in c.features)
    notes = []
    if a.singular or b.singular:
        notes.append(
            f"{min(a.n, b.n):,} samples in {len(a.mean)} dimensions: the covariance is singular, the bias large"
        )
    if not c.network.protocol.startswith("inception"):
        notes.append(_PUBLISHED)
    return [Row(c.name("fid", c.network.protocol), frechet_distance(a, b), "lower", note="; ".join(notes))]


def _kid(c: Comparison) -> list[Row]:
    found = kid(*c.features)
    return [Row(c.name("kid", c.network.protocol), found.value, "lower", found.error)]


def _is(c: Comparison) -> list[Row]:
    found = inception_score(c.fake_features.logits, splits=_SPLITS, seed=c.seed)
    real = inception_score(c.real_features.logits, splits=_SPLITS, seed=c.seed).value
    return [Row(c.name(f"is_splits{_SPLITS}", c.network.protocol), found.value, "higher", found.error, real)]


def _pr(c: Comparison) -> list[Row]:
    names = (("precision", c.prdc.precision), ("recall", c.prdc.recall))
    return [Row(c.name(f"{name}_k{K_PRECISION}", c.network.protocol), value, "higher") for name, value in names]


def _dc(c: Comparison) -> list[Row]:
    names = (("density", c.prdc.density), ("coverage", c.prdc.coverage))
    return [Row(c.name(f"{name}_k{K_DENSITY}", c.network.protocol), value, "higher") for name, value in names]


def _class_fid(c: Comparison) -> list[Row]:
    name = c.name("fid_classes", c.network.protocol)
    if c.real_labels is None:
        return [Row(name, None, "lower", note="the real images have no labels")]
    fake_labels, source = c.fake_labels, "the samples' own labels"
    if fake_labels is None:
        if not c.network.own:
            return [Row(name, None, "lower", note="the samples have no labels, and the extractor has other classes")]
        fake_labels = c.fake_features.logits.argmax(1).numpy()
        source = f"the samples' classes as predicted by {c.network.protocol}"
    parts: dict[str, float | None] = {}
    missing = []
    for label, class_name in enumerate(c.class_names):
        real, fake = (
            features[torch.from_numpy(labels == label).to(features.device)]
            for features, labels in zip(c.features, (c.real_labels, fake_labels), strict=True)
        )
        if min(len(real), len(fake)) < 2:
            parts[class_name] = None
            missing.append(f"{class_name} ({len(real)} real, {len(fake)} generated)")
            continue
        parts[class_name] = frechet_distance(Moments().update(real).statistics(), Moments().update(fake).statistics())
    values = [value for value in parts.values() if value is not None]
    note = f"mean over {len(values)} classes by {source}; few samples each: compare only with results of the same name"
    if missing:
        note += f"; without {', '.join(missing)}"
    return [Row(name, float(np.mean(values)) if values else None, "lower", note=note, parts=parts)]


def _spectral(c: Comparison) -> list[Row]:
    return [Row(c.name("spectral_db"), pixels.spectral_distance(c.real, c.fake), "lower")]


def _diversity(c: Comparison) -> list[Row]:
    found = pair_diversity(c.network, c.fake, seed=c.seed)
    real = pair_diversity(c.network, c.real, seed=c.seed).value
    return [Row(c.name("diversity", c.network.protocol), found.value, "as real", found.error, real)]


def _copies(c: Comparison) -> list[Row]:
    rows = []
    for space, found in c.duplicates.items():
        rows.append(Row(c.name("duplicates", space), found.among_fake, "as real", real=found.among_real))
        rows.append(Row(c.name("copied", space), found.copied, "as real", real=found.among_real))
    return rows


def _cas(c: Comparison) -> list[Row]:
    if c.real_labels is None:
        return [Row(c.name("cas", f"cnn{WIDTH}"), None, "higher", note="the real images have no labels")]
    real, fake = (
        ImageSet(c.real, c.real_labels, "the reference", ""),
        ImageSet(c.fake, c.fake_labels, "the samples", ""),
    )
    found = cas(fake, real, seed=c.seed)
    own = "" if found.own_labels else "_pseudolabels"
    name = f"cas{short(found.trained)}_test{short(found.tested)}{own}_cnn{WIDTH}"
    note = "accuracy on real images of a classifier trained on samples; real: trained on as many real images"
    if not found.own_labels:
        note += (
            "; the samples' labels are predictions of the latter, so this measures whether classes can be learned from"
            " the samples, not whether they are the classes that were asked for"
        )
    return [Row(name, found.accuracy, "higher", _binomial_error(found.accuracy, found.tested), found.real, note)]


def _c2st(c: Comparison) -> list[Row]:
    found = c2st(c.real, c.fake, seed=c.seed)
    c.pictures["c2st"] = c2st_grid(c.fake, found.order)
    note = (
        f"accuracy of a classifier, real against generated, on {found.tested:,} images it was not trained on;"
        f" for indistinguishable images it is at most {found.critical:.3f} with probability 95 %"
    )
    name = c.name("c2st", f"cnn{WIDTH}")
    return [Row(name, found.accuracy, "as real", _binomial_error(found.accuracy, found.tested), 0.5, note)]


def _binomial_error(share: float, n: int) -> float:
    """The standard error of a fraction of n."""
    return (share * (1 - share) / n) ** 0.5


def _paired(name: str, compute: Callable[[np.ndarray, np.ndarray], Estimate]) -> Callable[[Comparison], list[Row]]:
    def row(c: Comparison) -> list[Row]:
        if not c.same_order:
            raise UsageError(
                f"metrics: {name} compares each sample with the real image of the same position: expected as many"
                " samples as real images"
            )
        found = compute(c.fake, c.real)
        return [Row(c.name(name), found.value, "higher", found.error, note="paired by order")]

    return row


@dataclass(frozen=True)
class Metric:
    """A line of METRICS.

    description: for the user. compute: the results of a comparison. network: whether it needs an extractor. default:
    whether it is computed if no metrics are named.
    """

    description: str
    compute: Callable[[Comparison], list[Row]]
    network: bool = True
    default: bool = True


METRICS: dict[str, Metric] = {
    "fid": Metric("Fréchet distance between Gaussians fitted to real and generated features", _fid),
    "kid": Metric("kernel distance of real and generated features: unbiased, with a standard error", _kid),
    "is": Metric("inception score: images classified with confidence, and all classes present", _is),
    "pr": Metric("precision (samples that look real) and recall (real images that could be generated)", _pr),
    "dc": Metric("density and coverage: precision and recall that are robust against outliers", _dc),
    "class_fid": Metric("Fréchet distance within each class", _class_fid),
    "spectral": Metric("distance of power spectra: artifacts of upsampling, blur, noise", _spectral, network=False),
    "diversity": Metric("mean distance of random pairs of samples, and of real pairs", _diversity),
    "copies": Metric("fractions of samples that duplicate another sample or copy a real image", _copies),
    "cas": Metric(
        "classification accuracy score: train a classifier on samples, test it on real images",
        _cas,
        network=False,
        default=False,
    ),
    "c2st": Metric(
        "classifier two-sample test: samples that it recognizes are in c2st.png", _c2st, network=False, default=False
    ),
    "psnr": Metric(
        "peak signal-to-noise ratio of paired images", _paired("psnr", pixels.psnr), network=False, default=False
    ),
    "ssim": Metric(
        "structural similarity of paired images", _paired("ssim", pixels.ssim), network=False, default=False
    ),
}


def select(metrics: str | list[str] | None) -> list[str]:
    """Names of metrics from "fid,kid" or a list; None means the default ones. Raises UsageError for an unknown name."""
    if metrics is None:
        return [name for name, metric in METRICS.items() if metric.default]
    names = [name.strip() for name in metrics.split(",")] if isinstance(metrics, str) else list(metrics)
    for name in names:
        if name not in METRICS:
            raise UsageError(f"metrics: expected some of {', '.join(METRICS)}, got {name!r}")
    return names

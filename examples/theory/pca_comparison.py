"""Contrastive PCA, PCA, LDA and a probe of the features as they are, on each data set; one table of all."""

import hashlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import pad

from alphacl_sklearn import ContrastivePCA
from image_folder import take
from pca_settings import Settings
from provenance import environment, write_json
from quickstart_data import load_digits
from recipe.data import load
from recipe.protocol import DATASETS
from recipe.trained import read_network
from recipe.training import read_checkpoint

Array = npt.NDArray[np.float32]
AS_THEY_ARE = "features as they are"


class Problem(NamedTuple):
    """Rows to embed, a second view of the training rows, and classes to probe."""

    name: str
    views: str
    train: Array
    train_aug: Array
    train_labels: npt.NDArray[np.int64]
    test: Array
    test_labels: npt.NDArray[np.int64]
    network: dict[str, Any] | None = None
    """How the features were trained, if a network gives them."""


def problems(settings: Settings) -> Iterator[Problem]:
    """Load one data set after the other; what is missing is said before the first is used."""
    generator = torch.Generator().manual_seed(settings.seed)
    network = None if settings.checkpoint is None else trained_network(settings.checkpoint, settings.backbone)
    data = None
    if settings.data_root is not None:
        data = load(DATASETS["cifar10"], settings.data_root, download=settings.download)
        data.check_labelled()
    if settings.digits:
        digits = load_digits()
        train, test = digits.train[:, :1].float() / 255, digits.test[:, :1].float() / 255
        yield _problem(
            "digits", "shifts by up to 1 px", (train, digits.train_labels), (test, digits.test_labels),
            shifted(train, 1, generator), lambda images: images.flatten(1),
        )  # fmt: skip
    if data is None:
        return
    views = "shifts by up to 4 px and mirror images"
    labels = data.train.labels.numpy(), data.test.labels.numpy()
    train, test = data.train.pixels.float() / 255, data.test.pixels.float() / 255

    def part(limit: int) -> tuple[Tensor, npt.NDArray[np.int64], Tensor]:
        chosen = np.sort(take(labels[0], limit))
        images = train[chosen]
        return images, labels[0][chosen], mirrored(shifted(images, 4, generator), generator)

    if settings.pixels > 0:
        images, classes, aug = part(settings.pixels)
        name = "cifar10_pixels" if len(images) == len(train) else f"cifar10_pixels_{len(images)}"
        yield _problem(name, views, (images, classes), (test, labels[1]), aug, lambda x: x.flatten(1))
    if network is not None:
        images, classes, aug = part(settings.features)
        problem = _problem("cifar10_features", views, (images, classes), (test, labels[1]), aug, network.features)
        yield problem._replace(network=network.described)


def _problem(
    name: str,
    views: str,
    train: tuple[Tensor, npt.NDArray[np.int64]],
    test: tuple[Tensor, npt.NDArray[np.int64]],
    aug: Tensor,
    features: Callable[[Tensor], Tensor],
) -> Problem:
    rows = [features(images).numpy() for images in (train[0], aug, test[0])]
    return Problem(name, views, rows[0], rows[1], train[1], rows[2], test[1])


class TrainedNetwork(NamedTuple):
    """A network's features of images, and what it is."""

    features: Callable[[Tensor], Tensor]
    described: dict[str, Any]


def trained_network(checkpoint: Path, backbone: str) -> TrainedNetwork:
    """Load a recipe's network; the recipe is that of the result beside the checkpoint.

    Raises: ValueError, OSError if there is no such checkpoint, no result beside it, or they are of another backbone or
        data set.
    """
    if not checkpoint.is_file():
        raise FileNotFoundError(f"checkpoint: expected a file of weights, got {checkpoint}, which is not a file")
    network, recipe = read_network(checkpoint)
    if recipe["dataset"] != "cifar10":  # another normalisation
        raise ValueError(f"checkpoint: expected one of cifar10, got one of {recipe['dataset']}: {checkpoint}")
    if recipe["backbone"] != backbone:
        raise ValueError(f"backbone: expected that of {checkpoint}, {recipe['backbone']}, got {backbone}")
    network.eval()
    saved = read_checkpoint(checkpoint)

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return torch.cat([network.features(batch) for batch in torch.split(images, 500)])

    described = {
        "checkpoint": checkpoint.name,
        "sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "backbone": backbone,
        "epochs": saved["epoch"] + 1,
        "steps": saved["global_step"],
        **{key: recipe[key] for key in ("strategy", "settings", "data", "environments")},
    }
    return TrainedNetwork(features, described)


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to ``most`` pixels in both directions; what comes in is black."""
    n, _, height, width = images.shape
    padded = pad(images, (most, most, most, most))
    result = torch.empty_like(images)
    offsets = torch.randint(2 * most + 1, (n, 2), generator=generator)
    for i, (down, right) in enumerate(offsets.tolist()):
        result[i] = padded[i, :, down : down + height, right : right + width]
    return result


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, left to right."""
    mirror = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirror[:, None, None, None], images.flip(3), images)


class Method(NamedTuple):
    """A row of the table."""

    name: str
    components: int
    fit: Callable[[], Any]
    """Return the fitted reducer; None stands for the features as they are."""


def methods(problem: Problem, settings: Settings) -> Iterator[Method]:
    """Yield every method at every width that it has."""
    x, x_aug, y = problem.train, problem.train_aug, problem.train_labels
    directions = len(np.unique(y)) - 1

    def contrastive(name: str, n: int, *arguments: Any, **views: Any) -> Iterator[Method]:
        for turns in settings.turns:
            reducer = ContrastivePCA(n, strategy=settings.build_strategy(), n_iter=turns)
            most = "1 turn" if turns == 1 else f"at most {turns} turns"
            yield Method(f"ContrastivePCA, {name}, {most}", n, partial(reducer.fit, x, *arguments, **views))

    yield Method(AS_THEY_ARE, x.shape[1], lambda: None)
    for n in (n for n in settings.components if n <= min(x.shape)):
        yield Method("PCA", n, partial(PCA(n, random_state=0).fit, x))
        yield from contrastive("one view", n)
        yield from contrastive("two views", n, X_aug=x_aug)
        if n <= directions:
            yield Method("LDA", n, partial(LinearDiscriminantAnalysis(n_components=n).fit, x, y))
        yield from contrastive("classes", n, y)


def judge(problem: Problem, method: Method) -> dict[str, Any]:
    """Fit a method, then a logistic regression on its standardised embedding of the training rows."""
    started = time.perf_counter()
    reducer = method.fit()
    seconds = time.perf_counter() - started
    train, test = (rows if reducer is None else reducer.transform(rows) for rows in (problem.train, problem.test))
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, tol=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the probe, whose 200 steps are part of the protocol
        accuracy = 100 * probe.fit(train, problem.train_labels).score(test, problem.test_labels)
    row = {
        "method": method.name,
        "components": method.components,
        "accuracy": round(float(accuracy), 2),
        "fit_seconds": round(seconds, 2),
    }
    if isinstance(reducer, ContrastivePCA):
        row |= {"turns": reducer.n_iter_, "residual": reducer.residual_}
        row |= {"gap": reducer.gap_, "eigenvalues": [float(value) for value in reducer.eigenvalues_]}
    return row


def cell(row: dict[str, Any]) -> str:
    """Return what a table says of a row: accuracy, turns and time of the fit."""
    made = row.get("turns")
    turns = "" if made is None else f"{made} turn{'s' if made > 1 else ''}, "
    return f"{row['accuracy']:.1f} ({turns}{row['fit_seconds']:.1f} s)"


def table(reports: Sequence[dict[str, Any]]) -> list[str]:
    """Return one Markdown table of several data sets, a column each."""
    heads = [f"{report['data']}, {report['shape'][0]:,} x {report['shape'][1]:,}" for report in reports]
    columns = [{(row["method"], _width(row)): cell(row) for row in report["rows"]} for report in reports]
    rows = list(dict.fromkeys(key for column in columns for key in column))
    lines = [["method", "components", *heads], ["---"] * (2 + len(heads))]
    lines += [[*key, *(column.get(key, "") for column in columns)] for key in rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _width(row: dict[str, Any]) -> str:
    return "all" if row["method"] == AS_THEY_ARE else str(row["components"])


def main(settings: Settings) -> list[dict[str, Any]]:
    """Print and save a table for each data set."""
    reports = []
    for problem in problems(settings):
        n, width = problem.train.shape
        print(f"\n{problem.name}: {n} x {width}, {len(problem.test)} test rows; second views: {problem.views}")
        report: dict[str, Any] = {
            "data": problem.name,
            "views": problem.views,
            "shape": [n, width],
            "test_rows": len(problem.test),
            "strategy": repr(settings.build_strategy()),
            "seed": settings.seed,
            "network": problem.network,
            "threads": torch.get_num_threads(),
            "rows": [],
            "environment": environment(),
        }
        for method in methods(problem, settings):
            row = judge(problem, method)
            report["rows"].append(row)
            print(f"{method.name}, {method.components} components: {cell(row)}", flush=True)
            path = settings.output / f"contrastive_pca_{problem.name}.json"
            write_json(path, report)
        print(f"every number: {path}")
        reports.append(report)
    print("\nlinear probe, % (turns, time of the fit)", *table(reports), sep="\n")
    return reports

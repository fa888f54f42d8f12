"""ContrastivePCA beside PCA, LDA and the features as they are: linear-probe accuracy and time.

    python examples/theory/contrastive_pca_table.py                     scikit-learn's digits
    python examples/theory/contrastive_pca_table.py --data-root DIR     and the pixels of CIFAR-10, all 50,000
    python examples/theory/contrastive_pca_table.py --data-root DIR --checkpoint FILE    and a network's features

FILE: a checkpoint of examples/cifar10_resnet18.py, of any backbone (--backbone NAME). Each data set has its JSON file.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import tyro
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import pad

sys.path.insert(0, str(Path(__file__).parents[1]))

from alphacl_sklearn import ContrastivePCA
from image_folder import take
from provenance import environment, replace_file
from quickstart_data import load_digits
from recipe.data import load
from recipe.network import Network
from recipe.protocol import DATASETS

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Settings:
    """What to compare, and on which data."""

    data_root: Path | None = None
    """Where CIFAR-10 is, in one of the forms that the recipes read. None: only the digits."""
    checkpoint: Path | None = None
    """Weights of a recipe's network on CIFAR-10. None: no features of a network."""
    backbone: str = "test_resnet"
    """The checkpoint's timm model."""
    limit: int = 10_000
    """Training images whose features the network gives; at most so many, every class in its proportion."""
    pixels: bool = True
    """Whether to use CIFAR-10's pixels: --no-pixels leaves them out."""
    digits: bool = True
    """Whether to use the digits."""
    n_iter: int = 1
    """Turns of ContrastivePCA between α and the components."""
    seed: int = 0
    """Of the second views."""
    output: Path = Path(".runs/theory")
    """Folder of the results."""


class Problem(NamedTuple):
    """Rows to embed, a second view of the training rows, and classes to probe."""

    name: str
    views: str
    train: Array
    train_aug: Array
    train_labels: npt.NDArray[np.int64]
    test: Array
    test_labels: npt.NDArray[np.int64]


def problems(settings: Settings) -> Iterator[Problem]:
    """Load one data set after the other."""
    generator = torch.Generator().manual_seed(settings.seed)
    if settings.digits:
        digits = load_digits()
        train, test = digits.train[:, :1].float() / 255, digits.test[:, :1].float() / 255
        yield _problem(
            "digits", "shifts by up to 1 px", (train, digits.train_labels), (test, digits.test_labels),
            shifted(train, 1, generator), lambda images: images.flatten(1),
        )  # fmt: skip
    if settings.data_root is None:
        return
    data = load(DATASETS["cifar10"], settings.data_root)
    views = "shifts by up to 4 px and mirror images"
    labels = data.train.labels.numpy(), data.test.labels.numpy()
    train, test = data.train.pixels.float() / 255, data.test.pixels.float() / 255
    if settings.pixels:
        aug = mirrored(shifted(train, 4, generator), generator)
        yield _problem("cifar10_pixels", views, (train, labels[0]), (test, labels[1]), aug, lambda x: x.flatten(1))
    if settings.checkpoint is not None:
        network = trained_network(settings.checkpoint, settings.backbone)
        chosen = np.sort(take(labels[0], settings.limit))
        few, first = train[chosen], labels[0][chosen]
        aug = mirrored(shifted(few, 4, generator), generator)
        yield _problem("cifar10_features", views, (few, first), (test, labels[1]), aug, network)


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


def trained_network(checkpoint: Path, backbone: str) -> Callable[[Tensor], Tensor]:
    """Return the function from images to the features of a recipe's network."""
    cifar = DATASETS["cifar10"]
    network = Network(backbone, cifar.image_size, cifar.mean, cifar.std)
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    prefix = "network."
    network.load_state_dict({name.removeprefix(prefix): w for name, w in saved.items() if name.startswith(prefix)})
    network.eval()

    @torch.no_grad()
    def features(images: Tensor) -> Tensor:
        return torch.cat([network.features(batch) for batch in torch.split(images, 500)])

    return features


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


def reducers(problem: Problem, n_iter: int) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Name, number of components, and the fit of each method; None stands for the features as they are."""
    x, x_aug, y = problem.train, problem.train_aug, problem.train_labels
    few = len(np.unique(y)) - 1
    many = min(4 * few, x.shape[1])

    def contrastive(n: int) -> ContrastivePCA:
        return ContrastivePCA(n, n_iter=n_iter)

    yield "features as they are", x.shape[1], lambda: None
    yield "LDA", few, lambda: LinearDiscriminantAnalysis().fit(x, y)
    yield "ContrastivePCA, classes", few, lambda: contrastive(few).fit(x, y)
    for n in (few, many):
        yield "PCA", n, lambda n=n: PCA(n, random_state=0).fit(x)  # type: ignore[misc]
        yield "ContrastivePCA, two views", n, lambda n=n: contrastive(n).fit(x, X_aug=x_aug)  # type: ignore[misc]
    yield "ContrastivePCA, one view", many, lambda: contrastive(many).fit(x)


def judge(problem: Problem, name: str, n: int, fit: Callable[[], Any]) -> dict[str, Any]:
    """Fit a method, then a logistic regression on its standardised embedding of the training rows."""
    started = time.perf_counter()
    reducer = fit()
    seconds = time.perf_counter() - started
    train, test = (rows if reducer is None else reducer.transform(rows) for rows in (problem.train, problem.test))
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, tol=1e-3))
    accuracy = 100 * probe.fit(train, problem.train_labels).score(test, problem.test_labels)
    row = {"method": name, "components": n, "accuracy": round(float(accuracy), 2), "fit_seconds": round(seconds, 2)}
    if isinstance(reducer, ContrastivePCA):
        row |= {"turns": reducer.n_iter_, "gap": None if np.isnan(reducer.gap_) else reducer.gap_}
        row["eigenvalues"] = [float(value) for value in reducer.eigenvalues_]
    return row


def main(settings: Settings) -> list[dict[str, Any]]:
    """Print and save a table for each data set."""
    reports = []
    for problem in problems(settings):
        n, width = problem.train.shape
        print(f"\n{problem.name}: {n} x {width}, {len(problem.test)} test rows; second views: {problem.views}")
        print("| method | components | linear probe, % | fit, s |\n|---|---|---|---|", flush=True)
        report: dict[str, Any] = {
            "data": problem.name,
            "views": problem.views,
            "shape": [n, width],
            "test_rows": len(problem.test),
            "n_iter": settings.n_iter,
            "seed": settings.seed,
            "backbone": settings.backbone if problem.name == "cifar10_features" else None,
            "threads": torch.get_num_threads(),
            "rows": [],
            "environment": environment(),
        }
        for name, components, fit in reducers(problem, settings.n_iter):
            row = judge(problem, name, components, fit)
            report["rows"].append(row)
            print(f"| {name} | {components} | {row['accuracy']:.1f} | {row['fit_seconds']:.1f} |", flush=True)
            text = json.dumps(report, indent=2, allow_nan=False) + "\n"
            path = settings.output / f"contrastive_pca_{problem.name}.json"
            replace_file(path, lambda part, text=text: part.write_text(text, encoding="utf-8"))  # type: ignore[misc]
        reports.append(report)
    return reports


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))

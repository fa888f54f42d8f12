"""Tables 1 and 2 of the α-CL paper, as data: which loss a row means, and the accuracy that it reports.

Source: Tian (2022), arXiv:2201.12680, Tables 1 and 2: top-1 accuracy in % of a linear probe (the best of its epochs),
mean ± standard deviation over 5 seeds, batch size 128.
"""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from alphacl_plugins.strategies import Direct, Entropy, InfoNCE, Inverse, Square, Strategy, Uniform
from recipe.protocol import EPOCHS


class Accuracy(NamedTuple):
    """In %, over seeds; a single seed has no standard deviation."""

    mean: float
    std: float | None


@dataclass(frozen=True)
class Row:
    """One loss of the tables."""

    name: str
    """Here, on the command line."""
    title: str
    """In the paper."""
    options: MappingProxyType[str, Any]
    """Of a recipe, where they differ from its defaults."""
    strategy: Strategy
    """The pair weights that the options mean."""
    detach_alpha: bool = True
    """Whether the gradient stops at α."""


def _row(name: str, title: str, means: Strategy, detach_alpha: bool = True, **options: Any) -> Row:
    return Row(name, title, MappingProxyType(options), means, detach_alpha)


ROWS = {
    row.name: row
    for row in (
        _row("quadratic", "L_quadratic", Uniform(), loss="quadratic"),
        _row("infonce", "L_nce", InfoNCE(tau=0.5), loss="infonce"),
        _row("backprop", "backprop α(θ)", InfoNCE(tau=0.5), detach_alpha=False, loss="backprop"),
        _row("entropy", "α-CL-r_H", Entropy(tau=0.5), strategy="entropy"),
        _row("inverse", "α-CL-r_γ", Inverse(tau=0.5, gamma=2), strategy="inverse"),
        _row("square", "α-CL-r_s", Square(tau=5), strategy="square"),
        _row("direct", "α-CL-direct", Direct(tau=0.5, p=4), strategy="direct"),
    )
}
"""In the order of Table 1."""

_Numbers = tuple[float, float, float, float, float, float]  # mean, std after 100 epochs; after 300; after 500
_CIFAR10: dict[str, _Numbers] = {
    "quadratic": (63.59, 2.53, 73.02, 0.80, 73.58, 0.82),
    "infonce": (84.06, 0.30, 87.63, 0.13, 87.86, 0.12),
    "backprop": (83.42, 0.25, 87.18, 0.19, 87.48, 0.21),
    "entropy": (84.27, 0.24, 87.75, 0.25, 87.92, 0.24),
    "inverse": (83.72, 0.19, 87.51, 0.11, 87.69, 0.09),
    "square": (84.72, 0.10, 86.62, 0.17, 86.74, 0.15),
    "direct": (85.11, 0.19, 87.93, 0.16, 88.09, 0.13),
}
_STL10: dict[str, _Numbers] = {
    "quadratic": (55.59, 4.00, 64.97, 1.45, 67.28, 1.21),
    "infonce": (78.46, 0.24, 82.49, 0.26, 83.70, 0.12),
    "backprop": (77.88, 0.17, 81.86, 0.30, 83.19, 0.16),
    "entropy": (78.53, 0.35, 82.62, 0.15, 83.74, 0.18),
    "inverse": (78.22, 0.28, 82.19, 0.52, 83.47, 0.34),
    "square": (76.95, 1.06, 80.64, 0.77, 81.65, 0.59),
    "direct": (79.32, 0.36, 82.95, 0.17, 84.05, 0.20),
}
_TABLE_2: dict[tuple[str, str], dict[str, _Numbers]] = {
    ("cifar100", "resnet18"): {
        "infonce": (55.70, 0.37, 59.71, 0.36, 59.89, 0.34),
        "direct": (57.63, 0.07, 60.12, 0.26, 60.27, 0.29),
    },
    ("cifar100", "resnet50"): {
        "infonce": (60.16, 0.48, 65.40, 0.31, 65.53, 0.30),
        "direct": (62.93, 0.28, 65.84, 0.14, 65.87, 0.21),
    },
    ("cifar10", "resnet18"): {row: _CIFAR10[row] for row in ("infonce", "direct")},
    ("cifar10", "resnet50"): {
        "infonce": (86.39, 0.16, 89.97, 0.14, 90.19, 0.23),
        "direct": (87.79, 0.25, 90.41, 0.18, 90.50, 0.21),
    },
    ("stl10", "resnet18"): {row: _STL10[row] for row in ("infonce", "direct")},
    ("stl10", "resnet50"): {
        "infonce": (81.64, 0.24, 86.57, 0.17, 87.90, 0.22),
        "direct": (83.20, 0.25, 87.17, 0.14, 87.85, 0.21),
    },
}


def _by_epochs(numbers: _Numbers) -> dict[int, Accuracy]:
    return {epochs: Accuracy(*numbers[2 * i : 2 * i + 2]) for i, epochs in enumerate(EPOCHS)}


Part = dict[str, dict[int, Accuracy]]
"""Row, epochs -> accuracy: the part of a table for one data set and backbone."""
TABLES: dict[int, dict[tuple[str, str], Part]] = {
    number: {which: {row: _by_epochs(values) for row, values in part.items()} for which, part in table.items()}
    for number, table in (
        (1, {("cifar10", "resnet18"): _CIFAR10, ("stl10", "resnet18"): _STL10}),
        (2, _TABLE_2),
    )
}
"""Number of the table -> (data set, backbone) -> row -> epochs -> accuracy."""


def reported(dataset: str, backbone: str, row: str) -> dict[int, Accuracy]:
    """Return what the paper reports of a cell, by epochs; nothing if it is in neither table."""
    for table in TABLES.values():
        if row in table.get((dataset, backbone), {}):
            return table[dataset, backbone][row]
    return {}

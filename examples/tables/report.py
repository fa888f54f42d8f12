"""results/README.md, from the JSON files beside it alone: the paper's tables with ours, and where ours come from."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from recipe.protocol import EPOCHS
from recipe.results import counts_of
from tables.estimate import hardware
from tables.kept import Measure, Repetitions, Run, repetitions
from tables.paper import ROWS, TABLES, Accuracy, reported

NAMES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "stl10": "STL-10",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
}
INTRODUCTION = """# The tables of the α-CL paper, theirs and ours

Written by `python examples/reproduce.py` from the JSON files in this folder, and from nothing else; do not edit.
All numbers are accuracies in % on the test images, mean ± standard deviation over the seeds.
"""
OURS = """
*ours*: linear probe after the best of its 50 epochs, as the paper reports it; *difference*: ours - paper, in points;
*last*: the probe after its last epoch; *kNN*: 200 nearest neighbours; *from*: host, data, hardware and commit,
[below](#from).

"""
PAPER = """
Tian (2022), arXiv:2201.12680, Tables 1 and 2: linear probe after the best of its epochs, 5 seeds{ours}.

"""


def markdown(runs: Sequence[Run], pictures: Iterable[Path] = ()) -> str:
    """Return the report.

    Args:
        runs: what is kept.
        pictures: to show, relative to the report.
    """
    cells = repetitions(runs)
    sources = _Sources()
    parts = [INTRODUCTION, "\n## Ours\n", *_ours(cells, sources)]
    parts += ["\n## The paper's\n", PAPER.format(ours="; **bold**: ours" if cells else ""), *_papers(cells)]
    parts += ["\n## Pictures\n", *(f"\n![{path.stem}]({path.as_posix()})\n" for path in pictures)] if pictures else []
    tries = [run for run in runs if run.differences]
    parts += ["\n## Tries\n\n", *_tries(tries, sources)] if tries else []
    parts += _host_linear(runs)
    parts += ["\n## From\n\n", *sources.lines()] if runs else []
    return "".join(parts)


class _Sources:
    """Letters for where a number comes from, in the order in which they are asked for."""

    def __init__(self) -> None:
        self.letters: dict[tuple[str, ...], str] = {}

    def of(self, runs: Iterable[Run]) -> str:
        letters = {self.letters.setdefault(key, _letter(len(self.letters))) for key in map(_source, runs)}
        return ", ".join(sorted(letters, key=lambda letter: (len(letter), letter)))

    def lines(self) -> list[str]:
        head = ("", "host", "data", "images", "hardware", "precision", "commit")
        return [_line(*head), _rule(len(head)), *(_line(letter, *key) for key, letter in self.letters.items())]


def _letter(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    first, last = divmod(number, 26)
    return (_letter(first - 1) if first else "") + chr(ord("A") + last)


def _source(run: Run) -> tuple[str, ...]:
    content = run.content
    data = content["data"]
    host = content["host"] + (f" {content['host_commit'][:10]}" if content.get("host_commit") else "")
    commits = sorted({_short_commit(here["commit"]) for here in content["environments"]})
    return (
        host,
        f"{data['source']}, sha256 {data['sha256'][:10]}",
        counts_of(data),
        hardware(content),
        content["settings"]["precision"],
        ", ".join(commits),
    )


def _short_commit(commit: str | None) -> str:
    return "unknown" if commit is None else commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")


def _ours(cells: Sequence[Repetitions], sources: _Sources) -> list[str]:
    """Return a line for each cell that was run."""
    head = ("data", "loss", "epochs", "paper", "ours", "difference", "seeds", "last", "kNN", "from")
    lines = [
        _line(*_place(cell.dataset, cell.backbone, row), str(epochs), *_measured(cell, epochs, sources))
        for dataset, backbone, row, papers in _cells()
        for epochs in papers
        for cell in cells
        if (cell.dataset, cell.backbone, cell.row) == (dataset, backbone, row) and cell.after(epochs)
    ]
    return [OURS, _line(*head), _rule(len(head)), *lines] if lines else ["\nNo cell has been run yet.\n"]


def _measured(cell: Repetitions, epochs: int, sources: _Sources) -> tuple[str, ...]:
    runs = cell.after(epochs)
    best, paper = cell.accuracy(epochs), reported(cell.dataset, cell.backbone, cell.row)[epochs]
    assert best is not None  # as there are runs
    seeds = ", ".join(f"[{run.content['seed']}]({run.path.as_posix()})" for run in runs)
    others: tuple[Measure, ...] = ("probe_last", "knn")
    return (
        in_words(paper),
        in_words(best),
        f"{best.mean - paper.mean:+.2f}",
        f"n = {len(runs)}: {seeds}",
        *(in_words(cell.accuracy(epochs, measure)) for measure in others),
        sources.of(runs),
    )


def _papers(cells: Sequence[Repetitions]) -> list[str]:
    """Return the paper's numbers, a line for each data set, backbone and loss, with ours where there are any."""
    head = ("data", "loss", *(f"{epochs} epochs" for epochs in EPOCHS))
    lines = [_line(*head), _rule(len(head))]
    for dataset, backbone, row, papers in _cells():
        mine = [cell for cell in cells if (cell.dataset, cell.backbone, cell.row) == (dataset, backbone, row)]
        numbers = []
        for epochs, paper in papers.items():
            ours = [f"**{in_words(cell.accuracy(epochs))}**" for cell in mine if cell.after(epochs)]
            numbers.append(" ".join([in_words(paper), *ours]))
        lines.append(_line(*_place(dataset, backbone, row), *numbers))
    return lines


def _cells() -> Iterator[tuple[str, str, str, dict[int, Accuracy]]]:
    """Yield data set, backbone, row and the paper's numbers; what is in both tables comes once."""
    seen = set()
    for table in TABLES.values():
        for (dataset, backbone), rows in table.items():
            for row, papers in rows.items():
                if (dataset, backbone, row) not in seen:
                    seen.add((dataset, backbone, row))
                    yield dataset, backbone, row, papers


def _place(dataset: str, backbone: str, row: str) -> tuple[str, str]:
    return f"{NAMES[dataset]}, {NAMES[backbone]}", ROWS[row].title


def _tries(runs: Sequence[Run], sources: _Sources) -> list[str]:
    head = ("run", "what differs", "epochs", "best", "last", "kNN", "from")
    lines = ["None of these is a cell of the paper's tables.\n\n", _line(*head), _rule(len(head))]
    for run in runs:
        for epochs, judged in run.content["evaluations"].items():
            numbers = (f"{judged[measure]:.2f}" for measure in ("probe_best", "probe_last", "knn"))
            lines.append(_line(_link(run), ", ".join(run.differences), epochs, *numbers, sources.of([run])))
    return lines


def _host_linear(runs: Sequence[Run]) -> list[str]:
    head = ("run", "epochs", "best", "last", "epochs of the evaluation", "image size")
    lines = [
        _line(
            _link(run),
            epochs,
            *(f"{judged[measure]:.2f}" for measure in ("best", "last")),
            str(judged["epochs"]),
            f"{judged['image_size']} px",
        )
        for run in runs
        for epochs, judged in run.content["host_linear"].items()
    ]
    if not lines:
        return []
    text = (
        "\n## solo-learn's own linear evaluation\n\nmain_linear.py on the same checkpoints: augmented images, features "
        "that are not standardised; images\nfrom a folder at 224 px, normalised as ImageNet. That is not the paper's "
        "evaluation.\n\n"
    )
    return [text, _line(*head), _rule(len(head)), *lines]


def _link(run: Run) -> str:
    content = run.content
    name = f"{content['host']} {content['dataset']} {content['backbone']} {content['loss']} seed {content['seed']}"
    return f"[{name}]({run.path.as_posix()})"


def in_words(accuracy: Accuracy | None) -> str:
    """Return one number of a table.

    >>> in_words(Accuracy(84.06, 0.3))
    '84.06 ± 0.30'
    """
    if accuracy is None:
        return ""
    return f"{accuracy.mean:.2f}" + ("" if accuracy.std is None else f" ± {accuracy.std:.2f}")


def _line(*columns: str) -> str:
    return f"| {' | '.join(columns)} |\n"


def _rule(n: int) -> str:
    return "|" + "---|" * n + "\n"

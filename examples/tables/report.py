"""results/README.md, from the JSON files beside it alone: the paper's tables with ours, and where ours come from."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tables.estimate import hardware
from tables.kept import Measure, Repetitions, Run, repetitions
from tables.paper import ROWS, TABLES, Accuracy

NAMES = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "stl10": "STL-10",
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
}
NONE = "–"
INTRODUCTION = """# The tables of the α-CL paper, theirs and ours

Written by `python examples/reproduce.py` from the JSON files in this folder, and from nothing else; do not edit.
Paper: Tian (2022), arXiv:2201.12680, Tables 1 and 2, mean ± standard deviation of 5 seeds.

All numbers are accuracies in % on the test images. *ours*: linear probe after the best of its 50 epochs, as the paper
reports it, mean ± sample standard deviation over the seeds; *difference*: ours - paper, in points; *last*: the probe
after its last epoch; *kNN*: 200 nearest neighbours. *from*: host, data, hardware and commit, [below](#from). – is a
cell without a result. Runs that differ from the paper's protocol are in none of these cells, but [apart](#tries).
"""


def markdown(runs: Sequence[Run], pictures: Iterable[Path] = ()) -> str:
    """Return the report.

    Args:
        runs: what is kept.
        pictures: to show, relative to the report.
    """
    cells = repetitions(runs)
    sources = _Sources()
    parts = [INTRODUCTION]
    for number in TABLES:
        parts += _table(number, cells, sources)
    parts += ["\n## Pictures\n", *(f"\n![{path.stem}]({path.as_posix()})\n" for path in pictures)] if pictures else []
    tries = [run for run in runs if run.differences]
    parts += _tries(tries, sources)
    parts += _host_linear(runs)
    parts += ["\n## From\n\n", *(sources.lines() or ["No runs yet.\n"])]
    return "".join(parts)


class _Sources:
    """Letters for where a number comes from, in the order in which they are asked for."""

    def __init__(self) -> None:
        self.letters: dict[tuple[str, ...], str] = {}

    def of(self, runs: Iterable[Run]) -> str:
        letters = {self.letters.setdefault(key, _letter(len(self.letters))) for key in map(_source, runs)}
        return ", ".join(sorted(letters, key=lambda letter: (len(letter), letter)))

    def lines(self) -> list[str]:
        if not self.letters:
            return []
        head = ("", "host", "data", "images", "hardware", "precision", "commit")
        return [_line(*head), _rule(len(head)), *(_line(letter, *key) for key, letter in self.letters.items())]


def _letter(number: int) -> str:
    """A, B, ..., Z, AA, AB, ..."""
    first, last = divmod(number, 26)
    return (_letter(first - 1) if first else "") + chr(ord("A") + last)


def _source(run: Run) -> tuple[str, ...]:
    content = run.content
    data = content["data"]
    counts = " + ".join(f"{data[split]:,} {split}" for split in ("train", "test", "unlabeled") if data[split])
    host = content["host"] + (f" {content['host_commit'][:10]}" if content.get("host_commit") else "")
    commits = sorted({_short_commit(here["commit"]) for here in content["environments"]})
    return (
        host,
        f"{data['source']}, sha256 {data['sha256'][:10]}",
        counts,
        hardware(content),
        content["settings"]["precision"],
        ", ".join(commits),
    )


def _short_commit(commit: str | None) -> str:
    return "unknown" if commit is None else commit[:10] + ("-dirty" if commit.endswith("-dirty") else "")


def _table(number: int, cells: Sequence[Repetitions], sources: _Sources) -> list[str]:
    head = ("loss", "epochs", "paper", "ours", "difference", "seeds", "last", "kNN", "from")
    parts = [f"\n## Table {number}\n"]
    for (dataset, backbone), rows in TABLES[number].items():
        parts += [f"\n### {NAMES[dataset]}, {NAMES[backbone]}\n\n", _line(*head), _rule(len(head))]
        for row, reported in rows.items():
            mine = [cell for cell in cells if (cell.dataset, cell.backbone, cell.row) == (dataset, backbone, row)]
            for epochs, paper in reported.items():
                found = [cell for cell in mine if cell.after(epochs)]
                start = (ROWS[row].title, str(epochs), in_words(paper))
                parts += [_line(*start, *_ours(cell, epochs, paper, sources)) for cell in found]
                if not found:
                    parts.append(_line(*start, *[NONE] * 6))
    return parts


def _ours(cell: Repetitions, epochs: int, paper: Accuracy, sources: _Sources) -> tuple[str, ...]:
    runs = cell.after(epochs)
    best = cell.accuracy(epochs)
    difference = NONE if best is None else f"{best.mean - paper.mean:+.2f}"
    seeds = ", ".join(f"[{run.content['seed']}]({run.path.as_posix()})" for run in runs)
    others: tuple[Measure, ...] = ("probe_last", "knn")
    return (
        in_words(best),
        difference,
        f"n = {len(runs)}: {seeds}",
        *(in_words(cell.accuracy(epochs, measure)) for measure in others),
        sources.of(runs),
    )


def _tries(runs: Sequence[Run], sources: _Sources) -> list[str]:
    title = "\n## Tries\n\n"
    if not runs:
        return [title, "None.\n"]
    head = ("run", "what differs", "epochs", "best", "last", "kNN", "from")
    lines = [title, "None of these is a cell of the paper's tables.\n\n", _line(*head), _rule(len(head))]
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
        return NONE
    return f"{accuracy.mean:.2f}" + ("" if accuracy.std is None else f" ± {accuracy.std:.2f}")


def _line(*columns: str) -> str:
    return f"| {' | '.join(columns)} |\n"


def _rule(n: int) -> str:
    return "|" + "---|" * n + "\n"

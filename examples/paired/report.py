"""The table of a study, on the terminal and as Markdown."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from paired.differences import Judged, compare
from paired.losses import BASELINE
from paired.records import Records
from paired.run import has_diverged
from provenance import write_text

REPORT = "README.md"
TRIED = "Tuning: probe on held-out training images (effective negatives)"
HEADINGS = (
    "effective\nnegatives", "probe\n%", "probe,\ndifference", "\nwins", "kNN\n%", "kNN,\ndifference", "\nwins"
)  # fmt: skip


def print_report(console: Console, records: Records, rows: list[Judged]) -> None:
    """Print one line for each row, the baseline first, then what was tried.

    Args:
        console: where to.
        records: of the study.
        rows: the judged rows, from `paired.differences.judged_rows`.
    """
    if rows:
        table = Table(title=_title(rows), box=box.SIMPLE_HEAD, padding=0, show_edge=False)
        table.add_column("loss")
        for heading in HEADINGS:
            table.add_column(heading, justify="right", no_wrap=True)
        for row in rows:
            table.add_row(f"{row.title}\n  {options_of(row)}", *_cells(row, rows[0]))
        console.print()
        console.print(table)
        if mixed := machines(rows):
            console.print(f"\n{mixed}", highlight=False)
    values = tried(records)
    if values:
        console.print(f"\n{TRIED}")
    for name, each in values.items():
        console.print(f"  {name}   {'   '.join(each)}", highlight=False)


def write_report(records: Records, rows: list[Judged], pictures: list[Path]) -> Path:
    """Write the same as Markdown beside the runs; return the file.

    Args:
        records: of the study.
        rows: the judged rows.
        pictures: to show, in the folder of the records.
    """
    parts = ["# A paired study of losses\n\nWritten by `examples/study.py` from the JSON files in this folder.\n"]
    if rows:
        headings = (" ".join(heading.split()) for heading in HEADINGS)
        parts += [f"\n{_title(rows)}.\n\n", *markdown([("loss", "options", *headings), ["---"] * (len(HEADINGS) + 2)])]
        parts += markdown((row.title, options_of(row), *_cells(row, rows[0])) for row in rows)
        parts += [f"\n{mixed}\n"] if (mixed := machines(rows)) else []
    parts += [f"\n![{picture.stem}]({picture.name})\n" for picture in pictures]
    values = tried(records)
    if values:
        parts += [f"\n{TRIED}.\n\n", *markdown([("loss", "tried"), ("---", "---")])]
        parts += markdown((name, ", ".join(each)) for name, each in values.items())
    path = records.folder / REPORT
    write_text(path, "".join(parts))
    return path


def markdown(rows: Iterable[Iterable[str]]) -> list[str]:
    """Return the lines of a table, each with its line end."""
    return [f"| {' | '.join(row)} |\n" for row in rows]


def machines(rows: list[Judged]) -> str:
    """Return which rows ran on which processor or GPU, if on several, whose rounding differs."""
    found: dict[str, list[str]] = {}
    for row in rows:
        name = f"{row.row} (paper)" if row.kind == "paper" else row.row
        for run in row.runs.values():
            part = "gpu" if run["protocol"]["device"] == "cuda" else "processor"
            titles = found.setdefault(run["environment"][part], [])
            titles += [name] if name not in titles else []
    each = "; ".join(f"{machine}: {', '.join(titles)}" for machine, titles in found.items())
    return f"Rows of different processors differ in rounding as well: {each}." if len(found) > 1 else ""


def _title(rows: list[Judged]) -> str:
    return f"Test images; differences to {rows[0].title} within a seed, in points, with 95 % intervals"


def _cells(row: Judged, baseline: Judged) -> list[str]:
    cells = [f"{row.average('effective_negatives'):.0f}"]
    for name in ("probe", "knn"):
        found = None if row is baseline else compare(row, baseline, name)
        cells.append(f"{row.average(name):.1f}")
        cells += ["", ""] if found is None else [found.text, f"{found.wins} of {found.n}"]
    return cells


def tuning_runs(records: Records) -> list[dict[str, Any]]:
    """Return the tuning runs, InfoNCE first, each row's by the values that were tried."""

    def key(content: dict[str, Any]) -> tuple[bool, str, list[tuple[float, str]], int]:
        values = content["loss"]["options"].values()
        return content["row"] != BASELINE, content["row"], [_sortable(value) for value in values], content["seed"]

    return sorted(records.of("tuning"), key=key)


def _sortable(value: object) -> tuple[float, str]:
    return (value, "") if isinstance(value, float) else (0.0, str(value))


def tried(records: Records) -> dict[str, list[str]]:
    """Return of each tuned row its values, each with accuracy on held-out training images and effective negatives."""
    lines: dict[str, list[str]] = {}
    for content in tuning_runs(records):
        options = _short(content["loss"]["options"], content["row"])
        number = content["effective_negatives"]
        shown = "diverged" if has_diverged(content) else f"{content['probe']:.1f} % ({number:.0f})"
        lines.setdefault(content["row"], []).append(f"{options or 'nothing to tune'}: {shown}")
    return lines


def options_of(row: Judged) -> str:
    """Return what a row was judged with, and how many of its runs diverged."""
    options = _short(dict(row.loss.options), row.row) or "its own defaults"
    diverged = sum(has_diverged(run) for run in row.runs.values())
    return f"{options}; {diverged} of {len(row.runs)} diverged, as good as a guess" if diverged else options


def _short(options: dict[str, object], row: str) -> str:
    """Return the options that the row's name does not have."""
    parts = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in options.items()]
    return ", ".join(part for part in parts if part not in row.partition(":")[2].split(","))

"""The table of a study on the terminal."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from paired.differences import Interval, Judged, compare
from paired.losses import BASELINE
from paired.records import Records

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
        console.print()
        console.print(_table(rows))
    for line in tried(records):
        console.print(line, highlight=False)


def _table(rows: list[Judged]) -> Table:
    baseline = rows[0]
    table = Table(
        title=f"Test images; differences to {baseline.title} within a seed, in points, with 95 % intervals",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    table.add_column("loss")
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        cells = [f"{row.title}\n  {_options(row)}", f"{row.average('effective_negatives'):.0f}"]
        for name in ("probe", "knn"):
            found = None if row is baseline else compare(row, baseline, name)
            cells += [
                f"{row.average(name):.1f}",
                difference(found),
                "" if found is None else f"{found.wins} of {found.n}",
            ]
        table.add_row(*cells)
    return table


def difference(found: Interval | None) -> str:
    """Return a difference for a table.

    >>> difference(Interval(1.25, 0.5, 3, 3))
    '+1.25 ± 0.50'
    """
    if found is None:
        return ""
    return f"{found.mean:+.2f}" if found.half is None else f"{found.mean:+.2f} ± {found.half:.2f}"


def tuning_runs(records: Records) -> list[dict[str, Any]]:
    """Return the tuning runs, InfoNCE first, each row's by the values that were tried."""

    def key(content: dict[str, Any]) -> tuple[bool, str, list[str], int]:
        values = content["loss"]["options"].values()
        return content["row"] != BASELINE, content["row"], [_sortable(value) for value in values], content["seed"]

    return sorted(records.of("tuning"), key=key)


def _sortable(value: object) -> str:
    return f"{value:020.6f}" if isinstance(value, float) else str(value)


def tried(records: Records) -> list[str]:
    """Return one line for each tuned row: its values, accuracy on held-out training images, effective negatives."""
    lines: dict[str, list[str]] = {}
    for content in tuning_runs(records):
        options = _short(content["loss"]["options"], content["row"])
        number = content["effective_negatives"]
        shown = "diverged" if number is None else f"{content['probe']:.1f} % ({number:.0f})"
        lines.setdefault(content["row"], []).append(f"{options or 'nothing to tune'}: {shown}")
    title = ["", "Tuning: probe on held-out training images (effective negatives)"] if lines else []
    return title + [f"  {row}   {'   '.join(values)}" for row, values in lines.items()]


def _options(row: Judged) -> str:
    return _short(dict(row.loss.options), row.row) or "its own defaults"


def _short(options: dict[str, object], row: str) -> str:
    """Return the options that the row's name does not have."""
    parts = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in options.items()]
    return ", ".join(part for part in parts if part not in row.partition(":")[2].split(","))

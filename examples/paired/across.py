"""One row against the baseline in several studies."""

from collections.abc import Sequence
from pathlib import Path

from paired.differences import Judged, compare, judged_rows
from paired.losses import BASELINE
from paired.pictures import compared, save
from paired.records import Records
from paired.report import markdown, options_of

HEADINGS = ("study", BASELINE, "{row}", "probe, difference", "wins", "kNN, difference", "wins")
DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def main(studies: Sequence[Path], row: str, output: Path | None) -> None:
    """Print a line for each study as Markdown, and draw the picture.

    Args:
        studies: their folders.
        row: to compare with the tuned baseline.
        output: file of the picture; None for none.

    Raises: ValueError if a study has not judged the two on a common seed.
    """
    pairs = [_pair(Records(folder), row) for folder in studies]
    headings = (heading.format(row=row) for heading in HEADINGS)
    print("".join(markdown([headings, ["---"] * len(HEADINGS), *(_cells(*pair) for pair in pairs)])), end="")
    if output is not None:
        save(output, compared(pairs, f"difference of {row} to {BASELINE} within a seed, points"))


def _pair(records: Records, name: str) -> tuple[str, Judged, Judged]:
    judged = judged_rows(records.of("tuned"))
    losses = [[row for row in judged if row.row == wanted] for wanted in (name, BASELINE)]
    if any(len(found) != 1 for found in losses) or not losses[0][0].runs.keys() & losses[1][0].runs.keys():
        raise ValueError(
            f"studies: expected {name} and {BASELINE}, each at one value, judged on a common seed, got other runs in "
            f"{records.folder}"
        )
    (row,), (baseline,) = losses
    run = next(iter(row.runs.values()))
    data, protocol = run["data"], run["protocol"]
    size = "" if data["image_size"] == 32 else f" at {data['image_size']} px"
    source = data["source"].removeprefix("image folder ") + size
    return f"{source}, {protocol['epochs']} epochs, {DEVICES[protocol['device']]}", row, baseline


def _cells(title: str, row: Judged, baseline: Judged) -> list[str]:
    cells = [title, options_of(baseline), options_of(row)]
    for name in ("probe", "knn"):
        found = compare(row, baseline, name)
        assert found is not None  # they share a seed
        cells += [found.text, f"{found.wins} of {found.n}"]
    return cells

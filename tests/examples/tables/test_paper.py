"""The paper's tables as data: whole, the same number wherever it stands, and each row the loss that it says."""

import re
from pathlib import Path

import pytest

from recipe import protocol
from recipe.settings import Settings
from tables.paper import ROWS, TABLES, reported

EXAMPLES = Path(__file__).parents[3] / "examples"
PARTS = sorted({part for table in TABLES.values() for part in table})


def test_the_tables_have_the_papers_shape():
    assert {part: list(rows) for part, rows in TABLES[1].items()} == {
        ("cifar10", "resnet18"): list(ROWS),
        ("stl10", "resnet18"): list(ROWS),
    }
    assert {part: list(rows) for part, rows in TABLES[2].items()} == {
        (dataset, backbone): ["infonce", "direct"]
        for dataset in ("cifar100", "cifar10", "stl10")
        for backbone in ("resnet18", "resnet50")
    }
    for table in TABLES.values():
        for rows in table.values():
            assert all(tuple(row) == protocol.EPOCHS for row in rows.values())


def test_sums_of_the_columns():
    """Means and standard deviations of each table, added up from the text of the paper: no number is misread."""
    sums = {
        number: (
            round(sum(a.mean for rows in table.values() for row in rows.values() for a in row.values()), 2),
            round(sum(a.std for rows in table.values() for row in rows.values() for a in row.values()), 2),
        )
        for number, table in TABLES.items()
    }
    assert sums == {1: SUM_1, 2: SUM_2}


SUM_1 = (3415.64, 20.25)
SUM_2 = (2800.28, 8.19)


@pytest.mark.parametrize(("dataset", "backbone"), PARTS)
def test_the_docstring_of_a_recipe_repeats_the_papers_numbers(dataset, backbone):
    text = (EXAMPLES / f"{dataset}_{backbone}.py").read_text(encoding="utf-8")
    found = {
        row: [(float(mean), float(std)) for mean, std in re.findall(r"(\d+\.\d+) ± (\d+\.\d+)", numbers)]
        for row, numbers in re.findall(r"^    (infonce|direct) +(\d.*)$", text, flags=re.MULTILINE)
    }
    assert found == {
        row: [tuple(a) for a in reported(dataset, backbone, row).values()] for row in ("infonce", "direct")
    }


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_a_row_is_the_loss_that_it_says(row):
    settings = Settings(**row.options)
    assert settings.build_strategy() == row.strategy
    assert settings.criterion().detach_alpha == row.detach_alpha


def test_rows_have_labels_of_their_own():
    assert len({Settings(**row.options).label for row in ROWS.values()}) == len(ROWS) == 7


def test_what_the_paper_does_not_report_is_empty():
    assert reported("cifar10", "resnet18", "square")[300] == (86.62, 0.17)
    assert reported("cifar10", "resnet50", "square") == {}
    assert reported("cifar100", "vit_tiny_patch16_224", "direct") == {}

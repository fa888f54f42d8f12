"""The table of docs/reliability.md is written from a record, and from nothing else."""

from pathlib import Path

import pytest
from reliability.report import END, START, rewrite, table

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
RECORD = {
    "cases": [["finite", "direct", 1200, 0], ["finite", "kcl", 3, 1], ["order", "direct", 7, 0]],
    "failed tests": 1,
    "minutes": 2.5,
    "date": "2000-01-02",
    "commit": "abc",
    "python": "3.12",
    "torch": "2.9",
    "hypothesis": "6.1",
    "cpu": "a CPU",
    "system": "Linux",
}


def test_the_table_sums_over_strategies():
    lines = table(RECORD).splitlines()
    assert lines[2:5] == ["| finite | 2 | 1,203 | 1 |", "| order | 1 | 7 | 0 |", "| all | | 1,210 | 1 |"]
    assert "commit abc, in 2.5 minutes" in lines[-1]


def test_the_page_has_its_table_replaced_and_the_rest_kept():
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(START)
    assert rewrite(page, RECORD) == f"{before}{START}\n{table(RECORD)}\n{END}{rest.partition(END)[2]}"


def test_a_page_without_the_marks_is_refused():
    with pytest.raises(ValueError, match=r"page: expected the lines .*, got a page without them"):
        rewrite("no marks", RECORD)

"""Rewrite the table of docs/reliability.md from a record: ``python report.py RECORD.json PAGE.md``."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

START, END = "<!-- table: written by tests/reliability/report.py -->", "<!-- end of table -->"


def table(record: dict[str, Any]) -> str:
    """The claims with their number of strategies, cases and failures, and where they were tried."""
    claims: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for claim, subject, tried, failed in record["cases"]:
        claims[claim].append((subject, tried, failed))
    rows = ["| property | strategies | cases tried | failures |", "|---|---:|---:|---:|"]
    for claim in sorted(claims, key=lambda claim: -sum(tried for _, tried, _ in claims[claim])):
        subjects = claims[claim]
        tried, failed = (sum(column) for column in list(zip(*subjects, strict=True))[1:])
        rows.append(f"| {claim} | {len(subjects)} | {tried:,} | {failed:,} |")
    tried, failed = (sum(case[k] for case in record["cases"]) for k in (2, 3))
    rows.append(f"| all | | {tried:,} | {failed:,} |")
    where = (
        f"Run on {record['date']} at commit {record['commit']}, in {record['minutes']} minutes on one core of "
        f"{record['cpu']} ({record['system']}), with Python {record['python']}, PyTorch {record['torch']}, hypothesis "
        f"{record['hypothesis']}; {record['failed tests']} tests failed."
    )
    return "\n".join([*rows, "", where])


def rewrite(page: str, record: dict[str, Any]) -> str:
    """The page with a new table between its two marks."""
    before, start, rest = page.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise ValueError(f"page: expected the lines {START!r} and {END!r}, got a page without them")
    return f"{before}{start}\n{table(record)}\n{end}{after}"


if __name__ == "__main__":
    record_file, page_file = map(Path, sys.argv[1:])
    page_file.write_text(rewrite(page_file.read_text(), json.loads(record_file.read_text())))

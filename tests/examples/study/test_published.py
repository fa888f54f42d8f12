"""What the documents say of the published study is what its runs say."""

import json
import re
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from paired import across, study
from paired.differences import judged_rows
from paired.records import Records
from paired.report import machines

ROOT = Path(__file__).parents[3]
PUBLISHED = ROOT / "results" / "study"
PAGE = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")


def rows(text: str) -> list[str]:
    return re.findall(r"^\| .*\|$", text, flags=re.MULTILINE)


STUDIES = ["study", "study_gpu", "study_cifar100", "study_60_epochs"]


@pytest.mark.parametrize("name", [*STUDIES, "study_amd"])
def test_the_report_is_that_of_the_runs(name, tmp_path):
    shutil.copytree(ROOT / "results" / name, tmp_path / "study")
    study.report(Records(tmp_path / "study"), Console(quiet=True))
    assert (tmp_path / "study" / "README.md").read_text() == (ROOT / "results" / name / "README.md").read_text()


@pytest.mark.parametrize("name", [*STUDIES, "study_amd"])
def test_the_page_has_the_tables_of_the_report(name):
    report = rows((ROOT / "results" / name / "README.md").read_text(encoding="utf-8"))
    assert report
    assert [row for row in report if row not in PAGE] == []


def test_the_page_has_the_line_of_every_study(capsys):
    across.main([ROOT / "results" / name for name in STUDIES], "square", None)
    lines = rows(capsys.readouterr().out)
    assert len(lines) == 2 + len(STUDIES)
    assert [line for line in lines if line not in PAGE] == []


def test_a_report_says_which_rows_ran_on_another_machine():
    judged = judged_rows(Records(PUBLISHED).of("tuned"))
    for run in judged[-1].runs.values():
        run["environment"]["processor"] = "another"
    assert machines(judged).endswith(f"; another: {judged[-1].row}.")
    next(iter(judged[0].runs.values()))["environment"]["processor"] = "another"
    assert f"another: infonce, {judged[-1].row}; " in machines(judged)


def test_a_row_that_a_study_did_not_judge_is_named():
    with pytest.raises(ValueError, match="studies: expected uniform and infonce, each at one value,"):
        across.main([PUBLISHED], "uniform", None)


def test_the_readme_shows_the_judged_rows():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = (PUBLISHED / "README.md").read_text(encoding="utf-8").split("![")[0]
    judged = [row for row in rows(table) if "---" not in row and "as in the paper" not in row][1:]
    assert judged
    assert [row for row in judged if row not in readme] == []


def test_the_table_of_the_gradient_through_alpha_is_that_of_its_json():
    trainings = json.loads((ROOT / "docs" / "theory" / "through_alpha.json").read_text(encoding="utf-8"))["trainings"]
    for found in trainings:
        numbers = f"{found['spread']:.3f} | {found['spread_over_tau']:.2f} | {found['effective_negatives']:.0f}"
        assert f"| {found['alpha']} | {found['tau']:g} | {numbers} |" in PAGE


def test_the_distances_on_the_page_are_those_of_the_runs():
    section = PAGE.partition("### Why InfoNCE stays at fifteen")[2].partition("\n## ")[0]
    table = [row.strip("| ").split(" | ") for row in rows(section)][2:]
    assert len(table) > 5
    for loss, tau, *shown in table:
        run = json.loads((PUBLISHED / "runs" / "tuning" / f"{loss}-tau={tau}-seed0.json").read_text(encoding="utf-8"))
        last = run["curve"][-1]
        assert shown == [f"{last['d2_pos']:.2f}", f"{last['d2_neg']:.2f}", f"{last['effective_negatives']:.0f}"]


def test_rows_that_are_compared_ran_on_the_same_machine():
    for name in (*STUDIES, "study_amd"):
        assert machines(judged_rows(Records(ROOT / "results" / name).of("tuned"))) == ""


def test_the_pictures_are_those_of_the_study():
    pages = {"differences.png": "study", "sharpness.png": "study", "differences_amd.png": "study_amd"}
    for page, name in pages.items():
        picture = ROOT / "results" / name / page.replace("_amd", "")
        assert (ROOT / "docs" / "evidence" / page).read_bytes() == picture.read_bytes()

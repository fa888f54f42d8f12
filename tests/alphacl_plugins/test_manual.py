"""The snippets of the README and of the manual's first pages run as they are pasted, and print something."""

import json
import re
from pathlib import Path

import pytest
import torch

from alphacl_plugins import build_strategy, strategy_names
from alphacl_plugins.options import exponent_of
from alphacl_plugins.sharpness import sharpness_of

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": (),
    "docs/get-started.md": (),
    "docs/choose.md": ("matplotlib",),
    "docs/pytorch.md": (),
    "docs/sharp.md": (),
    "docs/own-strategy.md": ("matplotlib",),
    "docs/contrastive-pca.md": ("sklearn",),
}


@pytest.mark.parametrize("page", PAGES)
def test_snippets_run_and_print(page, tmp_path, monkeypatch, capsys):
    for package in PAGES[page]:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names = {}
    for code in blocks:
        exec(compile(code, page, "exec"), names)  # a later snippet of a page may use an earlier one
        assert capsys.readouterr().out or list(tmp_path.glob("*.png"))


def test_the_table_of_strategies_is_that_of_the_code():
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)`(.*)$", page, re.MULTILINE))
    assert sorted(rows) == sorted(strategy_names())
    for name, row in rows.items():
        assert f"| {sharpness_of(name).effective:.0f} |" in row
        given = re.match(r"<br>`(.*?)`", row)
        options = eval(f"dict({given[1]})") if given else {}
        assert build_strategy(name) == build_strategy(name, **options), name


def test_the_strategies_of_the_ring_and_the_kernel_are_those_of_the_code():
    built = {name: build_strategy(name) for name in strategy_names()}
    ring = (ROOT / "docs" / "many-processes.md").read_text(encoding="utf-8")
    (others,) = re.findall(r"all registered strategies but (.*?) \(", ring, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", others)) == {name for name, one in built.items() if not one.separable}
    kernel = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    (named,) = re.findall(r"It covers strategies with weights .*?\((`infonce`.*?)\)", kernel, re.DOTALL)
    assert set(re.findall(r"`(\w+)`", named)) == {name for name, one in built.items() if exponent_of(one) is not None}


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_the_first_screen_counts_the_strategies(page):
    assert f"{len(strategy_names())} weightings by name" in (ROOT / page).read_text(encoding="utf-8")


def test_the_first_trained_model_is_that_of_its_json():
    page = (ROOT / "docs" / "get-started.md").read_text(encoding="utf-8")
    summary = json.loads((ROOT / "docs" / "quickstart.json").read_text(encoding="utf-8"))["summary"]
    for method, scores in summary.items():
        probe = scores["probe_all"]
        assert f"| {method} | {probe['mean']:.1f} ± {probe['standard_error']:.1f} % |" in page


@pytest.mark.parametrize(
    ("loss", "tau"),
    [("entropy", tau) for tau in (0.02, 0.05, 0.1, 0.5)] + [("square", tau) for tau in (0.16, 0.5, 1.6, 5.0)],
)
def test_the_table_of_sharp_weights_is_that_of_the_code(loss, tau):
    quantiles = torch.special.ndtri((torch.arange(254, dtype=torch.float64) + 0.5) / 254)
    weights = build_strategy(loss, tau=tau)(torch.tensor([0.2]), (1 - 0.25 * quantiles)[None]).neg
    number, effective = (weights > 0).sum(), torch.special.entr(weights).sum().exp()
    page = (ROOT / "docs" / "sharp.md").read_text(encoding="utf-8")
    assert re.search(rf"^\| `{loss}` \| {tau:g}\b.* \| {number} \| {effective:.0f} \|$", page, re.MULTILINE), (
        number,
        effective,
    )

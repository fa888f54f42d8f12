"""The manual's reference has an entry for everything that a package exports."""

import re
from pathlib import Path

import pytest

import alphacl_plugins
from alphacl_plugins import build_strategy, metrics, spectral, strategies, strategy_names

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
ENTRIES = {
    entry
    for page in REFERENCE.glob("*.md")
    for entry in re.findall(r"^::: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("module", [metrics, spectral], ids=lambda module: module.__name__)
def test_every_function_of_a_module_has_an_entry(module):
    assert {f"{module.__name__}.{name}" for name in module.__all__} <= ENTRIES


def test_every_export_of_the_core_has_an_entry():
    modules = {"metrics", "spectral", "strategies"}
    assert {f"alphacl_plugins.{name}" for name in set(alphacl_plugins.__all__) - modules} <= ENTRIES


@pytest.mark.parametrize("name", strategy_names())
def test_every_registered_strategy_has_an_entry(name):
    assert f"{strategies.__name__}.{type(build_strategy(name)).__name__}" in ENTRIES


def test_every_page_is_in_the_navigation():
    navigation = (REFERENCE.parents[1] / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name for page in REFERENCE.glob("*.md") if f"reference/{page.name}" not in navigation] == []

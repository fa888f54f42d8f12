"""A host with another interface is an error that says which version was tried."""

import importlib
import sys

import pytest


@pytest.mark.parametrize(
    ("adapter", "host", "where", "name"),
    [
        ("alphacl_metric_learning", "pytorch_metric_learning", "losses", "GenericPairLoss"),
        (
            "alphacl_sentence_transformers",
            "sentence_transformers",
            "sentence_transformer.losses",
            "MultipleNegativesRankingLoss",
        ),
    ],
)
def test_another_interface_names_the_version_that_was_tried(monkeypatch, adapter, host, where, name):
    pytest.importorskip(host)
    ours, losses = importlib.import_module(adapter), importlib.import_module(f"{host}.{where}")
    monkeypatch.setattr(losses, name, type(name, (), {"__init__": lambda self: None}))
    monkeypatch.delitem(sys.modules, adapter)
    with pytest.raises(ImportError, match=rf"{adapter}: expected .* {ours.TRIED}, the version .* has no option"):
        importlib.import_module(adapter)

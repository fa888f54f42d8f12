"""The Python of the manual's page on hosts runs as it stands there, with tiny models that have random weights."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from selection import slow_but
from torch import nn

PAGE = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"^```python\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    for title, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
}
TEXTS = [f"sentence {word} of a text" for word in ("one", "two", "three", "four")]


def sentence_transformers(folder: Path) -> dict[str, Any]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tiny_hosts import write_bert

    write_bert(folder / "bert", TEXTS)
    return {
        "model": SentenceTransformer(modules=[Transformer(str(folder / "bert")), Pooling(16)], device="cpu"),
        "train_dataset": Dataset.from_dict({"anchor": TEXTS, "positive": TEXTS[::-1], "negative": TEXTS}),
        "arguments": SentenceTransformerTrainingArguments(
            str(folder), max_steps=2, per_device_train_batch_size=2, report_to="none", save_strategy="no", use_cpu=True
        ),
    }


def metric_learning(folder: Path) -> dict[str, Any]:
    first, second = (torch.randn(12, 5, requires_grad=True) for _ in range(2))
    return {
        "embeddings": first,
        "embeddings_of_another_view": second,
        "labels": torch.arange(12) % 3,
    }


def open_clip(folder: Path) -> dict[str, Any]:
    from tiny_hosts import open_clip_model

    return {"clip": open_clip_model(), "batches": [(torch.rand(4, 3, 8, 8), torch.randint(1, 50, (4, 6)))] * 2}


def transformers(folder: Path) -> dict[str, Any]:
    from tiny_hosts import hugging_face_clip
    from transformers import TrainingArguments

    samples = [{"pixel_values": torch.rand(3, 8, 8), "input_ids": torch.randint(3, 50, (6,))} for _ in range(4)]
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=2, report_to="none", save_strategy="no", use_cpu=True
    )
    return {"hf_clip": hugging_face_clip(), "hf_dataset": samples, "hf_arguments": arguments}


def stable_pretraining(folder: Path) -> dict[str, Any]:
    view, other = torch.rand(2, 4, 3, 16, 16)
    return {
        "backbone": nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 16)),
        "view": view,
        "other_view": other,
    }


def loop(folder: Path) -> dict[str, Any]:
    view, other = torch.rand(2, 4, 6)
    return {"network": nn.Linear(6, 3), "view": view, "other_view": other}


HOSTS = {
    "sentence-transformers": (sentence_transformers, ["sentence_transformers", "datasets", "accelerate"]),
    "pytorch-metric-learning": (metric_learning, ["pytorch_metric_learning"]),
    "open_clip": (open_clip, ["open_clip"]),
    "CLIP in transformers": (transformers, ["transformers", "accelerate"]),
    "stable-pretraining": (stable_pretraining, ["stable_pretraining"]),
    "accelerate": (loop, ["accelerate"]),
    "Lightning Fabric": (loop, ["lightning"]),
}
QUICK = ("pytorch-metric-learning", "Lightning Fabric")


def test_every_snippet_is_of_a_host_that_is_tried():
    assert {title for title, blocks in SECTIONS.items() if blocks} == HOSTS.keys()


@pytest.mark.parametrize("title", slow_but(QUICK, HOSTS))
@pytest.mark.filterwarnings("default")  # of the hosts
def test_the_snippets_of_a_host_run_one_after_the_other(title, tmp_path, monkeypatch):
    begin, needed = HOSTS[title]
    for host in needed:
        pytest.importorskip(host, reason=f"needs {host}")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = begin(tmp_path)
    given = [x for x in names.values() if isinstance(x, nn.Module | torch.Tensor)]
    learns = [p for x in given for p in (x.parameters() if isinstance(x, nn.Module) else [x]) if p.requires_grad]
    before = [p.detach().clone() for p in learns]
    for code in SECTIONS[title]:
        exec(compile(code, "hosts.md", "exec"), names)
    assert all(p.isfinite().all() for p in learns)
    assert any(p.grad is not None or not torch.equal(p, old) for p, old in zip(learns, before, strict=True))

"""Models of the hosts that are small, have random weights, and need no download."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_bert(folder: Path, texts: Sequence[str], width: int = 16, dropout: float = 0.1) -> None:
    """Write a BERT and its tokenizer, as sentence-transformers reads them from a folder."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    words = dict.fromkeys(word for text in texts for word in text.lower().split())
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    BertTokenizerFast(vocab=vocabulary, model_max_length=16).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * width,
        max_position_embeddings=16,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    BertModel(config).save_pretrained(folder)


def sentence_model(folder: Path, words: Sequence[str], *, seed: int = 0, width: int = 16, dropout: float = 0.0) -> Any:
    """Return a SentenceTransformer of one layer that knows some words."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        write_bert(folder, words, width, dropout)
    return SentenceTransformer(modules=[Transformer(str(folder)), Pooling(width)], device="cpu")


def open_clip_model(**options: Any) -> Any:
    """Return open_clip's CLIP for 8x8 pixels and 6 tokens below 50."""
    import open_clip

    vision = {"image_size": 8, "patch_size": 4, "width": 16, "layers": 1, "head_width": 8}
    text = {"context_length": 6, "vocab_size": 50, "width": 16, "layers": 1, "heads": 2}
    return open_clip.CLIP(embed_dim=8, vision_cfg=vision, text_cfg=text, **options)


def hugging_face_clip() -> Any:
    """Return transformers' CLIP for 8x8 pixels and 6 tokens below 50."""
    from transformers import CLIPConfig, CLIPModel

    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shape, "vocab_size": 50, "max_position_embeddings": 6, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**shape, "image_size": 8, "patch_size": 4}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))

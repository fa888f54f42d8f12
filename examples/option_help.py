"""What the help of an option says beside its description: names to choose from, and defaults that depend on others."""

from typing import Annotated, Any

import tyro

LR: Any = tyro.conf.arg(aliases=["--lr"])
"""Other names of a learning rate."""


def default(text: str) -> Any:
    """Describe a default that stands for another value, in place of "(default: None)"."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {text})")


def _with_names(default: Any) -> str:
    from alphacl_plugins import strategy_names

    return f"(default: {default}; registered: {', '.join(strategy_names())})"


StrategyName = Annotated[str, tyro.conf.arg(help_behavior_hint=_with_names)]
"""A strategy; the help lists the registered ones."""
StrategyNames = Annotated[tuple[str, ...], tyro.conf.arg(help_behavior_hint=_with_names)]

"""What some strategies have to see of a batch before they weigh its pairs: its positives, or how sharp α is on it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alphacl_plugins.agreement import gather_rows
from alphacl_plugins.distributed import mean_of_ranks
from alphacl_plugins.engines.two_pass import TwoPass
from alphacl_plugins.pairs import Batch
from alphacl_plugins.statistics import statistics_of
from alphacl_plugins.strategies import Calibrated, Strategy
from alphacl_plugins.strategies.guarded import plain
from alphacl_plugins.strategies.masked import learnable_of


def in_batch(loss: Any, batch: Batch, *, in_tiles: bool = False, detach: bool = True) -> Strategy:
    """Return the strategy of a loss as it is in a batch; a `Calibrated` one finds its τ on the first to train with.

    Args:
        loss: whose options hold; every rank of its group takes part.
        batch: of this rank in a ring, else of all.
        in_tiles: whether the engine is `TwoPass`.
        detach: as for `plain`.
    """
    kept, positives = learnable_of(loss.strategy), None

    def ready(strategy: Strategy) -> Strategy:
        nonlocal positives
        if not strategy.uses_batch:
            return strategy
        positives = _positives(loss, batch) if positives is None else positives
        return strategy.on_batch(*positives)

    if not isinstance(kept, Calibrated) or kept.is_calibrated:
        return ready(plain(loss.strategy, detach=detach))
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor(batch.rows)  # what is kept would be one, too
    trains = loss.training and torch.is_grad_enabled() and not wrapped
    group = loss.process_group if trains else loss.gathering_group()

    def share_at(options: dict[str, Tensor]) -> Tensor:
        strategy: Any = ready(plain(loss.strategy, at=options))
        engine = TwoPass.of(loss, strategy, batch) if in_tiles else None
        if engine is not None:
            engine(batch, with_gradient=False)
        stats = statistics_of(strategy, engine or batch)
        entropy = mean_of_ranks(stats["alpha_entropy"], group)
        return entropy.exp() * (stats["effective_negatives"] > 0) / mean_of_ranks(stats["negatives"], group)

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # many evaluations, once
    @torch.no_grad()
    def calibrated() -> Tensor:
        tau = kept.find(share_at, strict=trains)
        if trains:
            kept.tau = tau
        return tau

    return ready(plain(loss.strategy, at={"tau": calibrated()}))


@torch.no_grad()
def _positives(loss: Any, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Measure the views of each sample against each other, ``[M, V - 1]``, with weights ``[M]``, of all ranks."""
    if batch.views.shape[0] == 1:
        raise ValueError(
            f"z_aug: expected another view with {loss.strategy!r}, which needs a mean over views, got None"
        )
    d2 = batch.other_views(labelled=True)[1]
    assert d2 is not None  # as there are no labels
    group = loss.gathering_group()
    weights = None if batch.weights is None else gather_rows("sample_weight", batch.weights[:, None], group)[:, 0]
    return gather_rows("z", d2, group), weights

"""What a call may say of pairs beyond views, labels and a queue: checked, gathered, brought into the form `Said`."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad

from alphacl_plugins.agreement import raise_together
from alphacl_plugins.call_checks import shape_problem_of
from alphacl_plugins.distributed import (
    gather,
    gather_uneven,
    mean_of_ranks,
    numbers_of_ranks,
    world_size,
)
from alphacl_plugins.rules import NO_CLASS, Rules, Said


class PairArguments(TypedDict, total=False):
    """Keywords of a loss's call that say who is compared with whom; each may be left out, or None.

    Attributes:
        queue_labels: classes ``[Q]`` of the queue, -1 for none; rows of the anchor's class are positives.
        extra_negatives: with gradient: ``[C, D]`` of every anchor (gathered; C may differ between ranks), or
            ``[N, H, D]``, of the anchors of sample i alone (not gathered).
        exclude: integer ids ``[N]``, ``[N + C]`` or ``[N + C + Q]``, which mean the same on every rank: different
            samples of one id are neither positives nor negatives of each other; -1 is no id. Or a bool mask
            ``[M, K]``, True where a column is no negative; positives stay.
        count: how often a negative counts, >= 0, without gradient: ``[N]`` of each sample, in every view, ``[K]``,
            ``[M, K]``, or (``[M]`` or ``[N]``, ``[K]``) for their product. A row is what it would be with copies of the
            negative; 0 excludes. A bool mask for strategies that cannot count.
        sample_weight: weights ``[N]`` or ``[M]`` of the losses: their mean is ``Σ w l / Σ w`` over all ranks that
            gather; with reduction "none" they are ``w l``.

    Columns are those of ``pair_weights(...).neg``: views, extra negatives, queue; K counts those of all ranks, and each
    rank passes its own M rows.
    """

    queue_labels: Tensor | None
    extra_negatives: Tensor | None
    exclude: Tensor | None
    count: Tensor | tuple[Tensor, Tensor] | None
    sample_weight: Tensor | None


class Call(NamedTuple):
    """The keywords of a call, as they came."""

    labels: Any = None
    queue: Any = None
    queue_labels: Any = None
    extra_negatives: Any = None
    exclude: Any = None
    count: Any = None
    sample_weight: Any = None

    @staticmethod
    def of(labels: Any, queue: Any, pairs: Any) -> Call:
        """Return a call.

        Raises:
            TypeError: a keyword is none of `PairArguments`.
        """
        if unknown := [name for name in pairs if name not in Call._fields]:
            raise TypeError(f"{unknown[0]}: expected a keyword among {', '.join(Call._fields)}, got this one")
        return Call(labels, queue, **pairs)

    def kind(self, n: int) -> int:
        """Return a number that differs where the kinds of arguments for n samples differ, for ranks to compare."""
        code = 0
        for value in self[2:]:
            of_pair = isinstance(value, tuple)
            code = 100 * code + (0 if value is None else 1 + 2 * (value[0] if of_pair else value).ndim + of_pair)
            if isinstance(value, Tensor):
                code += 20 * (value.dtype == torch.bool) + 40 * (value is self.count and value.shape[:1] == (n,))
        return code


class Sizes(NamedTuple):
    """Sizes of a batch: of this rank but for the columns."""

    samples: int  # N
    anchors: int  # M
    extra: int  # C, extra negatives of every anchor; of all ranks where they are gathered
    of_sample: int  # H, extra negatives of a sample alone
    queue: int  # Q
    columns: int  # K, of all ranks


def more_of(
    loss: Any,
    call: Call,
    rows: Tensor,
    shape: tuple[int, ...],
    n: int,
    extra: Any,
    labels: Any,
    rules: Rules,
    across: Any,
    around: Any,
    of_views: Any,
) -> tuple[Tensor, Tensor | None, Said, Tensor | None]:
    """Add what a call says beyond views and queue to the rows ``[V n, D]`` and labels ``[n]``, gathered or local.

    ``across`` is the group that gathers, ``around`` that of a ring, ``of_views`` the one that has gathered the views.

    Returns:
        rows with extra negatives, labels as the rules read them, what else is said, weights of the anchors.
    """
    n_views, n_all, _ = shape
    n_own = extra.shape[1] if extra is not None and extra.ndim == 3 else 0
    extra = extra if extra is None or loss.l2_normalize else nan_where_too_long(extra)
    rows, real = _add_extra(rows, extra, across, around)
    n_extra = rows.shape[0] - n_views * n_all - n_own * n
    if labels is None and rules.others_too:
        labels = torch.full((n_all,), NO_CLASS, device=rows.device)
    labels = _labels_of(call, labels, loss.ignore_label, n_extra)
    column_views = {"both": n_views, "same": 1, "cross": n_views - 1, "queue": 0}[rules.negatives]
    column_views = n_views if labels is not None else column_views
    n_queue = 0 if call.queue is None else call.queue.shape[0]
    columns = column_views * n_all * len(real) + sum(real) + n_own + n_queue
    sizes = Sizes(n, n * (n_views if loss.symmetric else 1), n_extra, n_own, n_queue, columns)
    raise_together(shape_problem_of(call, sizes), rows.device, loss.gathering_group())
    said = _said_of(call, sizes, real, rows.dtype, across, of_views)
    return rows, labels, said, _anchor_weights(call, sizes, rows.dtype)


def nan_where_too_long(rows: Tensor) -> Tensor:
    """Return rows ``[..., D]``, NaN where a squared length is beyond the dtype: +inf would read as an excluded pair."""
    return rows + 0 * rows.square().sum(dim=-1, keepdim=True)


def _add_extra(rows: Tensor, extra: Tensor | None, across: Any, around: Any) -> tuple[Tensor, tuple[int, ...]]:
    """Put extra negatives behind the rows of the views, ``[R, D]``; in a ring as many on every rank.

    Returns:
        all rows; how many of the extra ones are real, on each rank of a ring.
    """
    if extra is None or extra.ndim == 3:
        return rows if extra is None else torch.cat([rows, extra.flatten(0, 1)]), (0,) * world_size(around)
    extra = gather_uneven(extra, across)
    real = numbers_of_ranks(len(extra), rows.device, around)
    return torch.cat([rows, pad(extra, (0, 0, 0, max(real) - len(extra)))]), real


def _labels_of(call: Call, labels: Tensor | None, ignored: int | None, extra: int) -> Tensor | None:
    """Return the classes ``[n]`` or ``[n + C + Q]`` as the rules read them, given those of the samples."""
    if labels is None:
        return None
    queued = call.queue_labels
    if queued is not None:
        queued = queued.long().masked_fill(queued == -1, NO_CLASS)
        labels = torch.cat([labels, labels.new_full((extra,), NO_CLASS), queued])
    return labels if ignored is None else labels.masked_fill(labels == ignored, NO_CLASS)


def _said_of(call: Call, sizes: Sizes, real: tuple[int, ...], dtype: torch.dtype, across: Any, of_views: Any) -> Said:
    """Return what a call says of pairs, for the rows that are at hand."""
    n, m, n_extra, _, _, k = sizes
    in_rows = sum(real) if len(real) == 1 else max(real)
    found: dict[str, Any] = {}

    def gathered(x: Tensor) -> Tensor:
        return gather(x.reshape(1, -1, 1), of_views).flatten()

    exclude, count = call.exclude, call.count
    if exclude is not None and exclude.dtype == torch.bool:
        found["exclude"] = exclude
    elif exclude is not None:
        exclude, mine = exclude.long(), call.extra_negatives.shape[0] if n_extra else 0
        of_extra = exclude[n : n + mine]
        of_extra = pad(of_extra, (0, mine - len(of_extra)), value=-1)
        of_extra = gather_uneven(of_extra[:, None], across)[:, 0] if n_extra else of_extra
        of_extra = pad(of_extra, (0, in_rows - len(of_extra)), value=-1)
        found["ids"] = torch.cat([gathered(exclude[:n]), of_extra, exclude[n + mine :]])
    if isinstance(count, tuple):
        rows, columns = count
        found |= {"anchor_counts": rows.repeat(m // len(rows)), "column_counts": columns}
    elif count is not None and count.ndim == 2:
        found["times"] = count
    elif count is not None:
        of_columns = count.shape[0] == k
        found |= {"column_counts": count} if of_columns else {"counts": gathered(count.to(dtype))}
    for name in {"counts", "anchor_counts", "column_counts", "times"} & set(found):
        found[name] = found[name].detach().to(dtype)
    return Said(in_rows, sizes.of_sample, real, **found)


def _anchor_weights(call: Call, sizes: Sizes, dtype: torch.dtype) -> Tensor | None:
    """Return the weight of each anchor in the mean, ``[M]``."""
    weights = call.sample_weight
    if weights is None:
        return None
    return weights.detach().to(dtype).repeat(sizes.anchors // len(weights))  # type: ignore[no-any-return]


def share_of(found: Tensor | None, weights: Tensor | None, group: Any) -> float | Tensor:
    """Return M over the total weight of the anchors that have a positive; the total is the mean over ranks.

    Args:
        found: 1 for each anchor that has a positive, else 0, ``[M]``; None for 1.
        weights: of the anchors, ``[M]``; None for 1.
        group: the ranks that share a batch.
    """
    if found is None and weights is None:
        return 1.0
    counted: Any = weights if found is None else found if weights is None else found * weights
    total = mean_of_ranks(counted.sum(), group)
    return torch.where(total > 0, counted.shape[0] / total, 0.0)

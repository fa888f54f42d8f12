"""What a call may say of pairs beyond views, labels and a queue: checked, gathered, brought into the form `Said`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import pad

from alphacl_plugins.checks import check_labels, check_width
from alphacl_plugins.distributed import gather, gather_uneven, mean_of_ranks, numbers_of_ranks, world_size
from alphacl_plugins.rules import NO_CLASS, Rules, Said


class PairArguments(TypedDict, total=False):
    """Keywords of a loss's call that say who is compared with whom.

    Args:
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

    @property
    def kind(self) -> int:
        """A number that differs where the kinds of arguments differ, for ranks to compare."""
        code = 0
        for value in self[2:]:
            of_pair = isinstance(value, tuple)
            code = 10 * code + (0 if value is None else 1 + 2 * (value[0] if of_pair else value).ndim + of_pair)
        return code


def problem_of(call: Call, z: Tensor, n_views: int, counts: bool, rules: Rules) -> Exception | None:
    """Return what is wrong with the types of a call's keywords, ``counts`` saying whether the strategy can count."""
    try:
        _check_call(call, z, n_views, counts, rules)
    except (TypeError, ValueError) as error:
        return error
    return None


def _check_call(call: Call, z: Tensor, n_views: int, counts: bool, rules: Rules) -> None:
    if n_views == 1 and rules.negatives == "cross":
        raise ValueError('negatives: expected "both", "same" or "queue" with one view, got "cross"')
    if n_views == 1 and rules.positives == "other_views" and call.queue_labels is None:
        raise ValueError('positives: expected "all" with one view and no queue_labels, got "other_views"')
    if call.queue_labels is not None:
        if call.labels is None or call.queue is None:
            raise ValueError("queue_labels: expected labels and a queue beside them, got none")
        check_labels("queue_labels", call.queue_labels, call.queue.shape[0])
    if call.extra_negatives is not None:
        _check_extra(call.extra_negatives, z)
    for name, value, kinds in (
        ("exclude", call.exclude, "integer ids or a bool mask"),
        ("count", call.count, "numbers >= 0, or (rows, columns)"),
        ("sample_weight", call.sample_weight, "numbers >= 0"),
    ):
        parts = value if name == "count" and isinstance(value, tuple) and len(value) == 2 else (value,)
        if value is not None and not all(isinstance(part, Tensor) and not part.is_complex() for part in parts):
            raise TypeError(f"{name}: expected a tensor, {kinds}, got {type(value).__name__}")
    if isinstance(call.exclude, Tensor) and call.exclude.is_floating_point():
        raise TypeError(f"exclude: expected integer ids or a bool mask, got {call.exclude.dtype}")
    counted = call.count if isinstance(call.count, tuple) else (call.count,)
    if not counts and any(part is not None and part.dtype != torch.bool for part in counted):
        raise TypeError(
            "count: expected a bool mask with a strategy that cannot count (Strategy.counts is False), got "
            + ", ".join(str(part.dtype) for part in counted)
        )


def _check_extra(extra: object, z: Tensor) -> None:
    if not isinstance(extra, Tensor) or not extra.is_floating_point():
        got = extra.dtype if isinstance(extra, Tensor) else type(extra).__name__
        raise TypeError(f"extra_negatives: expected floating-point embeddings [C, D] or [N, H, D], got {got}")
    if extra.ndim not in (2, 3) or (extra.ndim == 3 and extra.shape[0] != z.shape[0]):
        raise ValueError(
            f"extra_negatives: expected embeddings [C, D] or [N, H, D] with N = {z.shape[0]}, got {tuple(extra.shape)}"
        )
    check_width("extra_negatives", extra.flatten(0, -2), "z", z)


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
    others_too: bool,
    across: Any,
    around: Any,
) -> tuple[Tensor, Tensor | None, Said, Tensor | None]:
    """Add what a call says beyond views and queue to the rows ``[V n, D]`` and labels ``[n]``, gathered or local.

    ``across`` is the group that gathers, ``around`` that of a ring.

    Returns: rows with extra negatives, labels as the rules read them, what else is said, weights of the anchors.
    """
    n_views, n_all, _ = shape
    n_own = extra.shape[1] if extra is not None and extra.ndim == 3 else 0
    rows, real = _add_extra(rows, extra, across, around)
    n_extra = rows.shape[0] - n_views * n_all - n_own * n
    if labels is None and others_too:
        labels = torch.full((n_all,), NO_CLASS, device=rows.device)
    labels = _labels_of(call, labels, loss.ignore_label, n_extra)
    of_views = {"both": n_views, "same": 1, "cross": n_views - 1, "queue": 0}[loss.negatives]
    of_views = n_views if labels is not None else of_views
    n_queue = 0 if call.queue is None else call.queue.shape[0]
    columns = of_views * n_all * len(real) + sum(real) + n_own + n_queue
    sizes = Sizes(n, n * (n_views if loss.symmetric else 1), n_extra, n_own, n_queue, columns)
    return rows, labels, _said_of(call, sizes, real, rows.dtype, across), _anchor_weights(call, sizes, rows.dtype)


def _add_extra(rows: Tensor, extra: Tensor | None, across: Any, around: Any) -> tuple[Tensor, tuple[int, ...]]:
    """Put extra negatives behind the rows of the views, ``[R, D]``; in a ring as many on every rank.

    Returns: all rows; how many of the extra ones are real, on each rank of a ring.
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


def _said_of(call: Call, sizes: Sizes, real: tuple[int, ...], dtype: torch.dtype, across: Any) -> Said:
    """Return what a call says of pairs, for the rows that are at hand.

    Raises: ValueError: a shape is none of those that an argument may have.
    """
    n, m, n_extra, _, n_queue, k = sizes
    in_rows = sum(real) if len(real) == 1 else max(real)
    found: dict[str, Any] = {}

    def gathered(x: Tensor) -> Tensor:
        return gather(x.view(1, -1, 1), across).flatten()

    exclude, count = call.exclude, call.count
    if exclude is not None and exclude.dtype == torch.bool:
        _check_shape("exclude", exclude, {(m, k): "[M, K]"})
        found["exclude"] = exclude
    elif exclude is not None:
        mine = call.extra_negatives.shape[0] if n_extra else 0
        allowed = {(n + mine + n_queue,): "[N + C + Q]", (n + mine,): "[N + C]", (n,): "[N]"}
        _check_shape("exclude", exclude, allowed)
        of_extra = exclude[n : n + mine]
        of_extra = pad(of_extra, (0, mine - len(of_extra)), value=-1)
        of_extra = gather_uneven(of_extra[:, None], across)[:, 0] if n_extra else of_extra
        of_extra = pad(of_extra, (0, in_rows - len(of_extra)), value=-1)
        found["ids"] = torch.cat([gathered(exclude[:n]), of_extra, exclude[n + mine :]]).long()
    if isinstance(count, tuple):
        rows, columns = count
        _check_shape("count[0]", rows, {(n,): "[N]", (m,): "[M]"})
        _check_shape("count[1]", columns, {(k,): "[K]"})
        found |= {"anchor_counts": rows.repeat(m // len(rows)), "column_counts": columns}
    elif count is not None and count.ndim == 2:
        _check_shape("count", count, {(m, k): "[M, K]"})
        found["times"] = count
    elif count is not None:
        _check_shape("count", count, {(n,): "[N]", (k,): "[K]"})
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
    _check_shape("sample_weight", weights, {(sizes.samples,): "[N]", (sizes.anchors,): "[M]"})
    return weights.detach().to(dtype).repeat(sizes.anchors // len(weights))  # type: ignore[no-any-return]


def share_of(found: Tensor | None, weights: Tensor | None, group: Any) -> float | Tensor:
    """Return M over the sum of the weights of anchors with a positive, averaged over ranks.

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


def _check_shape(name: str, x: Tensor, allowed: Mapping[Any, str]) -> None:
    if tuple(x.shape) not in allowed:
        shapes = " or ".join(f"{letters} = {list(shape)}" for shape, letters in allowed.items())
        raise ValueError(f"{name}: expected shape {shapes}, got {list(x.shape)}")

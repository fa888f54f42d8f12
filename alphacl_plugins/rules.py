"""The rules of pairs: from what is known of two rows, whether one is a negative or a positive of the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from alphacl_plugins.columns import Excluded, Positives

if TYPE_CHECKING:
    from alphacl_plugins.pairs import Batch, Group

QUEUE, EXTRA, NOBODY = -1, -2, -3
"""In place of the number of a view: a row of the queue, an extra negative, what fills up a block in a ring."""
NO_CLASS = torch.iinfo(torch.int64).min
"""In place of a label: of no class but that of its own sample."""


class Rules(NamedTuple):
    """What the options of a loss say about pairs."""

    negatives: str = "both"
    positives: str = "all"
    others_too: bool = False  # an anchor's other positives are negatives as well


class Rows(NamedTuple):
    """Embeddings, and what the rules need to know of each row. Anchors and columns have their own ``place``."""

    z: Tensor  # [K, D]; [m, H, D] if each of m anchors has K = H rows of its sample alone
    view: Tensor  # [K]
    sample: Tensor  # [K], counted over all ranks; -1 for rows that are in no view
    row: Tensor  # [K] or [m, H], number in the batch that it is of
    place: Tensor  # [K], the number of an anchor in the loss, or of a column
    label: Tensor | None = None  # [K]; None: every sample is a class of its own
    id: Tensor | None = None  # [K]; rows of one id >= 0 are not compared
    times: Tensor | None = None  # [K], factor of the counts; None: 1

    @property
    def of_samples(self) -> bool:
        """Whether each anchor has rows of its own."""
        return self.z.ndim == 3

    def part(self, i: slice, centre: Tensor | None = None) -> Rows:
        """Return the rows i, moved by ``centre [D]``."""
        z = self.z[i] if centre is None else self.z[i] - centre
        return Rows(z, *(None if fact is None else fact[i] for fact in self[1:]))  # type: ignore[arg-type]

    def counted(self, counts: Tensor | None) -> Rows:
        """Return the rows with a further factor of their counts, by place."""
        if counts is None:
            return self
        return self._replace(times=counts[self.place] if self.times is None else self.times * counts[self.place])

    def subtract(self, total: Tensor, gradient: Tensor) -> None:
        """Subtract the gradient of these rows, as ``z``, from that of all rows of their batch."""
        total.index_add_(0, self.row.flatten(), gradient.flatten(0, -2), alpha=-1)


class Said(NamedTuple):
    """What a call says of pairs beyond views, labels and queue."""

    n_extra: int = 0  # extra negatives of every anchor, C
    n_own: int = 0  # extra negatives of one sample alone, H
    extra_of_ranks: tuple[int, ...] = (0,)  # how many of the C are real, of each rank of a ring; one if there is none
    ids: Tensor | None = None  # [n], [n + C] or [n + C + Q]; rows of one id >= 0 are not compared
    counts: Tensor | None = None  # [n], how often a sample counts
    anchor_counts: Tensor | None = None  # [M], a further factor
    column_counts: Tensor | None = None  # [K], a further factor
    times: Tensor | None = None  # [M, K], a further factor
    exclude: Tensor | None = None  # [M, K], bool

    @property
    def of_pairs(self) -> bool:
        """Whether pairs are told apart by more than sample and class."""
        return any(fact is not None for fact in self[3:])


UNSAID = Said()


class Pairs(NamedTuple):
    """What the rules say of anchors a and rows b, ``[m, k]``."""

    negative: Tensor  # bool
    positive: Tensor  # bool
    times: Tensor | None = None  # how often each negative counts, None for once; 0 where it is none

    def counted(self, dtype: torch.dtype) -> Pairs:
        """Return the same with numbers that say how often each negative counts."""
        return self if self.times is not None else self._replace(times=self.negative.to(dtype))


def same_class(a: Rows, b: Rows) -> Tensor:
    """Whether two rows are views of one sample or of one class."""
    same = a.sample[:, None] == b.sample
    if a.label is None or b.label is None:
        return same
    return same | ((a.label[:, None] == b.label) & (a.label[:, None] != NO_CLASS))


def compare(rules: Rules, a: Rows, b: Rows, exclude: Tensor | None = None, count: Tensor | None = None) -> Pairs:
    """Apply the rules; ``exclude`` and ``count`` are matrices over all anchors and columns, ``[M, K]``."""
    same, own_view, in_view = same_class(a, b), a.view[:, None] == b.view, b.view >= 0
    positive = same & ~(own_view & (a.sample[:, None] == b.sample))
    if rules.positives == "other_views":
        positive &= ~own_view
    wanted = ~same & (b.view > NOBODY)
    if rules.negatives != "both":
        of_views = {"same": own_view, "cross": ~own_view, "queue": torch.zeros_like(own_view)}[rules.negatives]
        wanted &= of_views | ~in_view
    if rules.others_too:
        wanted |= positive
    if a.id is not None and b.id is not None:
        apart = (a.id[:, None] == b.id) & (a.id[:, None] >= 0) & (a.sample[:, None] != b.sample)
        wanted, positive = wanted & ~apart, positive & ~apart
    if exclude is not None:
        wanted &= ~exclude[a.place[:, None], b.place]
    if count is None and a.times is None and b.times is None:
        return Pairs(wanted, positive, None)
    times = wanted.to(a.z.dtype)
    for factor in (None if a.times is None else a.times[:, None], b.times):
        times = times if factor is None else times * factor
    times = times if count is None else times * count[a.place[:, None], b.place]
    return Pairs(wanted & (times != 0), positive, times)


def by_mask(batch: Batch, group: Group, start: int, stop: int) -> tuple[Excluded, Positives | None]:
    """Return which columns are not negatives of some anchors, and with labels which are positives, by all rules."""
    a, b = rows_of(batch, group)
    a, at, said = a.part(slice(start, stop)), group.moving, batch.said
    found = compare(batch.rules, a, b, said.exclude, said.times)
    if said.n_own:
        own = compare(batch.rules, a, rows_of_samples(batch, group, start, stop, 0.0), said.exclude, said.times)
        if found.times is not own.times:
            found, own = found.counted(batch.rows.dtype), own.counted(batch.rows.dtype)
        found = Pairs(*(_between(x, y, at) for x, y in zip(found, own, strict=True)))  # type: ignore[arg-type]
    left = found.negative if found.times is None else found.times
    excluded = Excluded(~found.negative, left.sum(dim=1, keepdim=True), found.times)
    if batch.labels is None:
        return excluded, None
    positive, where = found.positive, None
    number = positive.sum(dim=1, keepdim=True)
    if batch.asked and not torch.compiler.is_compiling():
        real, where = positive.to(torch.int8).topk(max(1, int(number.max())), dim=1)
        itself = a.view * batch.views.shape[1] + a.sample  # a column that is never compared
        positive, where = real, torch.where(real.bool(), where, itself[:, None])
    share = positive.to(batch.rows.dtype) / number.clamp_min(1)
    return excluded, Positives(where, share, batch.rules.others_too)


def _between(x: Tensor | None, y: Tensor | None, at: int) -> Tensor | None:
    """Put columns y between the columns of x."""
    return None if x is None or y is None else torch.cat([x[:, :at], y, x[:, at:]], dim=1)


def rows_of(batch: Batch, group: Group, home: int = 0) -> tuple[Rows, Rows]:
    """Return the anchors and columns of a group; ``home`` is the rank of a ring that the views have come from."""
    said, (n_views, n, _), device = batch.said, batch.views.shape, batch.rows.device
    n_others = group.b.shape[0] - len(group.column_views) * n
    each, own, others = (torch.arange(size, device=device) for size in (n, batch.own, n_others))
    somebody, own = others < said.extra_of_ranks[home], own + batch.first
    kind = torch.where(others < said.n_extra, torch.where(somebody, EXTRA, NOBODY), QUEUE)
    view = torch.cat([torch.arange(n_views, device=device).repeat_interleave(n), kind])
    sample = torch.cat([(each + home * n).repeat(n_views), torch.full_like(others, -1)])
    facts: list[Tensor | None] = []
    for fact, neutral in ((batch.labels, NO_CLASS), (said.ids, -1), (said.counts, 1)):
        told = None if fact is None else torch.cat([fact[:n].repeat(n_views), fact[n:]])
        facts.append(None if told is None else pad(told, (0, len(view) - len(told)), value=neutral))

    def rows(z: Tensor, row: Tensor, place: Tensor) -> Rows:
        return Rows(z, view[row], sample[row], row, place, *(None if fact is None else fact[row] for fact in facts))

    a = rows(
        group.a,
        torch.cat([view * n + own for view in group.anchor_views]),
        torch.arange(group.first, group.first + group.a.shape[0], device=device),
    )
    b = rows(
        group.b,
        torch.cat([*(view * n + each for view in group.column_views), n_views * n + others]),
        _places(batch, group, each, others, home),
    )
    counts = None if said.anchor_counts is None else said.anchor_counts[a.place]
    return a._replace(times=counts), b.counted(said.column_counts)


def rows_of_samples(batch: Batch, group: Group, start: int, stop: int, centre: Tensor | float) -> Rows:
    """Return the columns that belong to the samples of the anchors start, ..., stop - 1 of a group alone."""
    assert group.own is not None
    said, (n_views, n, _), device = batch.said, batch.views.shape, batch.rows.device
    here = torch.arange(said.n_own, device=device)
    samples, none = group.samples(start, stop), torch.full_like(here, -1)
    rows = n_views * n + said.n_extra + samples[:, None] * said.n_own + here
    place = len(group.column_views) * n * len(said.extra_of_ranks) + sum(said.extra_of_ranks) + here
    return Rows(group.own[samples] - centre, none + EXTRA - QUEUE, none, rows, place).counted(said.column_counts)


def _places(batch: Batch, group: Group, each: Tensor, others: Tensor, home: int) -> Tensor:
    """Number the columns as over all ranks: those of a view, rank by rank; extra negatives; the queue."""
    real, n_extra = batch.said.extra_of_ranks, batch.said.n_extra
    n_samples, n_views = len(each) * len(real), len(group.column_views)
    queue = sum(real) - n_extra + batch.said.n_own
    nobody = (others >= real[home]) & (others < n_extra)  # has the place of the first column, as it is never looked at
    others = others + torch.where(others < n_extra, sum(real[:home]), queue) + n_views * n_samples
    others = others.masked_fill(nobody, 0)
    return torch.cat([*(view * n_samples + home * len(each) + each for view in range(n_views)), others])

"""Who is compared with whom: the one place that knows views, negatives, labels, the queue and the samples of a rank."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.agreement import check_that_ranks_agree, tell_ranks
from alphacl_plugins.arguments import Call, more_of, nan_where_too_long
from alphacl_plugins.call_checks import check_call
from alphacl_plugins.checks import check_batch
from alphacl_plugins.classes import ClassMembers
from alphacl_plugins.columns import Excluded, Positives
from alphacl_plugins.distributed import ALONE, gather, rank, world_size
from alphacl_plugins.functional import l2_normalize, promote, unit_and_length
from alphacl_plugins.options import number_of_options
from alphacl_plugins.rules import UNSAID, Rules, Said, by_mask
from alphacl_plugins.strategies import Strategy


class Group(NamedTuple):
    """Anchors that share their columns: the samples of some views against the rows of some views and the queue."""

    anchor_views: list[int]
    column_views: list[int]
    first: int  # place of the first anchor in the loss
    a: Tensor  # anchors [m, D], near the origin
    b: Tensor  # columns [K - H, D], the queue last; the same object as a if they are the same rows
    own: Tensor | None  # negatives of one sample alone, [own, H, D], whose columns come before the queue
    moving: int  # how many columns, the first, take a gradient: all but the queue

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Cut the anchors into blocks: the first of each, and the one after its last."""
        found, stop, n = [], 0, self.a.shape[0]
        while stop < n:  # no range, for which torch.compile would make a graph for each number of anchors
            start, stop = stop, min(stop + size, n)
            found.append((start, stop))
        return found

    def samples(self, start: int, stop: int) -> Tensor:
        """Return the sample of each anchor among those of this rank, ``[m]``."""
        return torch.arange(start, stop, device=self.a.device) % (self.a.shape[0] // len(self.anchor_views))

    def gaps(self, start: int, stop: int) -> Tensor:
        """Return the differences of anchors to the negatives of their sample alone, ``[m, H, D]``."""
        assert self.own is not None
        return self.a[start:stop, None] - self.own[self.samples(start, stop)]


class Batch(NamedTuple):
    """The embeddings of a step, and which of them are anchors, positives and negatives.

    Anchors are the samples ``first, ..., first + own - 1`` of the first ``anchor_views`` views; in the loss they stand
    view by view. A sample without label is a class of its own. The negatives of an anchor are the rows of other classes
    in the views that the rules name, extra negatives and the queue. Its positives are the other rows of its class.
    """

    rows: Tensor  # [R, D]: the views, of all ranks if gathered; extra negatives of every anchor, of single samples
    views: Tensor  # [V, n, D], the first of these rows
    queue: Tensor | None  # [Q, D]
    labels: Tensor | None  # [n] or [n + C + Q]
    classes: ClassMembers | None  # of the labels; None with labels: classes are compared by a mask
    first: int
    own: int
    anchor_views: int
    rules: Rules = Rules()
    said: Said = Said()
    asked: bool = False  # whether the strategy is asked for each positive
    masked: bool = False  # whether pairs are told apart by more than sample and class
    weights: Tensor | None = None  # [M], of the anchors in means; None for 1

    def groups(self, centre: Tensor | float) -> list[Group]:
        """Group the anchors by what they are compared with; with labels, positives lie in all views.

        Distances do not depend on the origin, but their rounding does: rows are moved by ``centre [D]``.
        """
        rows, (n_views, n, _), (n_extra, n_own, *_) = self.rows, self.views.shape, self.said
        rows = rows if isinstance(centre, float) else rows - centre
        flat = rows if rows.shape[0] == n_views * n else rows[: n_views * n]
        views = flat.view(n_views, n, -1)
        every, anchors, found, first, of_sample = list(range(n_views)), list(range(self.anchor_views)), [], 0, None
        if self.labels is not None or self.rules.negatives == "both":
            compared = [(anchors, every)]
        elif self.rules.negatives == "queue":
            compared = [(anchors, every[:0])]
        else:
            same = self.rules.negatives == "same"
            compared = [([view], [w for w in every if (w == view) == same]) for view in anchors]
        own = views if self.own == n else views.narrow(1, self.first, self.own)
        others = [rows.narrow(0, n_views * n, n_extra)] if n_extra else []
        others += [] if self.queue is None else [self.queue - centre]
        if n_own:
            of_sample = rows[n_views * n :].view(self.own, n_own, -1)
        for anchor_views, column_views in compared:
            whole = own is views and len(anchor_views) == n_views
            a = b = flat if whole else own[anchor_views[0]] if len(anchor_views) == 1 else own.flatten(0, 1)
            if others or self.own != n or anchor_views != column_views:
                columns = [views[view] for view in column_views] + others
                b = columns[0] if len(columns) == 1 else torch.cat(columns) if columns else a[:0]
            found.append(Group(anchor_views, column_views, first, a, b, of_sample, len(column_views) * n + n_extra))
            first += len(anchor_views) * self.own
        return found

    def compare(self, group: Group, start: int, stop: int) -> tuple[Excluded, Positives | None]:
        """Return which columns are not negatives of some anchors of a group and, with labels, which are positives."""
        n_views, n, device = len(group.column_views), self.views.shape[1], self.rows.device
        n_columns = group.b.shape[0] + self.said.n_own
        if self.masked or (self.labels is not None and self.classes is None):
            return by_mask(self, group, start, stop)
        if self.labels is None and group.b is group.a and stop - start == n_columns:
            return Excluded(n_views, stop - n_views), None
        anchor = torch.arange(start, stop, device=device)[:, None]
        sample = anchor % self.own + self.first
        if self.classes is None:
            own_sample = sample + torch.arange(0, n_views * n, n, device=device)
            return Excluded(own_sample, n_columns - n_views), None
        members, size = self.classes.members[sample[:, 0]], self.classes.size[sample[:, 0]]
        own_view_first = (anchor // self.own + torch.arange(n_views, device=device)) % n_views * n
        where = (members[:, None, :] + own_view_first[:, :, None]).flatten(1)
        real = (torch.arange(members.shape[1], device=device) < size).repeat(1, n_views)
        share = real.to(self.rows.dtype) / (n_views * size - 1).clamp_min(1)
        return Excluded(where, n_columns - n_views * size), Positives(where[:, 1:], share[:, 1:])  # without itself

    def other_views(self, *, labelled: bool = False) -> tuple[list[Tensor], Tensor | None]:
        """Measure each anchor against its sample in the other views; with labels only if ``labelled``.

        Returns:
            for each shift s = 1, ..., V - 1 the differences to the view s further on, ``[anchor views, own, D]``; half
            their squared lengths, ``[M, V - 1]``.
        """
        if self.labels is not None and not labelled:
            return [], None
        views, n_views = self.views, self.views.shape[0]
        rows = views if self.own == views.shape[1] else views.narrow(1, self.first, self.own)
        gaps = [rows - rows.roll(-shift, 0) for shift in range(1, n_views)]
        gaps = gaps if self.anchor_views == n_views else [gap[: self.anchor_views] for gap in gaps]
        d2 = [(gap * gap).sum(dim=2).mul_(0.5).view(-1, 1) for gap in gaps]
        return gaps, d2[0] if len(d2) == 1 else torch.cat(d2, dim=1)

    def pull_of_views(self, gaps: list[Tensor], weights: Any) -> Tensor:
        """Return the gradient of ``Σ_ip β_ip D_ip`` for `other_views`, ``β [M, V - 1]``: of all rows, 0 without."""
        views = self.views
        if len(gaps) == 1 and gaps[0].shape == views.shape and views.numel() == self.rows.numel():
            both: Tensor = weights.view(2, -1, 1).sum(dim=0)  # the other anchor pulls at the same, negated gap
            return (both * gaps[0]).flatten(0, 1)
        total = torch.zeros_like(self.rows)
        own = total[: views.shape[0] * views.shape[1]].view(views.shape).narrow(1, self.first, self.own)
        for shift, gap in enumerate(gaps, start=1):
            pull = weights[:, shift - 1].view(self.anchor_views, -1, 1) * gap
            own[: self.anchor_views] += pull
            for view, of_view in enumerate(pull):
                own[(view + shift) % len(own)] -= of_view
        return total

    def subtract(
        self, total: Tensor, group: Group, of_a: Tensor, of_b: Tensor | None, of_own: Tensor | None = None
    ) -> None:
        """Subtract what the anchors ``[m, D]`` and the moving columns of a group have from ``total``, as the rows."""
        n_views, n, _ = self.views.shape
        if of_a.shape == total.shape:
            total.sub_(of_a)
        else:
            views = total[: n_views * n].view(n_views, n, -1)
            for view, of_view in zip(group.anchor_views, torch.split(of_a, self.own), strict=True):
                views[view].narrow(0, self.first, self.own).sub_(of_view)
        if of_b is not None:
            for view, of_view in zip(group.column_views, torch.split(of_b, n), strict=False):
                total[view * n : (view + 1) * n].sub_(of_view)
            total[n_views * n :][: self.said.n_extra].sub_(of_b[len(group.column_views) * n :])
        if of_own is not None:
            total[n_views * n + self.said.n_extra :].sub_(of_own.flatten(0, 1))

    def moved(self, rows: Tensor) -> Batch:
        """Return the batch with other embeddings in the same places."""
        n_views, n, _ = self.views.shape
        return self._replace(rows=rows, views=rows[: n_views * n].view(n_views, n, -1))


class Assembled(NamedTuple):
    """A batch as the loss needs it."""

    rows: Tensor  # [R, D], as in the batch, with their graph
    length: Tensor | None  # [R, 1]; None if not normalised
    batch: Batch
    differentiable: bool  # whether some rank wants a gradient


def assemble(
    loss: Any, strategy: Strategy, views: list[Any], call: Call, *, graph: bool = False, whole: bool = False
) -> Assembled:
    """Bring what a loss was called with into a batch: promoted, gathered, normalised.

    Args:
        loss, views, call: whose options hold, and what came.
        strategy: that will be asked.
        graph: whether the rows in the batch keep their graph.
        whole: gather where else a ring would pass by.
    """
    others_too = loss.positives_as_negatives and (call.labels is not None or len(views) > 2)
    rules = Rules(loss.negatives, loss.positives, others_too)
    silent = call.queue_labels is call.extra_negatives is call.exclude is call.count is call.sample_weight is None
    plain = silent and len(views) > 1 and not others_too and loss.positives == "all" and loss.ignore_label is None
    try:
        check_batch(views, call, None if loss.gather_distributed else loss.negatives)
        if not plain:
            check_call(call, views[0], len(views), strategy.counts, rules)
    except (TypeError, ValueError):
        tell_ranks(views, loss.gathering_group())
        raise
    dtype, n, first, length, extra = views[0].dtype, views[0].shape[0], 0, None, call.extra_negatives
    given = [x for x in (extra, None if call.queue is None else call.queue.detach()) if x is not None]
    views, given = (found := promote(*views, *given))[: len(views)], found[len(views) :]
    queue, extra = (given.pop() if call.queue is not None else None), (given.pop() if extra is not None else None)
    rows, labels = torch.cat(views), None if call.labels is None else call.labels.long()
    shape: Any = (len(views), n, rows.shape[1])
    differentiable, in_ring = torch.is_grad_enabled(), loss.gather_distributed == "ring" and not whole
    across = around = of_views = ALONE
    if loss.gather_distributed:
        group = loss.gathering_group()
        across, around = (ALONE, group) if in_ring else (group, ALONE)
        moves = extra is not None and extra.requires_grad and torch.is_grad_enabled()
        in_backward = rows.requires_grad + 2 * moves if not in_ring or loss.reduction == "none" else 0
        stacked, kind = rows.view(shape), lambda: (0 if plain else call.kind(n), number_of_options(loss))
        differentiable = check_that_ranks_agree("z", stacked, group, labels, queue, kind, gradient=in_backward)
        check_batch(views, call, loss.negatives, world_size(group))  # earlier, other ranks would wait for ever
        if not in_ring and (loss.negatives != "queue" or labels is not None or others_too):
            of_views = group
            stacked, first = gather(stacked, group), rank(group) * n
            labels = None if labels is None else gather(labels.view(1, -1, 1), group).flatten()
            shape, rows = stacked.shape, stacked.flatten(0, 1)
    weights, said = None, Said(extra_of_ranks=(0,) * world_size(around)) if in_ring else UNSAID
    if not plain:
        rows, labels, said, weights = more_of(
            loss, call, rows, shape, n, extra, labels, rules, across, around, of_views
        )
    unit = rows if graph else rows.detach()
    if loss.l2_normalize:
        unit, length = unit_and_length(unit, dtype)
        queue = None if queue is None else l2_normalize(queue)
    elif queue is not None:
        queue = nan_where_too_long(queue)  # a copy: the caller may overwrite it before the backward pass
    classes, asked = None, rules.others_too or (strategy.uses_positive and not strategy.separable)
    if labels is not None and plain and loss.negatives == "both" and (asked or labels.device.type == "cpu"):
        classes = ClassMembers.of(labels)  # on a GPU it is worth a host sync to few
    n_views, in_views = shape[0] if loss.symmetric else 1, (unit if plain else unit[: shape[0] * shape[1]]).view(*shape)
    told = rules, said, asked, not plain and said.of_pairs, weights
    batch = Batch(unit, in_views, queue, labels, classes, first, n, n_views, *told)
    return Assembled(rows, length, batch, differentiable)

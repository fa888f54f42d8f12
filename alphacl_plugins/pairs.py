"""Who is compared with whom: the one place that knows views, negatives, labels, the queue and the samples of a rank."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from alphacl_plugins.classes import ClassMembers

NEGATIVES = ("both", "same", "cross", "queue")


class Group(NamedTuple):
    """Anchors that share their columns: the samples of some views against the rows of some views and the queue."""

    anchor_views: list[int]
    column_views: list[int]
    first: int  # place of the first anchor in the loss
    a: Tensor  # anchors [m, D], near the origin
    b: Tensor  # columns [K, D], the queue last; the same object as a if they are the same rows
    moving: int  # how many columns, the first, take a gradient: all but the queue

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Cut the anchors into blocks: the first of each, and the one after its last."""
        found, stop, n = [], 0, self.a.shape[0]
        while stop < n:  # no range, for which torch.compile would make a graph for each number of anchors
            start, stop = stop, min(stop + size, n)
            found.append((start, stop))
        return found


class Excluded(NamedTuple):
    """Columns that are not negatives of m anchors: a mask ``[m, K]``, indices ``[m, C]`` (which may repeat), or V.

    V: rows and columns are the same V views, and the rows of the anchor's sample are excluded.
    """

    where: Tensor | int
    left: Tensor | int  # how many columns are negatives: ``[m, 1]``, or one number for every anchor

    def fill(self, x: Tensor, value: float) -> Tensor:
        """Write ``value`` there, in place unless autograd, torch.compile or torch.func keeps track of x."""
        tracked = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x)
        tracked, where = tracked or x.requires_grad, self.where
        if isinstance(where, int):
            n = x.shape[0] // where
            if not tracked:
                x.view(where, n, where, n).diagonal(dim1=1, dim2=3).fill_(value)
                return x
            where = torch.eye(n, dtype=torch.bool, device=x.device).repeat(where, where)
        if where.dtype == torch.bool:
            return x.masked_fill(where, value) if tracked else x.masked_fill_(where, value)
        return x.scatter(1, where, value) if tracked else x.scatter_(1, where, value)


class Positives(NamedTuple):
    """Positives of m anchors among their columns: all columns, or the columns at indices ``[m, P]``."""

    where: Tensor | None
    share: Tensor  # [m, P], weight of each in the anchor's mean; 0 for a column that is not a positive

    def of(self, x: Tensor) -> Tensor:
        """Return the entries of ``x [m, K]`` at the positives, ``[m, P]``."""
        return x if self.where is None else x.gather(1, self.where)

    def add_to(self, weights: Tensor, pos: Tensor) -> Tensor:
        """Add the weights ``[m, P]`` of the positives to weights ``[m, K]`` of the columns."""
        return weights + pos if self.where is None else weights.scatter_add(1, self.where, pos)


class Batch(NamedTuple):
    """The embeddings of a step, and which of them are anchors, positives and negatives.

    Anchors are the samples ``first, ..., first + own - 1`` of the first ``anchor_views`` views; in the loss they stand
    view by view. A sample without label is a class of its own. The negatives of an anchor are the rows of other classes
    in the views that ``negatives`` names, and the queue. Its positives are the other rows of its class in all views.
    """

    views: Tensor  # [V, n, D], of all ranks if gathered
    queue: Tensor | None  # [Q, D]
    labels: Tensor | None  # [n]
    classes: ClassMembers | None  # of the labels; None with labels: classes are compared by a mask
    first: int
    own: int
    anchor_views: int
    negatives: str

    def groups(self, centre: Tensor | float) -> list[Group]:
        """Group the anchors by what they are compared with; with labels, positives lie in all views.

        Distances do not depend on the origin, but their rounding does: rows are moved by ``centre [D]``.
        """
        n_views, n, _ = self.views.shape
        every, anchors = list(range(n_views)), list(range(self.anchor_views))
        if self.labels is not None or self.negatives == "both":
            compared = [(anchors, every)]
        elif self.negatives == "queue":
            compared = [(anchors, every[:0])]
        else:
            compared = [([view], [w for w in every if (w == view) == (self.negatives == "same")]) for view in anchors]
        views, found, first = self.views if isinstance(centre, float) else self.views - centre, [], 0
        own = views if self.own == n else views.narrow(1, self.first, self.own)
        for anchor_views, column_views in compared:
            a = own[anchor_views[0]] if len(anchor_views) == 1 else own.flatten(0, 1)
            b = a
            if self.queue is not None or self.own != n or anchor_views != column_views:
                rows = [views[view] for view in column_views] + ([] if self.queue is None else [self.queue - centre])
                b = rows[0] if len(rows) == 1 else torch.cat(rows)
            found.append(Group(anchor_views, column_views, first, a, b, len(column_views) * n))
            first += len(anchor_views) * self.own
        return found

    def compare(self, group: Group, start: int, stop: int) -> tuple[Excluded, Positives | None]:
        """Return which columns are not negatives of some anchors of a group and, with labels, which are positives."""
        n_views, n, device = len(group.column_views), self.views.shape[1], self.views.device
        if self.labels is None and group.b is group.a and stop - start == len(group.a):
            return Excluded(n_views, stop - n_views), None
        anchor = torch.arange(start, stop, device=device)[:, None]
        sample = anchor % self.own + self.first
        if self.labels is None:
            own_sample = sample + torch.arange(0, n_views * n, n, device=device)
            return Excluded(own_sample, group.b.shape[0] - n_views), None
        if self.classes is None or self.negatives != "both":
            a, b = self.rows(group)
            a = a._replace(view=a.view[start:stop], sample=a.sample[start:stop], label=a.label[start:stop])
            negative, positive = is_negative(a, b, self.negatives), is_positive(a, b).to(self.views.dtype)
            excluded = Excluded(~negative, negative.sum(dim=1, keepdim=True))
            if self.classes is None:
                return excluded, Positives(None, positive / positive.sum(dim=1, keepdim=True).clamp_min(1))
        members, size = self.classes.members[sample[:, 0]], self.classes.size[sample[:, 0]]
        own_view_first = (anchor // self.own + torch.arange(n_views, device=device)) % n_views * n
        where = (members[:, None, :] + own_view_first[:, :, None]).flatten(1)
        real = (torch.arange(members.shape[1], device=device) < size).repeat(1, n_views)
        share = real.to(self.views.dtype) / (n_views * size - 1).clamp_min(1)
        excluded = Excluded(where, len(group.b) - n_views * size) if self.negatives == "both" else excluded
        return excluded, Positives(where[:, 1:], share[:, 1:])  # without itself

    def rows(self, group: Group, home: int = 0) -> tuple[Rows, Rows]:
        """Return the anchors and columns of a group; ``home`` is the number of this rank's first sample in a ring."""
        n, own = self.views.shape[1], slice(self.first, self.first + self.own)
        samples = torch.arange(home, home + n, device=self.views.device)
        labels = samples if self.labels is None else self.labels
        a = Rows.of(group.a, group.anchor_views, samples[own], labels[own])
        return a, a if group.b is group.a else Rows.of(group.b, group.column_views, samples, labels)

    def other_views(self) -> tuple[list[Tensor], Tensor | None]:
        """Measure each anchor against its sample in the other views: its positives without labels, none with labels.

        Returns: for each shift s = 1, ..., V - 1 the differences to the view s further on, ``[anchor views, own, D]``;
        half their squared lengths, ``[M, V - 1]``.
        """
        if self.labels is not None:
            return [], None
        rows = self.views if self.own == self.views.shape[1] else self.views.narrow(1, self.first, self.own)
        n_views = self.views.shape[0]
        gaps = [rows - rows.roll(-shift, 0) for shift in range(1, n_views)]
        gaps = gaps if self.anchor_views == n_views else [gap[: self.anchor_views] for gap in gaps]
        d2 = [(gap * gap).sum(dim=2).mul_(0.5).view(-1, 1) for gap in gaps]
        return gaps, d2[0] if len(d2) == 1 else torch.cat(d2, dim=1)

    def pull_of_views(self, gaps: list[Tensor], weights: Tensor) -> Tensor:
        """Return the gradient of ``Σ_ip β_ip D_ip`` for `other_views`, ``β [M, V - 1]``: ``[V, n, D]``, 0 without."""
        if len(gaps) == 1 and gaps[0].shape == self.views.shape:  # two views, all of them anchors
            return weights.view(2, -1, 1).sum(dim=0) * gaps[0]  # the other anchor pulls at the same, negated gap
        total = weights.new_zeros(self.views.shape)
        own = total.narrow(1, self.first, self.own)
        for shift, gap in enumerate(gaps, start=1):
            pull = weights[:, shift - 1].view(self.anchor_views, -1, 1) * gap
            own[: self.anchor_views] += pull
            for view, of_view in enumerate(pull):
                own[(view + shift) % len(own)] -= of_view
        return total

    def subtract(self, total: Tensor, group: Group, of_a: Tensor, of_b: Tensor | None) -> None:
        """Subtract what the anchors ``[m, D]`` and the moving columns of a group have from ``total [V, n, D]``."""
        own = total if self.own == total.shape[1] else total.narrow(1, self.first, self.own)
        for part, views, rows in ((own, group.anchor_views, of_a), (total, group.column_views, of_b)):
            if rows is not None and len(views) == part.shape[0]:
                part.sub_(rows.view_as(part))
            elif rows is not None:
                for view, of_view in zip(views, torch.split(rows, part.shape[1]), strict=True):
                    part[view].sub_(of_view)


class Rows(NamedTuple):
    """Embeddings, and what the rules need to know of each row where blocks come one after another."""

    z: Tensor  # [K, D]
    view: Tensor  # [K], of the queue -1
    sample: Tensor  # [K], counted over all ranks; of the queue -1
    label: Tensor  # [K]; the sample where there are no labels

    @staticmethod
    def of(z: Tensor, views: list[int], samples: Tensor, labels: Tensor) -> Rows:
        """Return rows that are the samples of some views, one view after another, and then the queue."""
        view = torch.cat([torch.full_like(samples, view) for view in views] or [samples[:0]])
        facts = view, samples.repeat(len(views)), labels.repeat(len(views))
        return Rows(z, *(pad(fact, (0, len(z) - len(fact)), value=-1) for fact in facts))

    def part(self, i: slice, centre: Tensor) -> Rows:
        """Return the rows i, moved by ``centre [D]``."""
        return Rows(self.z[i] - centre, self.view[i], self.sample[i], self.label[i])

    def subtract(self, total: Tensor, gradient: Tensor) -> None:
        """Subtract the gradient ``[K, D]`` of these rows from that of their block, ``total [V, n, D]``."""
        n = total.shape[1]
        total.flatten(0, 1).index_add_(0, self.view * n + self.sample % n, gradient, alpha=-1)


def is_negative(a: Rows, b: Rows, negatives: str) -> Tensor:
    """Return which rows b are negatives of the anchors a, ``[m, k]``: other classes in the views wanted, the queue."""
    queued, other_class = b.view < 0, a.label[:, None] != b.label
    if negatives == "queue":
        return queued.expand_as(other_class)
    if negatives != "both":
        other_class &= (a.view[:, None] == b.view) == (negatives == "same")
    return other_class | queued


def is_positive(a: Rows, b: Rows) -> Tensor:
    """Return which rows b are positives of the anchors a, ``[m, k]``: the anchor's class, but not the anchor itself."""
    itself = (a.view[:, None] == b.view) & (a.sample[:, None] == b.sample)
    return (a.label[:, None] == b.label) & (b.view >= 0) & ~itself

"""The loss for weights that factor, ``α_j = row sum · w_j / Σ w``, when negatives come one block after another.

First sums over the negatives, then, as the sums give the row sum, the gradient. Who brings the blocks (this rank alone,
or a ring of ranks) is one matter; what computes a tile of a block (`torch_tiles`, `triton_tiles`) is another.

A ring of W ranks passes on W - 1 blocks for the sums (with labels W - 1 more for the positives), W - 1 for the
gradient, and W gradients of blocks, which travel with their block and home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alphacl_plugins.distributed import ALONE, pass_on, rank, ring, world_size
from alphacl_plugins.engines.sums import NO_PLACE, Constants, Listed, OfPositives, Sums
from alphacl_plugins.engines.weights import Losses
from alphacl_plugins.functional import centre_of
from alphacl_plugins.pairs import Batch, Group
from alphacl_plugins.rules import Rows, rows_of, rows_of_samples
from alphacl_plugins.strategies.beside_others import beside_others, lowest
from alphacl_plugins.strategies.separable import Separable, Totals

if TYPE_CHECKING:
    from alphacl_plugins.engines.torch_tiles import TorchTiles
    from alphacl_plugins.engines.triton_tiles import TritonTiles


class TwoPass:
    """The engine: the first call makes both passes, a call with weights the second one alone.

    The blocks of all ranks of the process group pass by, in a ring, and every rank has to take part in every pass. With
    `ALONE` there is this rank's block only.
    """

    of_anchors: Any  # after the first call: what `alphacl_plugins.statistics.means_over_anchors` is of

    _constants: Any = None  # of the anchors, after the first call

    def __init__(self, strategy: Separable, tiles: TorchTiles | TritonTiles, process_group: Any) -> None:
        self._strategy, self._tiles, self._process_group = strategy, tiles, process_group

    @staticmethod
    def of(loss: Any, strategy: Any, batch: Batch) -> TwoPass:
        """Return the engine that a loss asks for; `check_options` has seen that the strategy's weights factor."""
        group = loss.process_group if loss.gather_distributed == "ring" else ALONE
        if loss.block_size == "kernel":
            from alphacl_plugins.engines.triton_tiles import TritonTiles  # needs Triton

            return TwoPass(strategy, TritonTiles.of(strategy, batch), group)
        from alphacl_plugins.engines.torch_tiles import TorchTiles

        side = 512 if loss.block_size == "auto" else loss.block_size
        return TwoPass(strategy, TorchTiles(strategy, batch, side), group)

    def __call__(
        self, batch: Batch, weights: Tensor | None = None, *, with_energy: bool = True, with_gradient: bool = True
    ) -> tuple[Losses, Tensor | None]:
        """Compare the anchors of a batch without graph; arguments and results as `in_blocks`."""
        losses = self._first_pass(batch) if self._constants is None else Losses(None, None)
        share = self._constants.share
        weights = torch.ones_like(share) if weights is None else weights[:, None]
        return losses, self._second_pass(batch, weights) if with_gradient else None

    def _first_pass(self, batch: Batch) -> Losses:
        self._centre = centre_of(batch.rows)
        sums: Sums = self._over_tiles(batch, lambda a, b, _: self._tiles.sums(a, b))
        if batch.rules.others_too:
            return self._beside_others(batch, sums)
        none = sums.number == 0
        sum_exp, row_max = sums.sum_exp.masked_fill(none, 1.0), sums.row_max.masked_fill(none, 0.0)
        log_mass = 0.0 if sums.log_mass is None else sums.log_mass.masked_fill(none, 0.0)
        totals = Totals(row_max + sum_exp.log(), sums.potential, sums.number.masked_fill(none, 1.0), log_mass)
        of_positives, beta = self._positives(batch, totals)
        without, n_positives = of_positives.number == 0, of_positives.number.clamp_min(1)
        share = (1 / n_positives).masked_fill(none | without, 0.0)
        row_sum, value = share * of_positives.row_sum, of_positives.value
        minus_energy = share * of_positives.energy - row_sum * sums.sum_exp_d2 / sum_exp
        entropy = torch.where(row_sum > 0, sum_exp.log() - sums.sum_exp_logits / sum_exp, 0.0)
        d2_pos, some = of_positives.d2 / n_positives, row_sum > 0
        self.of_anchors = batch.weights, d2_pos, sums.d2, entropy, sums.number, ~without, some
        self._constants, self._beta = Constants(totals, row_max, row_sum / sum_exp, share), share * beta
        found = (~without[:, 0]).to(share.dtype) if batch.views.shape[0] == 1 else None
        excess = row_sum - share * of_positives.pos
        return Losses(minus_energy[:, 0], None if value is None else (share * value)[:, 0], excess[:, 0], found)

    def _beside_others(self, batch: Batch, sums: Sums) -> Losses:
        """Find the weights where other positives are negatives too, given the sums over the negatives that are not."""
        tiles: Any = self._tiles  # no kernels, which refuse labels
        place, d2, times = self._over_tiles(batch, lambda a, b, _: tiles.list_positives(a, b))
        real = (place != NO_PLACE).to(d2.dtype)
        n_positives, empty = real.sum(dim=1, keepdim=True), sums.number == 0
        share, sum_exp = real / n_positives.clamp_min(1), sums.sum_exp.masked_fill(empty, 1.0)
        row_max = sums.row_max.masked_fill(empty, lowest(d2))
        log_mass = 0.0 if sums.log_mass is None else sums.log_mass
        rest = Totals(row_max + sum_exp.log(), sums.potential, sums.number, log_mass)
        log_scale, neg, pos, value = beside_others(self._strategy, d2, share, times, rest)
        total = torch.exp(rest.log_sum_exp + log_scale)  # weight of the negatives that are no positives
        minus_energy = ((pos - neg) * d2).sum(dim=1, keepdim=True) - total * sums.sum_exp_d2 / sum_exp
        row_sum = total + neg.sum(dim=1, keepdim=True)
        logs = torch.where(neg > 0, neg.log() - times.log(), 0.0)  # of a weight over its count
        of_logs = total * (row_max + sums.sum_exp_logits / sum_exp + log_scale)
        of_logs = torch.where(total > 0, of_logs, 0.0) + (neg * logs).sum(dim=1, keepdim=True)
        entropy = torch.where(row_sum > 0, row_sum.log() - of_logs / row_sum, 0.0)
        d2_neg, number = (total.sum(dim=1, keepdim=True) for total in (times * d2, times))
        d2_neg, number, without = d2_neg + sums.d2, number + sums.number, n_positives == 0
        d2_pos = (share * d2).sum(dim=1, keepdim=True)
        self.of_anchors = batch.weights, d2_pos, d2_neg, entropy, number, ~without, row_sum > 0
        order = place.argsort(dim=1)
        listed = place.gather(1, order), (neg - pos).gather(1, order)
        self._constants, self._beta = Constants(rest, -log_scale, torch.ones_like(row_max), row_sum, *listed), share
        found = (~without[:, 0]).to(d2.dtype) if batch.views.shape[0] == 1 else None
        excess = row_sum - pos.sum(dim=1, keepdim=True)
        return Losses(minus_energy[:, 0], None if value is None else value[:, 0], excess[:, 0], found)

    def _positives(self, batch: Batch, totals: Totals) -> tuple[OfPositives, Tensor]:
        """Return the sums over the positives, and the weights ``[M, P]`` of those in other views, none with labels."""
        _, d2 = batch.other_views()
        if d2 is None:
            tiles: Any = self._tiles  # no kernels, which refuse labels
            found = self._over_tiles(batch, lambda a, b, i: tiles.positives(a, b, totals.of(i)))
            return found, totals.log_sum_exp[:, :0]
        row_sum, pos, value = self._strategy.factors(d2, totals)
        parts = [None if x is None else x.sum(dim=1, keepdim=True) for x in (row_sum, pos, pos * d2, d2, value)]
        return OfPositives(torch.full_like(d2[:, :1], d2.shape[1]), *parts), pos  # type: ignore[arg-type]

    def _second_pass(self, batch: Batch, weights: Tensor) -> Tensor:
        travels, arriving = world_size(self._process_group) > 1, None
        beta = weights if batch.labels is not None else weights * self._beta
        total = batch.pull_of_views(batch.other_views()[0], beta)
        n_rows = batch.views[..., 0].numel() + batch.said.n_extra
        for at_home, pairs in _blocks(batch, self._process_group):
            of_block = torch.zeros_like(batch.rows[:n_rows]) if travels else total
            for anchors, a, b, moves in self._tiled(batch, pairs, at_home):
                of_rows, of_columns = self._tiles.pulls(a, b, self._constants.of(anchors, weights), b_moves=moves)
                a.subtract(total, of_rows)
                if of_columns is not None:
                    b.subtract(total if b.of_samples else of_block, of_columns)
            if arriving is not None:
                of_block += arriving()[0]
                del arriving
            arriving = pass_on(self._process_group, of_block) if travels else None
            del pairs, a, b, of_block  # a ring holds as little as it can
        if arriving is not None:
            total[:n_rows] += arriving()[0]
        return total

    def _over_tiles(self, batch: Batch, of_tile: Callable[[Rows, Rows, slice], Any]) -> Any:
        """Merge what the tiles of each anchor give, in the order of the loss; a tile is told its anchors' places."""
        found: dict[int, Any] = {}
        for at_home, pairs in _blocks(batch, self._process_group):
            for anchors, a, b, _ in self._tiled(batch, pairs, at_home):
                part, before = of_tile(a, b, anchors), found.get(anchors.start)
                found[anchors.start] = part if before is None else before.merged(part)
        if isinstance(part, Listed):
            widest = max(1, *(listed.place.shape[1] for listed in found.values()))
            found = {anchors: listed.padded(widest) for anchors, listed in found.items()}
        columns = zip(*(found[first] for first in sorted(found)), strict=True)
        return type(part)(*(None if column[0] is None else torch.cat(column) for column in columns))

    def _tiled(
        self, batch: Batch, pairs: list[tuple[Group, Rows, Rows]], at_home: bool
    ) -> Iterator[tuple[slice, Rows, Rows, bool]]:
        """Cut pairs of anchors and columns into tiles near the origin: all columns of a tile take a gradient, or none.

        Yields:
            the places of the anchors in the loss, the anchors, the columns, whether these take a gradient.
        """
        side, centre = self._tiles.side, self._centre
        for group, a, b in pairs:
            moving, one_set = group.moving if at_home else len(b.z), at_home and group.b is group.a
            for i in _pieces(0, len(a.z), side):
                a_i, anchors = a.part(i, centre), slice(group.first + i.start, group.first + i.stop)
                for j in _pieces(0, moving, side) + _pieces(moving, len(b.z), side):
                    b_j = b.part(j, centre)
                    yield anchors, a_i, b_j._replace(z=a_i.z) if one_set and i == j else b_j, j.start < moving
                if at_home and group.own is not None:
                    yield anchors, a_i, rows_of_samples(batch, group, i.start, i.stop, centre), True


def _pieces(start: int, stop: int, side: int) -> list[slice]:
    return [slice(i, min(i + side, stop)) for i in range(start, stop, side)]


def _blocks(batch: Batch, process_group: Any) -> Iterator[tuple[bool, list[tuple[Group, Rows, Rows]]]]:
    """Yield each block: whether it is this rank's own, with the queue; for each group its anchors and columns."""
    (n_views, n, _), home, groups, said = batch.views.shape, rank(process_group), batch.groups(0.0), batch.said
    own = [(group, *rows_of(batch, group, home)) for group in groups]
    if not said.n_extra and not any(group.column_views for group in groups):
        yield True, own
        return
    n_rows, each = n_views * n + said.n_extra, {"labels": batch.labels, "ids": said.ids, "counts": said.counts}
    facts: Any = {name: fact[: n + said.n_extra] for name, fact in each.items() if fact is not None}
    for origin, (rows, *values) in ring(process_group, batch.rows[:n_rows], *facts.values()):
        if origin == home:
            yield True, own
            continue
        told: Any = dict(zip(facts, values, strict=True))
        labels = told.pop("labels", None)
        arrived = batch._replace(labels=labels, said=said._replace(n_own=0, **told), queue=None).moved(rows)
        columns = [rows_of(arrived, group, origin)[1] for group in arrived.groups(0.0)]
        yield False, [(group, a, b) for (group, a, _), b in zip(own, columns, strict=True)]
        del rows, arrived, columns  # the next block is on its way

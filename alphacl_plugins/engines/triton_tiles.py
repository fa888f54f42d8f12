"""The softmax types on a GPU without a distance in its memory: kernels in Triton, imported on use.

For ``α_ij = s_i w_ij / Z_i`` with ``w_ij = exp(-D_ij^p / τ)``, ``Z_i = Σ_k w_ik`` and the row sum s_i, two kernels
compare a tile of rows with one tile of columns after another, as flash attention does. A tile of D never leaves the
registers. The first forms the sums over the negatives of each anchor, the second ``Σ_c W_rc (x_r - y_c)`` for each row,
with ``W = α`` (anchors), ``αᵀ`` (negatives), or both at once where anchors and negatives are one set.

A product is made of three products of TF32, on an H100 as exact as float32 and almost three times as fast. At
`torch.get_float32_matmul_precision` "medium" it is one, whose factors have 11 significant bits: tensor cores cut off
the others, so embeddings are rounded first. All else is float32, and so are products on a GPU without TF32.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from alphacl_plugins.engines.sums import Constants, Sums
from alphacl_plugins.options import check_kernel_batch
from alphacl_plugins.pairs import Batch
from alphacl_plugins.rules import Rows
from alphacl_plugins.strategies.separable import ExpPower, Separable

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError('block_size: "kernel" needs Triton: pip install triton (Linux), or use "auto"') from error

# Of sixteen within 7 % of the fastest on an H100 (one TF32 product: 23 %), and in the shared memory of an sm_86.
_TILE = {"ROWS": 128, "COLUMNS": 64, "CHUNK": 32, "num_warps": 8, "num_stages": 2}
_WIDTH = 128  # columns of the embeddings in one pull
_PROGRAMS = 256  # fewer leave a large GPU idle; columns are then shared out
_LOWEST = tl.constexpr(torch.finfo(torch.float32).min / 2)


class Side(NamedTuple):
    """Embeddings on one side of a comparison."""

    embeddings: Tensor  # [K, D], contiguous
    half_squares: Tensor  # [K]
    samples: Tensor  # [K], int32; rows of one sample are not compared

    @staticmethod
    def of(rows: Rows) -> Side:
        """Return rows as the kernels read them."""
        embeddings = rows.z
        if _precision() == "tf32":
            nearest = ((embeddings.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
            embeddings = torch.where(embeddings.isnan(), embeddings, nearest)
        return Side(embeddings.contiguous(), embeddings.square().sum(dim=1) / 2, rows.sample.to(torch.int32))


class TritonTiles(NamedTuple):
    """The methods of `TorchTiles` for weights ``exp(-D^power / tau)``, in float32, without labels."""

    exponent: ExpPower
    side: int = 2**31  # a kernel cuts its own tiles

    @staticmethod
    def of(strategy: Separable, batch: Batch) -> TritonTiles:
        """Return the tiles for a strategy, if kernels can compare the batch."""
        device = "cuda" if isinstance(_pull, triton.JITFunction) else "cpu"  # where Triton's interpreter runs
        check_kernel_batch(batch, device)
        return TritonTiles(strategy.exponent)  # type: ignore[arg-type]  # check_options has seen that there is one

    def sums(self, a: Rows, b: Rows) -> Sums:
        """Return the sums over the negatives: first pass."""
        anchors, columns = Side.of(a), Side.of(b)
        grid, share = _grid(anchors, columns)
        parts = anchors.half_squares.new_empty(5, grid[1], len(anchors.samples))
        _launch(_sum_rows, grid, anchors, columns, (), parts, share, self.exponent)
        row_max = parts[4].amax(dim=0)
        scale, logits = (parts[4] - row_max).exp(), parts[1] + parts[0] * (parts[4] - row_max)
        by_row = torch.stack([scale * parts[0], scale * logits, scale * parts[2], parts[3]]).sum(dim=1)
        number = (a.sample[:1] != b.sample).sum().to(row_max.dtype).expand_as(row_max)  # each anchor has as many
        return Sums(*(x[:, None] for x in (row_max, *by_row, number, torch.zeros_like(row_max))))

    def pulls(self, a: Rows, b: Rows, constants: Constants, *, b_moves: bool) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of both sides: second pass."""
        anchors, scales = Side.of(a), torch.stack([constants.row_max[:, 0], constants.scale[:, 0]])
        if b.z is a.z:
            return self._pull(anchors, anchors, scales, by_row=True, by_column=True), None
        columns = Side.of(b)
        of_anchors = self._pull(anchors, columns, scales, by_row=True, by_column=False)
        return of_anchors, self._pull(columns, anchors, scales, by_row=False, by_column=True) if b_moves else None

    def _pull(self, rows: Side, columns: Side, scales: Tensor, *, by_row: bool, by_column: bool) -> Tensor:
        """Return ``Σ_c W_rc (x_r - y_c)``, ``W_rc = scale_i exp(log w_rc - top_i)``, i = r by row, i = c by column."""
        width = rows.embeddings.shape[1]
        (tiles, n_parts), share = _grid(rows, columns)
        wide = max(16, min(_WIDTH, triton.next_power_of_2(width)))
        out = rows.embeddings.new_empty(n_parts, *rows.embeddings.shape)
        grid = (tiles, n_parts, triton.cdiv(width, wide))
        by = {"BY_ROW": by_row, "BY_COLUMN": by_column}
        _launch(_pull, grid, rows, columns, scales, out, share, self.exponent, WIDTH=wide, **by)
        return out[0] if n_parts == 1 else out.sum(dim=0)


def _grid(rows: Side, columns: Side) -> tuple[tuple[int, int], int]:
    """Tiles of rows, and parts into which the columns are shared out; how many columns make a part."""
    row_tiles = triton.cdiv(len(rows.samples), _TILE["ROWS"])
    column_tiles = triton.cdiv(len(columns.samples), _TILE["COLUMNS"])
    share = triton.cdiv(column_tiles, max(1, _PROGRAMS // row_tiles))
    return (row_tiles, triton.cdiv(column_tiles, share)), share * _TILE["COLUMNS"]


def _launch(
    kernel: Any, grid: Any, rows: Side, columns: Side, scales: Any, out: Tensor, share: int, exponent: Any, **more: Any
) -> None:  # fmt: skip
    n_rows, n_columns, width = len(rows.samples), len(columns.samples), rows.embeddings.shape[1]
    rate = out.new_full((), -1.0) / exponent.tau  # on the device, whether τ is a number or learnt
    # Triton starts kernels on the current GPU; compiled code sees to that itself.
    with contextlib.nullcontext() if torch.compiler.is_compiling() else torch.cuda.device_of(out):  # type: ignore[no-untyped-call]
        kernel[grid](
            *rows, *columns, *scales, rate, out, n_rows, n_columns, width, share,
            POWER=float(exponent.power), PRECISION=_precision(), **_TILE, **more,
        )  # fmt: skip


@torch.compiler.assume_constant_result  # compiled code keeps what was in force when it was made
def _precision() -> str:
    try:
        one_product = torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:  # it was set by the newer torch.backends.cuda.matmul.fp32_precision
        one_product = torch.backends.cuda.matmul.fp32_precision == "tf32"
    if torch.cuda.is_available() and (torch.version.hip or torch.cuda.get_device_capability() < (8, 0)):
        return "ieee"  # no TF32 there
    return "tf32" if one_product else "tf32x3"


@triton.jit
def _sum_rows(
    x, half_x, samples_x, y, half_y, samples_y, rate, out, n_rows, n_columns, width, share,
    POWER: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    top = tl.full([ROWS], _LOWEST, tl.float32)  # below every log w, and finite
    weight = tl.zeros([ROWS], tl.float32)
    spread = tl.zeros([ROWS], tl.float32)
    energy = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for start in range(part * share, min((part + 1) * share, n_columns), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        d2, compared = _compare(
            x, half_x, samples_x, y, half_y, samples_y, rows, columns, n_rows, n_columns, width, PRECISION, CHUNK
        )
        log_w = _log_weights(d2, compared, rate, POWER)
        higher = tl.maximum(top, tl.max(log_w, axis=1))
        shrink = tl.exp(top - higher)
        log_w -= higher[:, None]
        w = tl.exp(log_w)
        spread = shrink * (spread + weight * (top - higher)) + tl.sum(w * tl.where(compared, log_w, 0.0), axis=1)
        weight = shrink * weight + tl.sum(w, axis=1)
        energy = shrink * energy + tl.sum(w * d2, axis=1)
        total += tl.sum(tl.where(compared, d2, 0.0), axis=1)
        top = higher
    out += part * n_rows + rows
    one_sum, inside = tl.num_programs(1) * n_rows, rows < n_rows
    tl.store(out, weight, mask=inside)
    tl.store(out + one_sum, spread, mask=inside)
    tl.store(out + 2 * one_sum, energy, mask=inside)
    tl.store(out + 3 * one_sum, total, mask=inside)
    tl.store(out + 4 * one_sum, top, mask=inside)


@triton.jit
def _pull(
    x, half_x, samples_x, y, half_y, samples_y, top, scale, rate, out, n_rows, n_columns, width, share,
    POWER: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHUNK: tl.constexpr,
    BY_ROW: tl.constexpr, BY_COLUMN: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1)
    at = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    weight = tl.zeros([ROWS], tl.float32)
    weighted = tl.zeros([ROWS, WIDTH], tl.float32)
    for start in range(part * share, min((part + 1) * share, n_columns), COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        d2, compared = _compare(
            x, half_x, samples_x, y, half_y, samples_y, rows, columns, n_rows, n_columns, width, PRECISION, CHUNK
        )
        log_w = _log_weights(d2, compared, rate, POWER)
        w = tl.zeros([ROWS, COLUMNS], tl.float32)
        if BY_ROW:
            w += _weights(log_w, top, scale, rows, n_rows, 1)
        if BY_COLUMN:
            w += _weights(log_w, top, scale, columns, n_columns, 0)
        weight += tl.sum(w, axis=1)
        weighted = tl.dot(w, _tile(y, columns, at, n_columns, width), weighted, input_precision=PRECISION)
    pulled = weight[:, None] * _tile(x, rows, at, n_rows, width) - weighted
    out += (part * n_rows + rows).to(tl.int64)[:, None] * width + at[None, :]
    tl.store(out, pulled, mask=(rows < n_rows)[:, None] & (at < width)[None, :])


@triton.jit
def _compare(
    x, half_x, samples_x, y, half_y, samples_y, rows, columns, n_rows, n_columns, width,
    PRECISION: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A tile of D, and which of its pairs are compared: those of two samples."""
    products = tl.zeros([rows.shape[0], columns.shape[0]], tl.float32)
    for start in range(0, width, CHUNK):
        at = start + tl.arange(0, CHUNK)
        a, b = _tile(x, rows, at, n_rows, width), _tile(y, columns, at, n_columns, width)
        products = tl.dot(a, tl.trans(b), products, input_precision=PRECISION)
    a = tl.load(half_x + rows, mask=rows < n_rows, other=0.0)
    b = tl.load(half_y + columns, mask=columns < n_columns, other=0.0)
    d2 = tl.maximum(a[:, None] + b[None, :] - products, 0.0, propagate_nan=tl.PropagateNan.ALL)
    i = tl.load(samples_x + rows, mask=rows < n_rows, other=0)
    j = tl.load(samples_y + columns, mask=columns < n_columns, other=0)
    return d2, (i[:, None] != j[None, :]) & (rows < n_rows)[:, None] & (columns < n_columns)[None, :]


@triton.jit
def _tile(x, rows, at, n_rows, width):
    inside = (rows < n_rows)[:, None] & (at < width)[None, :]
    return tl.load(x + rows.to(tl.int64)[:, None] * width + at[None, :], mask=inside, other=0.0)


@triton.jit
def _log_weights(d2, compared, rate, POWER: tl.constexpr):
    """``-D^p / τ``; -inf where nothing is compared."""
    if POWER == 1.0:
        log_w = d2
    elif POWER == 2.0:
        log_w = d2 * d2
    else:
        log_w = tl.where(d2 == 0.0, 0.0, tl.exp2(POWER * tl.log2(tl.where(d2 == 0.0, 1.0, d2))))
    log_w *= tl.load(rate)
    if POWER != 1.0:  # a power that overflows still counts as the least of the weights
        log_w = tl.maximum(log_w, _LOWEST)
    return tl.where(compared, log_w, -float("inf"))


@triton.jit
def _weights(log_w, top, scale, anchors, n_anchors, AXIS: tl.constexpr):
    """``scale_i exp(log w - top_i)``, anchors along the rows (axis 1 is the columns') or along the columns (0)."""
    tops = tl.load(top + anchors, mask=anchors < n_anchors, other=0.0)
    scales = tl.load(scale + anchors, mask=anchors < n_anchors, other=0.0)
    # At most 0, but D_ij and D_ji may round apart.
    log_w = tl.minimum(log_w - tl.expand_dims(tops, AXIS), 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.expand_dims(scales, AXIS) * tl.exp(log_w)

"""Who is compared with whom: every argument alone and in pairs against plain loops, for every strategy and engine."""

import itertools
import math

import numpy
import pytest
import torch
from batches import random_queue, several_views
from oracles import STRATEGIES_OF_TESTS, one_pair, relative_error, strategy_id

from alphacl_plugins import AlphaCLLoss, PairWeights, row_losses
from alphacl_plugins.strategies import ADNCE, DHEL, KCL, Direct, Entropy, InfoNCE, LearnableTemperature, Square
from live_bytes import LiveBytes

N, D, VIEWS = 5, 3, 2
LABELS = torch.tensor([0, 1, 0, 2, 1])
ENGINES = {
    "autograd": {"block_size": "autograd"},
    "auto": {"block_size": "auto"},
    "blocks of 3": {"block_size": 3},
    "ring": {"gather_distributed": "ring", "block_size": 2},
}


def unit(rows):
    return rows / rows.norm(dim=-1, keepdim=True)


def loops(strategy, views, *, negatives="both", symmetric=True, options=(), **said):
    """``-E`` with its graph and value of each anchor, by loops over rows; copies are repeated."""
    options = dict(options)
    views = [unit(view) for view in views]
    labels, queue, extra = said.get("labels"), said.get("queue"), said.get("extra_negatives")
    rows = [("view", v, i, view[i]) for v, view in enumerate(views) for i in range(len(view))]
    columns = list(rows)
    if extra is not None and extra.ndim == 2:
        columns += [("extra", None, c, row) for c, row in enumerate(unit(extra))]
    own = unit(extra) if extra is not None and extra.ndim == 3 else None
    queued = [] if queue is None else [("queue", None, q, row) for q, row in enumerate(unit(queue))]

    def label(row):
        kind, _, i, _ = row
        if labels is None or kind in ("extra", "own"):
            return None
        if kind == "queue":
            known = said.get("queue_labels")
            found = None if known is None or int(known[i]) == -1 else int(known[i])
        else:
            found = int(labels[i])
        return None if found == options.get("ignore_label") else found

    def name(row):
        ids = said.get("exclude")
        if ids is None or ids.dtype == torch.bool or row[0] == "own":
            return None
        n_extra = 0 if extra is None or extra.ndim == 3 else len(extra)
        place = {"view": 0, "extra": N, "queue": N + n_extra}[row[0]] + row[2]
        return int(ids[place]) if place < len(ids) and ids[place] >= 0 else None

    def seen(anchor):
        """The columns of an anchor, in order."""
        _, v, i, _ = anchor
        wanted = {"both": lambda w: True, "same": lambda w: w == v, "cross": lambda w: w != v, "queue": lambda w: False}
        every = labels is not None
        found = [row for row in columns if row[0] == "extra" or every or wanted[negatives](row[1])]
        found += [] if own is None else [("own", None, h, row) for h, row in enumerate(own[i])]
        return found + queued, wanted[negatives]

    energies, values = [], []
    for m, anchor in enumerate([row for row in rows if symmetric or row[1] == 0]):
        _, v, i, z = anchor
        positives, others = [], []
        candidates, in_view = seen(anchor)
        mask, count = said.get("exclude"), said.get("count")
        for k, row in enumerate(candidates):
            kind, w, j, _ = row
            same_sample = kind == "view" and j == i
            same = same_sample or (label(row) is not None and label(row) == label(anchor))
            apart = not same_sample and name(row) is not None and name(row) == name(anchor)
            copies = 1
            if isinstance(count, tuple):
                copies = float(count[0][m % len(count[0])]) * float(count[1][k])
            elif count is not None and count.ndim == 2:
                copies = float(count[m, k])
            elif count is not None and len(count) == len(candidates) and len(count) != N:
                copies = float(count[k])
            elif count is not None and kind == "view":
                copies = float(count[j])
            if mask is not None and mask.dtype == torch.bool and mask[m, k]:
                copies = 0
            if apart or (same_sample and w == v):
                continue
            if same:
                if options.get("positives") != "other_views" or w != v:
                    positives.append(row[3])
                    others.append(copies)
            elif kind != "view" or in_view(w):
                assert copies == round(copies)
                positives.append(None)
                others.append((row[3], round(copies)))
        found = [(p, c) for p, c in zip(positives, others, strict=True) if p is not None]
        base = [row for p, o in zip(positives, others, strict=True) if p is None for row in [o[0]] * o[1]]
        if labels is None and len(found) != len(views) - 1:  # other views are positives whether compared or not
            found = [(views[w][i], 1) for w in range(len(views)) if w != v]
        parts = []
        for p, (row, _) in enumerate(found):
            rest = [r for q, (r, c) in enumerate(found) if q != p for r in [r] * round(c)]
            beside = base + (rest if options.get("positives_as_negatives") else [])
            parts.append(one_pair(strategy, z, row, beside))
        zero = 0 * z.sum()
        energies.append(sum((e for e, _ in parts), zero) / max(1, len(parts)))
        values.append(sum((value for _, value in parts), zero.detach()) / max(1, len(parts)))
        if not parts:
            values[-1] = torch.tensor(math.nan, dtype=z.dtype)
    return torch.stack(energies), torch.stack(values)


G = torch.Generator().manual_seed(4)
EXTRA = torch.randn(4, D, generator=G, dtype=torch.float64)
OWN = torch.randn(N, 2, D, generator=G, dtype=torch.float64)
SAID = {
    "labels": {"labels": LABELS},
    "queue": {"queue": random_queue()},
    "queue_labels": {"labels": LABELS, "queue": random_queue(), "queue_labels": torch.tensor([0, 1, -1, 3, 2, 0, -1])},
    "extra": {"extra_negatives": EXTRA},
    "own": {"extra_negatives": OWN},
    "ids": {"exclude": torch.tensor([7, 7, 3, -1, -1])},
    "ids of extra": {"extra_negatives": EXTRA, "exclude": torch.tensor([7, 7, 3, -1, -1, 3, 7, -1, -1])},
    "count of samples": {"count": torch.tensor([1.0, 2.0, 0.0, 3.0, 1.0])},
}
RULES = {
    "plain": {},
    "other views": {"positives": "other_views"},
    "others too": {"positives_as_negatives": True},
    "ignore": {"ignore_label": 1},
}


def mixed(names):
    said = {}
    for name in names:
        said |= SAID[name]
    return said


PAIRS = [pair for pair in itertools.combinations(SAID, 2) if not {"extra", "own", "ids of extra"} >= set(pair)]
CASES = [(name,) for name in SAID] + PAIRS


def able(strategy, engine):
    return engine != "ring" or getattr(strategy, "separable", False)


def check(
    strategy, *engines, n_views=VIEWS, negatives="both", symmetric=True, options=(), reductions=("mean",), **said
):
    views = several_views(n_views, N, D)
    extra = said.get("extra_negatives")
    leaves = views + ([] if extra is None else [extra.clone().requires_grad_()])
    if extra is not None:
        said = said | {"extra_negatives": leaves[-1]}
    energies, values = loops(strategy, views, negatives=negatives, symmetric=symmetric, options=options, **said)
    counted = ~values.isnan()
    weights = torch.linspace(0.5, 2, len(values), dtype=torch.float64)
    z, *rest = views
    for reduction in reductions:
        expected = (energies * weights).sum() if reduction == "none" else energies.sum() / counted.sum().clamp_min(1)
        wanted = torch.autograd.grad(expected, leaves, allow_unused=True, retain_graph=True)
        scale = max(float(g.abs().max()) for g in wanted if g is not None)
        for engine in engines:
            if not able(strategy, engine):
                continue
            loss = AlphaCLLoss(
                strategy,
                negatives=negatives,
                symmetric=symmetric,
                reduction=reduction,
                **dict(options),
                **ENGINES[engine],
            )
            total = loss(z, *rest, **said)
            if reduction == "none":
                assert relative_error(total, values.nan_to_num()) < 1e-12
                total = (total * weights).sum()
            else:
                mean = values[counted].sum() / counted.sum().clamp_min(1)
                assert torch.allclose(total, mean, rtol=1e-12, atol=1e-12 * float(values[counted].abs().max()))
            for g, w in zip(torch.autograd.grad(total, leaves, allow_unused=True), wanted, strict=True):
                g, w = (torch.zeros(1) if x is None else x for x in (g, w))
                assert float((g - w).abs().max()) <= 1e-12 * max(scale, 1e-3)


@pytest.mark.parametrize("names", CASES, ids="+".join)
def test_arguments_alone_and_in_pairs(names):
    for strategy in (InfoNCE(0.3), Direct(0.3), Square(0.5), KCL("imq")):
        for negatives in ("both", "cross"):
            check(strategy, *ENGINES, negatives=negatives, **mixed(names))


@pytest.mark.parametrize("strategy", STRATEGIES_OF_TESTS, ids=strategy_id)
def test_every_strategy(strategy):
    for names in (("queue_labels", "count of samples"), ("ids of extra", "count of samples"), ("own", "labels")):
        check(strategy, "auto", "autograd", **mixed(names))
        check(strategy, "blocks of 3", reductions=("none",), symmetric=False, **mixed(names))


@pytest.mark.parametrize(
    "strategy", [InfoNCE(0.05), InfoNCE(0.3, eps=0.0), Direct(0.3), Square(0.5), KCL("imq")], ids=strategy_id
)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_views", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_rules(n_views, rule, strategy):
    for names in (("labels",), ("queue_labels",), ("labels", "ids"), ("labels", "count of samples"), ("labels", "own")):
        if rule == "other views" and n_views == 1 and "queue_labels" not in names:
            continue  # an error
        check(strategy, *ENGINES, n_views=n_views, options=RULES[rule], reductions=("mean", "none"), **mixed(names))


@pytest.mark.parametrize("rule", RULES)
def test_rules_with_a_second_sum_of_exponentials(rule):
    for names in (("labels",), ("labels", "count of samples")):
        check(ADNCE(), *ENGINES, n_views=2, options=RULES[rule], reductions=("none",), **mixed(names))


@pytest.mark.parametrize("n_views", [2, 3])
@pytest.mark.parametrize("names", [(), ("ids",), ("count of samples", "extra")], ids="+".join)
def test_other_views_too_are_negatives_without_labels(n_views, names):
    for strategy in (InfoNCE(0.3), Square(0.5)):
        check(strategy, *ENGINES, n_views=n_views, options=RULES["others too"], **mixed(names))


@pytest.mark.parametrize("strategy", [InfoNCE(0.3), Square(0.5), KCL("imq")], ids=strategy_id)
@pytest.mark.parametrize("negatives", ["both", "cross", "same", "queue"])
def test_matrices(negatives, strategy):
    queue, views = random_queue(), several_views(VIEWS, N, D)
    for extra in (None, EXTRA, OWN):
        call = {"queue": queue, "extra_negatives": extra}
        m, k = AlphaCLLoss(strategy, negatives=negatives).pair_weights(*views, **call).neg.shape
        g = torch.Generator().manual_seed(1)
        mask = torch.rand(m, k, generator=g) < 0.3
        count = torch.randint(0, 3, (m, k), generator=g)
        rows, columns = torch.randint(1, 3, (m,), generator=g), torch.randint(0, 3, (k,), generator=g)
        check(strategy, *ENGINES, negatives=negatives, **call, exclude=mask)
        for counts in (count, columns, (rows, columns)):
            check(strategy, *ENGINES, negatives=negatives, **call, count=counts)
            check(strategy, *ENGINES, negatives=negatives, **call, count=counts, exclude=mask)


@pytest.mark.parametrize("strategy", STRATEGIES_OF_TESTS, ids=strategy_id)
def test_an_anchor_all_of_whose_negatives_count_0_is_0(strategy):
    d_pos, d_neg = torch.rand(2, 1, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)
    losses = row_losses(strategy, d_pos, d_neg, count=torch.tensor([[False] * 3, [True] * 3]))
    assert losses[0] == 0
    assert relative_error(losses[1:], row_losses(strategy, d_pos[1:], d_neg[1:])) < 1e-12
    if getattr(strategy, "counts", False):
        assert row_losses(strategy, d_pos, d_neg, count=torch.tensor([[0.0] * 3, [1.0] * 3]))[0] == 0


def test_small_integers_may_be_ids():
    z, extra = torch.randn(2, 6, 3), torch.randn(2, 3)
    small, ids = torch.tensor([1, 1, 2, 3, 4, 5], dtype=torch.uint8), torch.tensor([1, 1, 2, 3, 4, 5])
    assert torch.equal(*(AlphaCLLoss()(*z, exclude=x, extra_negatives=extra) for x in (small, ids)))


@pytest.mark.parametrize("engine", ENGINES)
def test_values_that_are_known(engine):
    torch.manual_seed(0)
    z, a = torch.randn(2, 6, 8)
    loss = AlphaCLLoss("infonce", tau=0.5, **ENGINES[engine])
    assert float(loss(z, labels=torch.tensor([0, 0, 1, 1, 2, 3]))) == pytest.approx(1.0816, abs=5e-5)
    valid = torch.tensor([1, 1, 1, 1, 0, 0])
    assert float(loss(z, a, sample_weight=valid, count=valid)) == pytest.approx(1.2238, abs=5e-5)
    assert float(loss(z[:4], a[:4])) == pytest.approx(1.2238, abs=5e-5)


def test_sample_weights_weigh_the_mean():
    views, weights = several_views(2, N, D), torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0], dtype=torch.float64)
    for engine in ENGINES:
        each = AlphaCLLoss("infonce", reduction="none", **ENGINES[engine])(*views)
        twice = weights.repeat(2)
        expected = (twice * each).sum() / twice.sum()
        for given in (weights, twice):
            got = AlphaCLLoss("infonce", **ENGINES[engine])(*views, sample_weight=given)
            assert torch.allclose(got, expected, rtol=1e-12)
            pairs = zip(*(torch.autograd.grad(x, views, retain_graph=True) for x in (got, expected)), strict=True)
            assert all(relative_error(g, e) < 1e-12 for g, e in pairs)
        weighed = AlphaCLLoss("infonce", reduction="none", **ENGINES[engine])(*views, sample_weight=weights)
        assert torch.allclose(weighed, twice * each)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    ("strategy", "scale"),
    [
        (InfoNCE(0.2), 5.0),
        (Direct(0.25), 4.0),
        (DHEL(0.2), 10.0),
        (DHEL(0.2, include_augs=False), 5.0),
        (Entropy(0.1), 10),
    ],
    ids=str,
)
def test_the_usual_scale(strategy, scale, reduction, engine):
    views = several_views(2, N, D)
    paper, usual = (AlphaCLLoss(strategy, reduction=reduction, scale=s, **ENGINES[engine]) for s in ("paper", "ntxent"))
    p, u = (loss(*views).sum() for loss in (paper, usual))
    assert torch.allclose(u, scale * p, rtol=1e-12)
    for g, e in zip(torch.autograd.grad(u, views), torch.autograd.grad(p, views), strict=True):
        assert relative_error(g, scale * e) < 1e-12


@pytest.mark.parametrize("engine", ENGINES)
def test_a_temperature_learns_alike_in_both_scales(engine):
    views, found = several_views(2, N, D), []
    for scale in ("paper", "ntxent"):
        strategy = LearnableTemperature(InfoNCE(0.2))
        loss = AlphaCLLoss(strategy, scale=scale, **ENGINES[engine])(*views)
        found.append((loss, torch.autograd.grad(loss, strategy.log_tau)[0]))
    (paper, slope), (usual, other) = found
    assert torch.allclose(usual, paper / 0.2, rtol=1e-6)
    assert torch.equal(slope, other)


def test_no_usual_scale_without_a_temperature():
    with pytest.raises(ValueError, match=r'scale: expected "paper" with KCL.*got "ntxent"'):
        AlphaCLLoss("kcl", scale="ntxent")


def test_one_view_is_the_loss_of_metric_learning():
    """pytorch-metric-learning's NTXentLoss where classes have one size, its SupConLoss with positives as negatives."""
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="needs pytorch-metric-learning")
    z = torch.randn(12, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for labels, mine, theirs in (
        (torch.arange(12) % 4, AlphaCLLoss("infonce", tau=0.2), losses.NTXentLoss(temperature=0.2)),
        (
            torch.tensor([0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 3, 0]),
            AlphaCLLoss("infonce", tau=0.2, positives_as_negatives=True),
            losses.SupConLoss(temperature=0.2),
        ),
    ):
        got, expected = mine(z, labels=labels), 0.2 * theirs(z, labels)
        assert torch.allclose(got, expected, rtol=1e-12)
        assert relative_error(torch.autograd.grad(got, z)[0], torch.autograd.grad(expected, z)[0]) < 1e-11


def test_one_tensor_twice_with_labels_warns():
    z = torch.randn(4, 3)
    with pytest.warns(UserWarning, match="z_aug: .* one view"):
        AlphaCLLoss()(z, z, labels=torch.tensor([0, 0, 1, 1]))


def cannot_count(d2_pos, d2_neg):
    return PairWeights(torch.softmax(-d2_neg, dim=1))


Z, Y = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("options", "call", "error", "message"),
    [
        ({}, {"z_aug": None}, TypeError, "z_aug: expected the embeddings of another view"),
        ({"negatives": "cross"}, {"z_aug": None, "labels": Y}, ValueError, 'negatives: expected "both".*one view'),
        (
            {"positives": "other_views"},
            {"z_aug": None, "labels": Y},
            ValueError,
            'positives: expected "all" with one view',
        ),
        ({}, {"queue_labels": Y, "queue": Z}, ValueError, "queue_labels: expected labels and a queue"),
        ({}, {"queue_labels": Y[:3], "queue": Z, "labels": Y}, ValueError, r"queue_labels: expected shape \[4\]"),
        ({}, {"extra_negatives": Z[:, :2]}, ValueError, "extra_negatives: expected 3 columns"),
        ({}, {"extra_negatives": Z[:3, None]}, ValueError, r"extra_negatives: expected .* N = 4, got \(3, 1, 3\)"),
        ({}, {"extra_negatives": Y}, TypeError, "extra_negatives: expected floating-point"),
        ({}, {"exclude": Z[0]}, TypeError, "exclude: expected integer ids or a bool mask, got torch.float32"),
        ({}, {"exclude": Y[:3]}, ValueError, r"exclude: expected shape \[N\] = \[4\].* got \[3\]"),
        (
            {},
            {"exclude": torch.ones(8, 7, dtype=torch.bool)},
            ValueError,
            r"exclude: .*\[M, K\] = \[8, 8\], got \[8, 7\]",
        ),
        ({}, {"count": torch.ones(3)}, ValueError, r"count: expected shape \[N\] = \[4\] or \[K\] = \[8\], got \[3\]"),
        ({}, {"count": (torch.ones(3), torch.ones(8))}, ValueError, r"count\[0\]: expected shape"),
        ({}, {"count": numpy.ones(4)}, TypeError, "^count: expected a tensor, numbers >= 0, or"),
        (
            {},
            {"count": torch.ones(4, device="meta")},
            TypeError,
            "^count: expected a dense tensor, got one without val",
        ),
        ({"strategy": cannot_count}, {"count": torch.ones(4)}, TypeError, "count: expected a bool mask"),
        ({}, {"sample_weight": torch.ones(5)}, ValueError, r"sample_weight: expected shape \[N\] = \[4\]"),
        (
            {},
            {"sample_wait": Y},
            TypeError,
            "^sample_wait: expected a keyword among labels, .*, sample_weight, got this",
        ),
    ],
)
def test_errors_name_the_argument(options, call, error, message):
    with pytest.raises(error, match=message):
        AlphaCLLoss(**options)(Z, **({"z_aug": Z + 1} | call))


@pytest.mark.parametrize(
    "option", [{"positives": "some"}, {"positives_as_negatives": 1}, {"ignore_label": 0.5}, {"scale": "x"}]
)
def test_options_are_checked(option):
    with pytest.raises((TypeError, ValueError), match=f"{next(iter(option))}: expected"):
        AlphaCLLoss(**option)


def test_a_strategy_that_cannot_count_takes_masks():
    views = several_views(2, N, D)
    mask = torch.tensor([True, True, False, True, True])
    got = AlphaCLLoss(cannot_count)(*views, count=mask, sample_weight=mask)
    assert torch.allclose(got, AlphaCLLoss(cannot_count)(*(view[mask] for view in views)))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("strategy", [InfoNCE(0.3), Direct(0.5), KCL("imq"), Square(0.5)], ids=strategy_id)
def test_statistics_of_counted_negatives_are_those_of_copies(strategy, engine):
    if not able(strategy, engine):
        pytest.skip("a ring needs weights that factor")
    z, z_aug = several_views(2, N, D)
    count, options = torch.tensor([1.0, 2.0, 0.0, 3.0]), {"negatives": "queue"} | ENGINES[engine]
    counted, copied = AlphaCLLoss(strategy, **options), AlphaCLLoss(strategy, **options)
    counted(z, z_aug, extra_negatives=EXTRA, count=count)
    copied(z, z_aug, extra_negatives=EXTRA.repeat_interleave(count.long(), dim=0))
    assert counted.last_stats.keys() == copied.last_stats.keys()
    for name, expected in copied.last_stats.items():
        assert relative_error(counted.last_stats[name], expected) < 1e-12, name


@pytest.mark.parametrize(
    "names", [("labels",), ("labels", "extra"), ("labels", "ids"), ("labels", "count of samples")], ids="+".join
)
@pytest.mark.parametrize("rule", ["plain", "others too"])
@pytest.mark.parametrize("strategy", [InfoNCE(0.1), Direct(0.5), KCL("imq")], ids=strategy_id)
def test_a_ring_has_the_statistics_of_the_whole_matrix(strategy, rule, names):
    z, z_aug = several_views(2, N, D)
    found = {}
    for engine in ("auto", "ring"):
        loss = AlphaCLLoss(strategy, **RULES[rule], **ENGINES[engine])
        loss(z, z_aug, **mixed(names))
        found[engine] = loss.last_stats
    for name, expected in found["auto"].items():
        assert relative_error(found["ring"][name], expected) < 1e-11, name


def test_statistics_with_other_positives_among_the_negatives():
    z, z_aug = several_views(2, N, D)
    loss = AlphaCLLoss(InfoNCE(0.1), positives_as_negatives=True)
    loss(z, z_aug, labels=LABELS)
    q = torch.nn.functional.normalize(loss.pair_weights(z, z_aug, labels=LABELS).neg, p=1, dim=1)
    assert relative_error(loss.last_stats["alpha_entropy"], torch.special.entr(q).sum(dim=1).mean()) < 1e-12


@pytest.mark.parametrize("options", [{"block_size": 32}, {"block_size": 16, "gather_distributed": "ring"}])
def test_ids_and_counts_take_memory_as_the_batch_and_not_as_its_square(options):
    peaks = []
    for n in (128, 256):
        views = several_views(2, n, 16, dtype=torch.float32)
        with LiveBytes() as memory:
            loss = AlphaCLLoss("infonce", **options)
            loss(*views, exclude=torch.arange(n) % 9, count=torch.ones(n)).backward()
        peaks.append(memory.peak)
    assert peaks[1] < 2.05 * peaks[0]

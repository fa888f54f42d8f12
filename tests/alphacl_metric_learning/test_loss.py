"""The pair loss beside pytorch-metric-learning's NTXentLoss: with infonce they are one, whatever names the pairs."""

import copy
import warnings

import pytest
import torch
from oracles import relative_error
from processes import run_in_processes
from torch import distributed as dist

losses = pytest.importorskip("pytorch_metric_learning.losses")
from pytorch_metric_learning import distances, miners, reducers, regularizers  # noqa: E402
from pytorch_metric_learning.utils.distributed import DistributedLossWrapper  # noqa: E402

import alphacl_plugins  # noqa: E402
from alphacl_metric_learning import AlphaCLLoss, CrossBatchMemory, SelfSupervisedLoss  # noqa: E402
from alphacl_plugins import PairWeights, strategies  # noqa: E402
from live_bytes import LiveBytes  # noqa: E402

TAU = 0.3
LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 0, 1])


def embeddings(seed=0, n=12, d=5):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).requires_grad_()


def agree(ours, theirs, *tensors):
    got, expected = ours(), theirs()
    assert got.item() == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    for g, e in zip(*(torch.autograd.grad(x, tensors) for x in (got, expected)), strict=True):
        assert relative_error(g, e) < 1e-12


MINERS = {
    "none": lambda: None,
    "angular": miners.AngularMiner,
    "easy, hard": lambda: miners.BatchEasyHardMiner("semihard", "hard"),
    "hard": miners.BatchHardMiner,
    "multi-similarity": miners.MultiSimilarityMiner,
    "pair margin": lambda: miners.PairMarginMiner(0.2, 0.8),
    "triplet margin": lambda: miners.TripletMarginMiner(0.2, "all"),
    "histogram": lambda: miners.UniformHistogramMiner(5, 3),
    "distance weighted": lambda: miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4),
}


@pytest.mark.parametrize("miner", MINERS.values(), ids=MINERS)
def test_whatever_a_miner_names(miner):
    z, mined = embeddings(), miner()
    pairs = None if mined is None else mined(z.detach(), LABELS)
    theirs, ours = losses.NTXentLoss(TAU), AlphaCLLoss("infonce", tau=TAU)
    agree(lambda: ours(z, LABELS, pairs), lambda: theirs(z, LABELS, pairs), z)


def test_triplets_that_come_twice_count_twice():
    z = embeddings()
    triplets = tuple(torch.tensor(x) for x in ([0, 0, 0, 3], [1, 1, 2, 4], [5, 5, 3, 0]))
    theirs, ours = losses.NTXentLoss(TAU), AlphaCLLoss("infonce", tau=TAU)
    agree(lambda: ours(z, LABELS, triplets), lambda: theirs(z, LABELS, triplets), z)
    with pytest.raises(ValueError, match=r"indices_tuple: expected each negative pair once with .*got some several"):
        AlphaCLLoss(lambda d_pos, d_neg: PairWeights(torch.exp(-d_neg)), scale="paper")(z, LABELS, triplets)


DISTANCES = {
    "cosine": distances.CosineSimilarity,
    "dot product": lambda: distances.DotProductSimilarity(normalize_embeddings=False),
    "length": distances.LpDistance,
    "squared length": lambda: distances.LpDistance(power=2, normalize_embeddings=False),
    "city block": lambda: distances.LpDistance(p=1),
    "signal to noise": distances.SNRDistance,
}


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_every_distance(distance):
    z, reference, classes = embeddings(), embeddings(1, n=7), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    theirs = losses.NTXentLoss(TAU, distance=distance())
    ours = AlphaCLLoss("infonce", tau=TAU, distance=distance())
    agree(lambda: ours(z, LABELS), lambda: theirs(z, LABELS), z)
    agree(
        lambda: ours(z, LABELS, ref_emb=reference, ref_labels=classes),
        lambda: theirs(z, LABELS, ref_emb=reference, ref_labels=classes),
        z,
        reference,
    )


REDUCERS = {
    "mean": reducers.MeanReducer,
    "not zero": reducers.AvgNonZeroReducer,
    "threshold": lambda: reducers.ThresholdReducer(low=2.0, high=9.0),
    "classes": lambda: reducers.ClassWeightedReducer(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])),
    "anchors": reducers.PerAnchorReducer,
    "sum": reducers.SumReducer,
}


@pytest.mark.parametrize("reducer", REDUCERS.values(), ids=REDUCERS)
@pytest.mark.parametrize("miner", [None, miners.TripletMarginMiner(0.2, "all")], ids=["all pairs", "triplets"])
def test_every_reducer(reducer, miner):
    z = embeddings()
    pairs = None if miner is None else miner(z.detach(), LABELS)
    theirs, ours = losses.NTXentLoss(TAU, reducer=reducer()), AlphaCLLoss("infonce", tau=TAU, reducer=reducer())
    agree(lambda: ours(z, LABELS, pairs), lambda: theirs(z, LABELS, pairs), z)


def test_no_reduction_gives_a_loss_for_each_positive_pair():
    z, found = embeddings(), []
    for loss in (losses.NTXentLoss, lambda tau, reducer: AlphaCLLoss("infonce", tau=tau, reducer=reducer)):
        found.append(loss(TAU, reducer=reducers.DoNothingReducer())(z, LABELS)["loss"])
    assert found[0]["reduction_type"] == found[1]["reduction_type"]
    assert all(torch.equal(a, b) for a, b in zip(found[0]["indices"], found[1]["indices"], strict=True))
    assert relative_error(found[1]["losses"], found[0]["losses"]) < 1e-12


@pytest.mark.parametrize("name", strategies.strategy_names())
def test_every_strategy_is_that_of_the_core(name):
    """A mean over anchors is that of the core, whose batch of positives is another one than the host's pairs."""
    z, built = embeddings(n=11), strategies.build_strategy(name)
    scale = "paper" if built.usual_scale is None else "ntxent"
    labels = LABELS[LABELS != 3]
    ours = AlphaCLLoss(name, scale=scale, reducer=reducers.PerAnchorReducer())
    if built.uses_batch:
        d2 = (1 - torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=2)).detach()
        built = built.on_batch(d2[(labels[:, None] == labels) & ~torch.eye(11, dtype=torch.bool)])
    core = alphacl_plugins.AlphaCLLoss(built, scale=scale, negatives="both", symmetric=True)
    agree(lambda: ours(z, labels), lambda: core(z, labels=labels), z)


def test_two_views_in_the_hosts_wrapper():
    views = embeddings(), embeddings(1)
    for symmetric in (True, False):
        theirs = losses.SelfSupervisedLoss(losses.NTXentLoss(TAU), symmetric=symmetric)
        ours = SelfSupervisedLoss(AlphaCLLoss("infonce", tau=TAU), symmetric=symmetric)
        agree(lambda ours=ours: ours(*views), lambda theirs=theirs: theirs(*views), *views)
    SelfSupervisedLoss(losses.NTXentLoss())
    with pytest.raises(Exception, match="not supported for ArcFaceLoss"):
        SelfSupervisedLoss(losses.ArcFaceLoss(4, 5))


@pytest.mark.parametrize("miner", [None, miners.MultiSimilarityMiner()])
@pytest.mark.parametrize("mask", [None, torch.arange(12) >= 6])
def test_a_memory_of_earlier_batches(miner, mask):
    theirs = losses.CrossBatchMemory(losses.NTXentLoss(TAU), 5, memory_size=20, miner=copy.deepcopy(miner))
    ours = CrossBatchMemory(AlphaCLLoss("infonce", tau=TAU), 5, memory_size=20, miner=copy.deepcopy(miner))
    for step in range(4):
        z = embeddings(step)
        agree(lambda z=z: ours(z, LABELS, enqueue_mask=mask), lambda z=z: theirs(z, LABELS, enqueue_mask=mask), z)


def test_regulariser_statistics_and_records_come_along():
    z = embeddings()
    options = {"embedding_regularizer": regularizers.LpRegularizer(), "embedding_reg_weight": 0.5}
    theirs, ours = losses.NTXentLoss(TAU, **options), AlphaCLLoss("infonce", tau=TAU, **options)
    agree(lambda: ours(z, LABELS), lambda: theirs(z, LABELS), z)


def test_without_positives_or_negatives_the_loss_is_zero():
    z = embeddings()
    loss = AlphaCLLoss("infonce")
    for labels in (torch.arange(12), torch.zeros(12, dtype=torch.int64)):
        value = loss(z, labels)
        assert value.item() == 0.0
        assert not torch.autograd.grad(value, z)[0].any()


def test_a_temperature_learns_as_in_the_core():
    z = embeddings()
    ours, core = AlphaCLLoss("infonce", tau=TAU, learnable_tau=True), alphacl_plugins.AlphaCLLoss(
        "infonce", tau=TAU, learnable_tau=True, scale="ntxent"
    )  # fmt: skip
    labels = torch.arange(6).repeat(2)
    got, expected = (torch.autograd.grad(loss, list(module.parameters())) for loss, module in (
        (ours(z, labels), ours), (core(z, labels=labels), core)))  # fmt: skip
    assert len(got) == 1
    assert relative_error(got[0], expected[0]) < 1e-6
    fixed = AlphaCLLoss("infonce", tau=TAU, learnable_tau=True, scale="paper")
    assert relative_error(torch.autograd.grad(fixed(z, labels), list(fixed.parameters()))[0], got[0]) < 1e-6


def test_wrong_options_name_themselves():
    dots = distances.DotProductSimilarity()
    for call, error, message in (
        (lambda: AlphaCLLoss("infonce", scale="usual"), ValueError, "scale: expected one of"),
        (lambda: AlphaCLLoss("triplet"), ValueError, 'scale: expected "paper" with Triplet'),
        (lambda: AlphaCLLoss("direct", distance=dots), ValueError, "distance: expected a distance or CosineSimilarity"),
        (lambda: AlphaCLLoss("infonce", temprature=1), TypeError, "infonce: expected options among"),
        (
            lambda: AlphaCLLoss("infonce", effective_share=0.1),
            ValueError,
            "effective_share: expected a strategy that a",
        ),
        (lambda: AlphaCLLoss("infonec"), ValueError, "did you mean 'infonce'"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_memory_is_that_of_the_matrix():
    """The host's NTXentLoss holds positive pairs times negative pairs: 6 GiB for these."""
    z = torch.randn(512, 64, requires_grad=True)
    labels = torch.arange(128).repeat(4)
    with LiveBytes() as live:
        AlphaCLLoss("infonce")(z, labels).backward()
    assert live.peak < 100 * 2**20


def in_two_processes(rank, world):
    warnings.simplefilter("ignore")
    z, mine = embeddings(n=12), slice(6 * rank, 6 * rank + 6)
    for efficient in (False, True):
        values = []
        for loss in (losses.NTXentLoss(TAU), AlphaCLLoss("infonce", tau=TAU)):
            rows = z[mine].detach().requires_grad_()
            value = DistributedLossWrapper(loss, efficient=efficient)(rows, LABELS[mine])
            values.append((value, torch.autograd.grad(value, rows)[0]))
        assert values[0][0].item() == pytest.approx(values[1][0].item(), rel=1e-12)
        assert relative_error(values[1][1], values[0][1]) < 1e-12
    whole = AlphaCLLoss("infonce", tau=TAU)(z, LABELS)
    value = DistributedLossWrapper(AlphaCLLoss("infonce", tau=TAU))(z[mine].detach(), LABELS[mine])
    assert value.item() / world == pytest.approx(whole.item(), rel=1e-12)  # the host multiplies by their number
    dist.barrier()


def test_in_the_hosts_wrapper_for_processes(tmp_path):
    run_in_processes(2, tmp_path, in_two_processes)

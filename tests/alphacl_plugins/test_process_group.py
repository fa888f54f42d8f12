"""Processes in groups: each group gives the value and the parameter gradient of one process with the group's batch."""

import copy
import pickle

import pytest
import torch
from oracles import random_views, relative_error
from processes import network, run_in_processes
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import alphacl_lightly
from alphacl_plugins import AlphaCLLoss, EmbeddingQueue
from alphacl_plugins.process_groups import OUTSIDE
from alphacl_plugins.strategies import DHEL, KCL, Direct, InfoNCE, LearnableTemperature, Square

CASES = {
    "infonce": {"strategy": InfoNCE(0.2)},
    "direct, three views, labels": {"strategy": Direct(), "views": 3, "labelled": True},
    "kcl, labels, queue, cross": {"strategy": KCL("imq"), "labelled": True, "queued": True, "negatives": "cross"},
    "dhel, queue, a loss for each anchor": {"strategy": DHEL(), "queued": True, "reduction": "none"},
    "infonce, queue alone": {"strategy": InfoNCE(0.2), "queued": True, "negatives": "queue"},
    "infonce, learnable": {"strategy": LearnableTemperature(InfoNCE(0.2))},
    "square, labels, queue": {"strategy": Square(1.0), "labelled": True, "queued": True},
    "direct, through alpha": {"strategy": Direct(), "detach_alpha": False},
}
NOT_IN_A_RING = ("square, labels, queue", "direct, through alpha")
NOT_A_MEMBER = "process_group: expected a group that this process belongs to"


def value_and_gradients(case, batch: int, rows: slice, model: nn.Module, **gathering) -> list[torch.Tensor]:
    """The batch is the number of a group, so that rows of another group change the result."""
    options = copy.deepcopy(case)
    queue = random_views(7, n=3, d=4)[0].detach() if options.pop("queued", False) else None
    labels = torch.tensor([0, 1, 2, 0, 3, 1, 0, 4])[rows] if options.pop("labelled", False) else None
    views = [random_views(10 * batch + k, n=8, d=5)[0].detach()[rows] for k in range(options.pop("views", 2))]
    criterion = AlphaCLLoss(**options, **gathering)
    model.zero_grad()
    value = criterion(*map(model, views), labels=labels, queue=queue).mean()
    value.backward()
    of_temperature = [p.grad.clone() for p in criterion.parameters()]
    return [value.detach(), *of_temperature, *[p.grad.clone() for p in model.parameters()]]


def in_four_processes(rank: int, world: int, expected: list[dict[str, list[torch.Tensor]]]) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    which, number = rank % 2, rank // 2  # the groups along "data" are the processes 0 and 2, and 1 and 3
    groups = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    for gather in (True, "auto", "ring"):
        compare_with_one_process(which, number, gather, groups[which], expected[which])
    compare_with_one_process(which, number, True, mesh["data"], expected[which])
    compare_queues(which, number, groups[which])
    check_second_derivatives(which, number, groups[which])
    check_that_a_mismatch_is_reported_in_its_group_alone(which, number, groups[which])
    check_copies(which, number, groups[which], expected[which]["infonce"][0])
    check_that_auto_decides_once(which, number, groups[which])
    check_what_is_refused(mesh)
    only_the_last_stage_of_a_pipeline_calls(rank)


def compare_with_one_process(which: int, number: int, gather, group, expected) -> None:
    rows = slice(4 * number, 4 * number + 4)
    average_over, model = group.get_group() if isinstance(group, DeviceMesh) else group, network()
    for name, case in CASES.items():
        if gather == "ring" and name in NOT_IN_A_RING:
            continue
        got = value_and_gradients(case, which, rows, model, gather_distributed=gather, process_group=group)
        for g, e in zip(got, expected[name], strict=True):
            dist.all_reduce(g, group=average_over)
            assert relative_error(g / 2, e) < (1e-6 if g.dtype == torch.float32 else 1e-9), (name, gather)  # log τ


def compare_queues(which: int, number: int, group) -> None:
    whole, gathered = EmbeddingQueue(8, 4).double(), EmbeddingQueue(8, 4, gather_distributed=True, process_group=group)
    lightly = alphacl_lightly.AlphaCLLoss(
        "infonce", memory_bank_size=(8, 4), gather_distributed="auto", process_group=group, l2_normalize=False
    ).double()
    gathered.double()
    for step in range(3):
        keys, out0 = random_views(10 * which + step, n=6, d=4)
        whole.enqueue(keys)
        gathered.enqueue(keys.chunk(2)[number])
        lightly(out0.chunk(2)[number], keys.detach().chunk(2)[number])
    assert torch.equal(gathered.embeddings, whole.embeddings)
    once_round = EmbeddingQueue(8, 4, overflow="drop").double()
    for step in range(3):
        once_round.enqueue(random_views(10 * which + step, n=6, d=4)[0])
    assert torch.equal(lightly.memory_bank.embeddings, once_round.embeddings)


def check_second_derivatives(which: int, number: int, group) -> None:
    views = [view.detach() for view in random_views(which, n=8, d=3)]
    own = slice(4 * number, 4 * number + 4)

    def gradient_of_penalty(loss, z, z_aug, factor):
        z = z.clone().requires_grad_()
        slope = torch.autograd.grad(factor * loss(z, z_aug), z, create_graph=True)[0]
        return torch.autograd.grad(slope.square().sum() / 2, z)[0]

    options = {"strategy": "entropy", "block_size": None}
    loss = AlphaCLLoss(**options, gather_distributed=True, process_group=group)
    got = gradient_of_penalty(loss, *(view[own] for view in views), factor=1.0)
    expected = gradient_of_penalty(AlphaCLLoss(**options), *views, factor=2.0)[own]
    assert relative_error(got, expected) < 1e-9


def check_that_a_mismatch_is_reported_in_its_group_alone(which: int, number: int, group) -> None:
    z = torch.randn(3 + number * which, 4)
    for gather in (True, "ring"):
        loss = AlphaCLLoss("infonce", gather_distributed=gather, process_group=group)
        if which == 0:
            assert loss(z, z).isfinite()
            continue
        with pytest.raises(ValueError, match=r"z: expected the same shape .* got rank 1: \[3, 4\], rank 3: \[4, 4\]$"):
            loss(z, z)


def check_copies(which: int, number: int, group, expected: torch.Tensor) -> None:
    own, model = slice(4 * number, 4 * number + 4), network()
    views = [model(random_views(10 * which + k, n=8, d=5)[0].detach()[own]) for k in range(2)]
    loss = AlphaCLLoss(InfoNCE(0.2), gather_distributed=True, process_group=group)
    queue = EmbeddingQueue(8, 4, gather_distributed=True, process_group=group).double()
    assert "process_group" not in repr(nn.ModuleList([loss, queue]))
    model_with_both = nn.ModuleDict({"loss": loss, "queue": queue})
    for duplicate in (copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))):
        clone = duplicate(model_with_both)
        if duplicate is not copy.deepcopy:
            with pytest.raises(ValueError, match=NOT_A_MEMBER):  # and not the default group, without a word
                clone["loss"](*views)
            with pytest.raises(ValueError, match=NOT_A_MEMBER):
                clone["queue"].enqueue(views[0])
            clone["loss"].process_group = clone["queue"].process_group = group
        assert clone["loss"].process_group is clone["queue"].process_group is group
        value = clone["loss"](*views).detach()
        dist.all_reduce(value, group=group)
        assert relative_error(value / 2, expected) < 1e-9
        clone["queue"].enqueue(views[0])
    assert list(model_with_both.state_dict()) == ["queue.embeddings", "queue.pointer"]


def check_that_auto_decides_once(which: int, number: int, group) -> None:
    views = [view.chunk(2)[number] for view in random_views(which, n=8, d=3)]
    alone = [dist.new_group([rank]) for rank in range(4)][dist.get_rank()]
    apart, together = AlphaCLLoss(), AlphaCLLoss(gather_distributed=True, process_group=group)
    for first, ever_after in ((alone, apart), (group, together)):
        loss = AlphaCLLoss(gather_distributed="auto", process_group=first)
        assert torch.equal(loss(*views), ever_after(*views))
        loss.process_group = group
        assert torch.equal(loss(*views), ever_after(*views))
        assert torch.equal(loss.pair_weights(*views).neg, ever_after.pair_weights(*views).neg)
        assert torch.equal(copy.deepcopy(loss)(*views), together(*views))  # a copy decides anew
        assert loss.gather_distributed == "auto"


def check_what_is_refused(mesh: DeviceMesh) -> None:
    for build in (AlphaCLLoss, lambda **options: EmbeddingQueue(4, **options)):
        with pytest.raises(ValueError, match=r'^process_group: expected a 1-D DeviceMesh, such as mesh\["dp"\], got'):
            build(gather_distributed=True, process_group=mesh)
        with pytest.raises(ValueError, match=r"^gather_distributed: expected True.* with a process_group, got False$"):
            build(process_group=mesh["data"])
    check_spread_tensors(mesh["data"])


def check_spread_tensors(mesh: DeviceMesh) -> None:
    tensor = pytest.importorskip("torch.distributed.tensor", reason="needs torch 2.5")
    z, labels, loss, queue = torch.eye(4), torch.arange(4), AlphaCLLoss(), EmbeddingQueue(8, 4)
    spread, own = (tensor.DTensor.from_local(x, mesh, [tensor.Shard(0)]) for x in (z, labels))
    for name, call in {
        "z": lambda: loss(spread, z),
        "z_aug": lambda: loss(z, spread),
        r"more_views\[0\]": lambda: loss(z, z, spread),
        "queue": lambda: loss(z, z, queue=spread),
        "labels": lambda: loss(z, z, labels=own),
        "keys": lambda: queue.enqueue(spread),
    }.items():
        message = rf"^{name}: expected a dense .*tensor \[.*\], got a DTensor, spread over processes; pass {name}\.to_l"
        with pytest.raises(TypeError, match=message):
            call()
    assert loss(spread.to_local(), z).isfinite()


def only_the_last_stage_of_a_pipeline_calls(rank: int) -> None:
    """Processes 0 and 1 send what they computed to 2 and 3, the last stage; every stage has the loss."""
    mesh, pair = DeviceMesh("cpu", [2, 3]), [dist.new_group([0, 1]), dist.new_group([2, 3])]
    x, x_aug = (view.detach() for view in random_views(5, n=8, d=5))
    first, last = network(5, 6), network(6, 4)
    alone = AlphaCLLoss("infonce")(last(first(x)), last(first(x_aug)))
    expected = torch.autograd.grad(alone, [*first.parameters(), *last.parameters()])
    for gather, group in ((True, pair[1]), ("ring", pair[1]), (True, mesh), ("ring", mesh)):
        loss = AlphaCLLoss("infonce", gather_distributed=gather, process_group=group)
        queue = EmbeddingQueue(4, 4, gather_distributed=True, process_group=group)
        if rank < 2:
            hidden = torch.stack([first(view.chunk(2)[rank]) for view in (x, x_aug)])
            dist.send(hidden.detach(), rank + 2)
            dist.recv(slope := torch.empty_like(hidden), rank + 2)
            got, wanted = list(torch.autograd.grad(hidden, list(first.parameters()), slope)), expected[:4]
            with pytest.raises(ValueError, match=NOT_A_MEMBER):
                loss(*hidden)
            with pytest.raises(ValueError, match=NOT_A_MEMBER):
                queue.enqueue(torch.ones(2, 4))
        else:
            dist.recv(hidden := torch.empty(2, 4, 6).double(), rank - 2)
            value = loss(*map(last, hidden.requires_grad_()))
            queue.enqueue(torch.ones(2, 4))
            slope, *got = torch.autograd.grad(value, [hidden, *last.parameters()])
            wanted = expected[4:]
            dist.send(slope, rank - 2)
        for g, e in zip(got, wanted, strict=True):
            dist.all_reduce(g, group=pair[rank // 2])
            assert relative_error(g / 2, e) < 1e-9


def test_each_group_is_one_process_with_its_batch(tmp_path):
    expected = [
        {name: value_and_gradients(case, batch, slice(None), network()) for name, case in CASES.items()}
        for batch in range(2)
    ]
    assert relative_error(expected[0]["infonce"][1], expected[1]["infonce"][1]) > 1e-3  # else groups could be mixed up
    run_in_processes(4, tmp_path, in_four_processes, expected)


def test_a_process_outside_has_torchs_own_word():
    assert OUTSIDE == dist.GroupMember.NON_GROUP_MEMBER


def test_auto_in_one_process_is_false():
    views, loss = random_views(0, n=4, d=3), AlphaCLLoss(gather_distributed="auto")
    assert torch.equal(loss(*views), AlphaCLLoss()(*views))
    with pytest.raises(ValueError, match=r"z: expected at least 2 samples \(or a queue\) to have negatives, got 1"):
        loss(*(view[:1] for view in views))
    assert "gather_distributed='auto'" in repr(loss)


@pytest.mark.parametrize("build", [AlphaCLLoss, alphacl_lightly.AlphaCLLoss, lambda **o: EmbeddingQueue(4, **o)])
@pytest.mark.parametrize("wrong", [0, "dp", torch.ones(2), [0, 1]])
def test_another_kind_of_group_is_refused(build, wrong):
    with pytest.raises(TypeError, match=r"^process_group: expected a ProcessGroup, a 1-D DeviceMesh or None, got "):
        build(gather_distributed=True, process_group=wrong)


def test_a_loss_from_a_pickle_works_where_there_is_one_process():
    loss = AlphaCLLoss(gather_distributed=True, process_group=-100)  # what new_group gives to a process outside
    views = random_views(0, n=4, d=3)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(*views), AlphaCLLoss()(*views))

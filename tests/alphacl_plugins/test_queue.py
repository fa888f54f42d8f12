"""The queue holds what a plain list would, disturbs no gradient, and is the same after a resume and on every rank."""

import copy
import io
import math
import pickle
import warnings

import pytest
import torch
from oracles import random_views
from processes import run_in_processes
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim.swa_utils import AveragedModel

from alphacl_plugins import AlphaCLLoss, EmbeddingQueue

OVERFLOWS = ["wrap", "drop"]


def random_keys(seed, n, d, dtype=torch.float32):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def enqueue_one_by_one(rows, place, keys, overflow):
    """The queue as a list: each key replaces the one at ``place``; where the next goes is returned."""
    for key in keys:
        rows[place] = key
        place += 1
        if place == len(rows):
            place = 0
            if overflow == "drop":
                break
    return place


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("seed", range(5))
def test_it_holds_what_a_plain_list_would(overflow, size, seed):
    queue = EmbeddingQueue(size, 3, overflow=overflow)
    rows, place = list(queue.embeddings.clone()), 0
    for n in torch.randint(0, 2 * size + 3, (12,), generator=torch.Generator().manual_seed(seed)).tolist():
        keys = random_keys(100 * seed + n, n, 3)
        queue.enqueue(keys)
        place = enqueue_one_by_one(rows, place, keys, overflow)
        assert torch.equal(queue.embeddings, torch.stack(rows))
        assert queue.pointer.item() == place


def test_by_default_it_holds_exactly_the_latest_keys():
    queue = EmbeddingQueue(7, 2)
    keys = random_keys(0, 40, 2)
    for batch in keys.split(3):
        queue.enqueue(batch)
    assert torch.equal(queue.embeddings.roll(-int(queue.pointer), dims=0), keys[-7:])


def test_it_begins_with_the_same_random_directions_everywhere():
    before = torch.get_rng_state()
    queue, other = EmbeddingQueue(50, 4), EmbeddingQueue(50)
    other.set_width(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(queue.embeddings, other.embeddings)
    torch.testing.assert_close(queue.embeddings.norm(dim=1), torch.ones(50))
    assert queue.embeddings.mean(dim=0).norm() < 0.4  # in all directions
    assert len(queue.embeddings.unique(dim=0)) == 50


def test_without_a_width_it_takes_that_of_the_first_keys():
    queue = EmbeddingQueue(5).double()
    assert queue.embeddings.shape == (5, 0)
    queue.enqueue(random_keys(0, 2, 3))
    assert queue.embeddings.shape == (5, 3)
    assert queue.embeddings.dtype == torch.float64
    queue.set_width(3)  # as it is
    assert torch.equal(queue.embeddings[:2].float(), random_keys(0, 2, 3))


def test_a_first_batch_in_validation_leaves_a_queue_that_training_can_write():
    queue = EmbeddingQueue(5)
    with torch.inference_mode():
        queue.enqueue(random_keys(0, 2, 3))
    queue.enqueue(random_keys(1, 2, 3))
    assert torch.equal(queue.embeddings[:4], torch.cat([random_keys(0, 2, 3), random_keys(1, 2, 3)]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("queue_dtype", [torch.float16, torch.float32, torch.float64])
def test_keys_take_the_dtype_of_the_queue_and_lose_their_gradient(dtype, queue_dtype):
    queue = EmbeddingQueue(4, 3).to(queue_dtype)
    keys = random_keys(0, 2, 3, torch.float64).to(dtype).requires_grad_()
    queue.enqueue(keys)
    assert torch.equal(queue.embeddings[:2], keys.detach().to(queue_dtype))
    assert not queue.embeddings.requires_grad


@pytest.mark.parametrize("negatives", ["both", "same", "cross", "queue"])
@pytest.mark.parametrize("l2_normalize", [True, False])
@pytest.mark.parametrize("detach_alpha", [True, False])
def test_enqueueing_before_backward_disturbs_no_gradient(negatives, l2_normalize, detach_alpha):
    views = random_views(0, n=4, d=3)
    options = {"negatives": negatives, "l2_normalize": l2_normalize, "detach_alpha": detach_alpha}
    criterion = AlphaCLLoss("infonce", **options)
    queue = EmbeddingQueue(6, 3).double()  # the dtype of the views, so that no cast makes a copy
    expected = torch.autograd.grad(criterion(*views, queue=queue.embeddings), views)
    loss = criterion(*views, queue=queue.embeddings)
    queue.enqueue(views[1])
    for gradient, e in zip(torch.autograd.grad(loss, views), expected, strict=True):
        assert torch.equal(gradient, e)
    assert not torch.equal(torch.autograd.grad(criterion(*views, queue=queue.embeddings), views)[0], expected[0])


class MoCo:
    """A tiny training run; each step's data depend on its number alone."""

    def __init__(self, seed, **options):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
            self.momentum_encoder = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
        self.optimizer = torch.optim.SGD(self.encoder.parameters(), lr=0.3, momentum=0.9)
        self.queue = EmbeddingQueue(17, **options)
        self.parts = ("encoder", "momentum_encoder", "optimizer", "queue")
        self.criterion = AlphaCLLoss("infonce", negatives="queue", symmetric=False)

    def train(self, steps):
        for step in steps:
            x, x_aug = random_views(step, n=5, d=6, dtype=torch.float32)
            q = self.encoder(x.detach())
            with torch.no_grad():
                for slow, fast in zip(self.momentum_encoder.parameters(), self.encoder.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)
                k = self.momentum_encoder(x_aug)
            self.queue.set_width(q.shape[1])
            loss = self.criterion(q, k, queue=self.queue.embeddings)
            self.queue.enqueue(k)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def save(self):
        file = io.BytesIO()
        torch.save({part: getattr(self, part).state_dict() for part in self.parts}, file)
        return file.getvalue()

    def load(self, saved):
        for part, state in torch.load(io.BytesIO(saved), weights_only=True).items():
            getattr(self, part).load_state_dict(state)


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("dim", [4, None])
@pytest.mark.parametrize("interrupted", [0, 1, 8])
def test_a_resumed_training_is_the_uninterrupted_one_bit_for_bit(overflow, dim, interrupted):
    whole = MoCo(0, dim=dim, overflow=overflow)
    whole.train(range(20))
    first = MoCo(0, dim=dim, overflow=overflow)
    first.train(range(interrupted))
    second = MoCo(1, dim=dim, overflow=overflow)
    second.load(first.save())
    second.train(range(interrupted, 20))
    for got, expected in zip(second.encoder.parameters(), whole.encoder.parameters(), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(second.queue.embeddings, whole.queue.embeddings)
    assert list(whole.queue.state_dict()) == ["embeddings", "pointer"]


def test_a_used_queue_goes_back_to_a_state_from_before_its_first_keys():
    queue = EmbeddingQueue(5)
    state = copy.deepcopy(queue.state_dict())
    queue.enqueue(random_keys(0, 2, 3))
    queue.load_state_dict(state)
    assert queue.embeddings.shape == (5, 0)
    assert queue.pointer.item() == 0


def test_a_state_of_another_shape_is_refused():
    state = EmbeddingQueue(5, 3).state_dict()
    for queue in (EmbeddingQueue(5, 4), EmbeddingQueue(6)):
        with pytest.raises(RuntimeError, match=r"size mismatch for embeddings"):
            queue.load_state_dict(state)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda queue: pickle.loads(pickle.dumps(queue))])
def test_a_copy_goes_its_own_way(duplicate):
    queue = EmbeddingQueue(4, 3, overflow="drop")
    queue.enqueue(random_keys(0, 3, 3))
    before = queue.embeddings.clone()
    clone = duplicate(queue)
    clone.enqueue(random_keys(1, 3, 3))
    assert torch.equal(queue.embeddings, before)
    queue.enqueue(random_keys(1, 3, 3))
    assert torch.equal(queue.embeddings, clone.embeddings)
    assert torch.equal(queue.pointer, clone.pointer)


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("dim", [3, None])
def test_compiled_it_holds_the_same_and_with_a_width_has_no_graph_break(overflow, dim):
    torch.compiler.reset()
    queue, expected = EmbeddingQueue(8, dim, overflow=overflow), EmbeddingQueue(8, 3, overflow=overflow)
    enqueue = torch.compile(queue.enqueue, fullgraph=dim is not None, backend="aot_eager")
    for step, n in enumerate([5, 5, 11, 3]):
        enqueue(random_keys(step, n, 3))
        expected.enqueue(random_keys(step, n, 3))
        assert torch.equal(queue.embeddings, expected.embeddings)
        assert torch.equal(queue.pointer, expected.pointer)


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_deterministic_algorithms_suffice(overflow):
    device = "cuda" if torch.cuda.is_available() else "cpu"  # CUDA is where an operation may have no such algorithm
    queue, expected = (EmbeddingQueue(8, 3, overflow=overflow).to(device) for _ in range(2))
    for step in range(3):
        keys = random_keys(step, 7, 3).to(device)
        expected.enqueue(keys)
        torch.use_deterministic_algorithms(True)
        try:
            queue.enqueue(keys)
        finally:
            torch.use_deterministic_algorithms(False)
    assert torch.equal(queue.embeddings, expected.embeddings)


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_it_never_looks_at_a_value(overflow):
    with FakeTensorMode(allow_non_fake_inputs=True):  # tensors without values: no host sync on any device
        queue = EmbeddingQueue(8, 3, overflow=overflow)
        queue.enqueue(torch.ones(5, 3))
        assert isinstance(queue.embeddings, FakeTensor)


BAD_ENTRIES = [math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("bad", BAD_ENTRIES)
@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("n", [1, 3, 5, 8, 13, 29])  # rows; more keys than rows, more than once round
def test_a_key_that_is_not_finite_leaves_its_row_as_it_was(n, overflow, bad):
    queue, size = EmbeddingQueue(8, 3, overflow=overflow), 8
    for step in range(4):
        keys = random_keys(step, n, 3)
        wrong = torch.arange(n) % 3 == step % 3
        keys[wrong, step % 3] = bad
        before, place = queue.embeddings.clone(), queue.pointer.item()
        expected = list(before)
        for k in range(n):
            if overflow == "drop" and place + k >= size:
                break
            row = (place + k) % size
            expected[row] = before[row] if wrong[k] else keys[k]  # as it was before the call
        queue.enqueue(keys)
        assert torch.equal(queue.embeddings, torch.stack(expected))
        finite = torch.zeros(n, 3)
        other = EmbeddingQueue(8, 3, overflow=overflow)
        other.pointer.fill_(place)
        other.enqueue(finite)
        assert torch.equal(queue.pointer, other.pointer)  # the place of the next key does not depend on the entries


def test_a_key_that_overflows_the_dtype_of_the_queue_does_not_enter():
    queue = EmbeddingQueue(4, 2).half()
    before = queue.embeddings.clone()
    queue.enqueue(torch.tensor([[1.0, 7e4], [1.0, 6e4]]))
    assert torch.equal(queue.embeddings, torch.cat([before[:1], torch.tensor([[1.0, 6e4]]).half(), before[2:]]))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch has no batching rule for index_copy_
@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_compiled_and_vmapped_it_keeps_bad_keys_out_too(overflow):
    torch.compiler.reset()
    keys = torch.stack([random_keys(step, 11, 3) for step in range(2)])
    keys[0, 4], keys[1, 10, 2] = math.nan, math.inf
    expected = [EmbeddingQueue(8, 3, overflow=overflow) for _ in keys]
    for queue, own in zip(expected, keys, strict=True):
        queue.enqueue(own)
    compiled = EmbeddingQueue(8, 3, overflow=overflow)
    torch.compile(compiled.enqueue, fullgraph=True, backend="aot_eager")(keys[0])
    assert torch.equal(compiled.embeddings, expected[0].embeddings)
    start = EmbeddingQueue(8, 3, overflow=overflow)

    def rows_after(own):
        queue = copy.deepcopy(start)
        queue.embeddings = queue.embeddings + 0 * own[0, 0]  # a queue for each of them
        queue.enqueue(own)
        return queue.embeddings

    assert torch.equal(torch.vmap(rows_after)(keys), torch.stack([queue.embeddings for queue in expected]))


def test_after_a_bad_batch_the_losses_are_finite():
    criterion, queue = AlphaCLLoss("infonce", negatives="queue", symmetric=False), EmbeddingQueue(6, 3)
    views = random_views(0, n=4, d=3, dtype=torch.float32)
    queue.enqueue(views[1] * torch.tensor([[1.0], [math.nan], [1.0], [math.inf]]))
    assert criterion(*views, queue=queue.embeddings).isfinite()


def compare_gathered(rank, world, expected):
    for overflow in OVERFLOWS:
        gathered, own = (EmbeddingQueue(8, gather_distributed=True, overflow=overflow, labels=True), EmbeddingQueue(8))
        for step in range(5):
            keys = random_keys(step, 6, 3).chunk(world)[rank]
            labels = torch.arange(6 * step, 6 * step + 6)
            gathered.enqueue(keys.requires_grad_(), labels.chunk(world)[rank])
            own.enqueue(keys)
            assert torch.equal(gathered.embeddings, expected[overflow][step][0]), (overflow, step)
            assert torch.equal(gathered.labels, expected[overflow][step][1]), (overflow, step)
        assert torch.equal(own.embeddings[(int(own.pointer) - 1) % 8], keys[-1])  # without gathering, its own alone
    before = copy.deepcopy(gathered.state_dict())
    message = r"keys: expected the same shape \[N, D\] on every rank to gather, got rank 0: \[2, 3\], rank 1: \[3, 3\]"
    with pytest.raises(ValueError, match=message):
        gathered.enqueue(torch.ones(2 + rank, 3), torch.arange(2 + rank))
    with pytest.raises(ValueError, match=r"keys: expected the same shape .* rank 0: \[2, 3\], rank 1: \[2, 4\]"):
        gathered.enqueue(torch.ones(2, 3 + rank), torch.arange(2))
    assert all(torch.equal(gathered.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_gathered_it_is_on_every_rank_that_of_one_process(world, tmp_path):
    expected = {}
    for overflow in OVERFLOWS:
        queue, expected[overflow] = EmbeddingQueue(8, overflow=overflow, labels=True), []
        for step in range(5):
            queue.enqueue(random_keys(step, 6, 3), torch.arange(6 * step, 6 * step + 6))
            expected[overflow].append((queue.embeddings.clone(), queue.labels.clone()))
    run_in_processes(world, tmp_path, compare_gathered, expected)


class WithQueue(nn.Module):
    """A model that holds its queue, as a module of Lightning or lightly's loss does."""

    def __init__(self, dim):
        super().__init__()
        self.layer, self.queue = nn.Linear(3, 3), EmbeddingQueue(5, dim)


@pytest.mark.parametrize("use_buffers", [True, False])
def test_a_moving_average_follows_a_queue_of_known_width(use_buffers):
    model = WithQueue(3)
    averaged = AveragedModel(model, multi_avg_fn=None, use_buffers=use_buffers)
    for step in range(2):
        model.queue.enqueue(random_keys(step, 2, 3))
        averaged.update_parameters(model)
    assert averaged.module.queue.embeddings.shape == (5, 3)


@pytest.mark.parametrize("begin", [lambda queue: queue.enqueue(torch.ones(2, 3)), lambda queue: queue.set_width(3)])
def test_a_copy_made_before_the_width_was_known_asks_for_it(begin):
    model = WithQueue(None)
    averaged = AveragedModel(model)
    with pytest.warns(UserWarning, match=r"^dim: a copy of this queue was made before its width .* dim=3\)"):
        begin(model.queue)
    with pytest.raises(RuntimeError, match=r"size of tensor a \(0\)"):  # in torch, where no line is ours
        averaged.update_parameters(model)


def test_a_copy_that_goes_its_own_way_is_no_mistake():
    queue = EmbeddingQueue(5)
    clone = copy.deepcopy(queue)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clone.enqueue(random_keys(0, 2, 3))  # the original may be a template
        copy.deepcopy(clone).enqueue(random_keys(0, 2, 3))
        restored = EmbeddingQueue(5)
        copy.deepcopy(restored)
        restored.load_state_dict(clone.state_dict())  # a resumed moving average has a state of its own
        restored.enqueue(random_keys(0, 2, 3))
    assert queue.embeddings.shape == (5, 0)


@pytest.mark.parametrize("overflow", OVERFLOWS)
def test_classes_go_with_their_keys(overflow):
    queue, plain = (EmbeddingQueue(5, 2, overflow=overflow, labels=labels) for labels in (True, False))
    assert queue.labels.tolist() == 5 * [-1]
    assert plain.labels is None
    assert "labels" not in plain.state_dict()
    seen = {}
    for step in range(6):
        keys, labels = random_keys(step, 3, 2), torch.arange(3 * step, 3 * step + 3)
        keys[1, 0] = torch.nan if step == 4 else keys[1, 0]
        seen |= {tuple(key): label for key, label in zip(keys.tolist(), labels.tolist(), strict=True)}
        queue.enqueue(keys, labels)
        plain.enqueue(keys)
        assert torch.equal(queue.embeddings, plain.embeddings)
        assert queue.labels.tolist() == [seen.get(tuple(key), -1) for key in queue.embeddings.tolist()]
    resumed = EmbeddingQueue(5, labels=True)
    resumed.load_state_dict(queue.state_dict())
    assert torch.equal(resumed.labels, queue.labels)


def test_it_shows_its_options():
    shown = repr(EmbeddingQueue(8, gather_distributed=True, overflow="drop"))
    assert shown == "EmbeddingQueue(size=8, dim=None, gather_distributed=True, overflow='drop', labels=False)"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: EmbeddingQueue(0), ValueError, r"size: expected an int >= 1, got 0"),
        (lambda: EmbeddingQueue(4.0), TypeError, r"size: expected an int >= 1, got 4.0"),
        (lambda: EmbeddingQueue(True), TypeError, r"size: expected an int >= 1, got True"),
        (lambda: EmbeddingQueue(4, 0), ValueError, r"dim: expected an int >= 1, got 0"),
        (lambda: EmbeddingQueue(4, "3"), TypeError, r"dim: expected an int >= 1, got '3'"),
        (lambda: EmbeddingQueue(4, gather_distributed=1), TypeError, r"gather_distributed: expected True or False"),
        (lambda: EmbeddingQueue(4, overflow="keep"), ValueError, r"overflow: expected one of 'wrap', 'drop', got 'kee"),
        (lambda: EmbeddingQueue(4).set_width(0), ValueError, r"dim: expected an int >= 1, got 0"),
        (lambda: EmbeddingQueue(4, 3).set_width(5), ValueError, r"dim: expected 3, the width of the queue, got 5"),
        (lambda: EmbeddingQueue(4).enqueue([1.0]), TypeError, r"keys: expected a tensor \[rows, columns\], got list"),
        (lambda: EmbeddingQueue(4).enqueue(torch.eye(2).long()), TypeError, r"keys: expected a floating-point tensor"),
        (lambda: EmbeddingQueue(4).enqueue(torch.ones(3)), ValueError, r"keys: expected shape \[rows, columns\], got"),
        (
            lambda: EmbeddingQueue(4, 3).enqueue(torch.ones(2, 5)),
            ValueError,
            r"keys: expected 3 columns as the queue has, got \(2, 5\)",
        ),
        (lambda: EmbeddingQueue(4, labels=1), TypeError, r"labels: expected True or False, got 1"),
        (
            lambda: EmbeddingQueue(4, labels=True).enqueue(torch.ones(2, 3)),
            ValueError,
            r"labels: expected .*, got none",
        ),
        (
            lambda: EmbeddingQueue(4).enqueue(torch.ones(2, 3), torch.ones(2)),
            ValueError,
            r"labels: .* none .*, got some",
        ),
        (
            lambda: EmbeddingQueue(4, labels=True).enqueue(torch.ones(2, 3), torch.ones(2)),
            TypeError,
            r"labels: expected an integer tensor \[2\], got torch.float32",
        ),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()

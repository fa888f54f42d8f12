"""Bad rows, strategies that write, odd defaults, shared memory, a queue that moves on: by every engine, drawn as cases.

The right value is known beforehand: it is that of the same numbers in an ordinary call.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import in_a_batch, relative_error
from reliability import record
from reliability.cases import FORMS, Case, both_forms, cases, every_name, moderate
from torch import Tensor

from alphacl_plugins import EmbeddingQueue, PairWeights

FORMS = {form: settings(of, max_examples=min(of.max_examples, 100)) for form, of in FORMS.items()}
BAD = st.sampled_from([math.nan, math.inf, -math.inf])


def ordinary(name: str, **fixed):
    """Cases of ordinary size, in float64 unless told otherwise."""
    return cases(moderate(name), benign=True, **{"dtype": torch.float64, "samples": st.integers(2, 10)} | fixed)


def value_and_gradients(case: Case, views: list[Tensor], **arguments: Tensor | None) -> list[Tensor]:
    """Of views that require a gradient, or lead to something that does."""
    loss = case.loss()(*views, **case.arguments() | arguments)
    return [loss.detach(), *torch.autograd.grad(loss.mean(), views)]


def same(got: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> bool:
    return all(relative_error(g, e) < tolerance for g, e in zip(got, expected, strict=True))


@every_name
@both_forms
def test_a_row_that_is_not_finite_spoils_its_own_loss_alone(name, form):
    """Where it is nobody's negative and nobody's positive: anchors of one view, negatives in other views or a queue.

    So does its gradient, but in a ring, where a tile multiplies weights of 0 with all of its rows.
    """

    @FORMS[form]
    @given(
        case=ordinary(
            name,
            negatives=st.sampled_from(["cross", "queue"]),
            symmetric=False,
            classes=0,
            queue_rows=st.integers(1, 20),
            reduction="none",
        ),
        row=st.integers(0, 39),
        column=st.integers(0, 63),
        bad=BAD,
    )
    def check(case: Case, row: int, column: int, bad: float):
        with record.case("a row that is not finite spoils its own loss alone", name):
            case = replace(case, strategy=in_a_batch(case.strategy))  # whose mean is another one without the row
            views = [view.requires_grad_() for view in case.embeddings()]
            row %= case.samples
            others = torch.arange(case.samples) != row
            expected = case.loss()(*views, **case.arguments())
            gradients = torch.autograd.grad(expected[others].sum(), views)
            with torch.no_grad():
                views[0][row, column % case.width] = bad
            losses = case.loss()(*views, **case.arguments())
            assert losses.isfinite().tolist() == others.tolist()
            assert relative_error(losses[others], expected[others]) < 1e-9
            if not case.ring:
                (gradient, *_) = torch.autograd.grad(losses[others].sum(), views)
                assert relative_error(gradient[others], gradients[0][others]) < 1e-9

    check()


@every_name
@both_forms
def test_a_key_that_is_not_finite_does_not_enter_the_queue(name, form):
    """Its place keeps the row that it had, and later losses are those of such a queue."""

    @FORMS[form]
    @given(
        case=ordinary(name, negatives=st.sampled_from(["queue", "both"]), queue_rows=st.integers(1, 20)),
        bad_keys=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 63), BAD), min_size=1, max_size=5),
        batches=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    )
    def check(case: Case, bad_keys: list[tuple[int, int, float]], batches: list[int]):
        with record.case("a key that is not finite does not enter the queue", name):
            queue = EmbeddingQueue(case.queue_rows, case.width).double()
            rows = list(queue.embeddings.clone())
            generator = torch.Generator().manual_seed(case.seed)
            keys = torch.randn(sum(batches), case.width, generator=generator, dtype=torch.float64)
            for key, column, bad in bad_keys:
                keys[key % len(keys), column % case.width] = bad
            for batch in keys.split(batches):
                queue.enqueue(batch)
            place = 0
            for batch in keys.split(batches):  # one key at a time, of each batch those that find room
                for position, key in enumerate(batch, start=place):
                    if position >= place + len(batch) - case.queue_rows and key.isfinite().all():
                        rows[position % case.queue_rows] = key
                place += len(batch)
            assert torch.equal(queue.embeddings, torch.stack(rows))
            views = [view.requires_grad_() for view in case.embeddings()]
            found = [value_and_gradients(case, views, queue=q) for q in (queue.embeddings, torch.stack(rows))]
            assert all(bool(part.isfinite().all()) for part in found[0])
            assert same(*found, tolerance=1e-14)

    check()


def scaled(strategy, *, in_place: bool) -> Callable[[Tensor, Tensor], PairWeights]:
    """A user's strategy: another one at half the distances, which it halves in its arguments or elsewhere."""

    def careful(d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        return strategy(d2_pos / 2, d2_neg / 2)

    def careless(d2_pos: Tensor, d2_neg: Tensor) -> PairWeights:
        weights = strategy(d2_pos.div_(2), d2_neg.div_(2))
        if not (d2_pos.requires_grad or d2_neg.requires_grad):  # else its own gradient would be lost
            d2_pos.fill_(math.nan)
            d2_neg.zero_()
        return weights

    return careless if in_place else careful


@every_name
@both_forms
def test_a_strategy_that_writes_into_its_arguments(name, form):
    """Loss, gradient, statistics and pair weights equal those of one that does not, gradient through α too."""

    @FORMS[form]
    @given(case=ordinary(name, samples=st.integers(2, 6)))
    def check(case: Case):
        if case.ring:  # which takes no strategy of a user's own that is not made of factors
            case = replace(case, ring=False)
        with record.case("a strategy may write into its arguments", name):
            found = []
            for in_place in (False, True):
                own = replace(case, strategy=scaled(case.strategy, in_place=in_place))
                views, loss = [view.requires_grad_() for view in case.embeddings()], own.loss()
                value = loss(*views, **case.arguments())
                weights = loss.pair_weights(*views, **case.arguments())
                gradients = torch.autograd.grad(value.square().sum(), views)
                found.append([value, *gradients, *loss.last_stats.values(), *weights])
            assert same(*found, tolerance=1e-13)

    check()


@contextlib.contextmanager
def odd_defaults() -> Iterator[None]:
    """What a script may have set for its own purposes: float64, and a device that holds no values."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


@every_name
@both_forms
def test_defaults_of_torch_do_not_matter(name, form):
    """To the last bit; dtype and device are those of the input."""

    @FORMS[form]
    @given(case=ordinary(name, dtype=torch.float32))
    def check(case: Case):
        with record.case("default dtype and device do not matter", name):
            views, arguments, loss = case.embeddings(), case.arguments(), case.loss()
            found = []
            for context in (contextlib.nullcontext, odd_defaults):
                rows = [view.clone().requires_grad_() for view in views]
                with context():
                    value = loss(*rows, **arguments)
                    value.square().sum().backward()
                    weights = loss.pair_weights(*rows, **arguments)
                    found.append([value.detach(), *(row.grad for row in rows), *loss.last_stats.values(), *weights])
            for expected, got in zip(*found, strict=True):
                assert (got.dtype, got.device.type) == (torch.float32, "cpu")
                assert torch.equal(got, expected)

    check()


# How V views of n rows, and a queue of q, lie in the memory of a tensor of V n + q rows.
LAYOUTS: dict[str, Callable[[Tensor, int, int, int], list[Tensor]]] = {
    "slices": lambda x, v, n, q: list(x.split([n] * v + [q])),
    "transposed memory": lambda x, v, n, q: list(x.T.contiguous().T.split([n] * v + [q])),
    "rows in turn": lambda x, v, n, q: [*(x[view : v * n : v] for view in range(v)), x[v * n :]],
    "expanded rows": lambda x, v, n, q: [x[k : k + 1].expand(n if k < v else q, -1) for k in range(v + 1)],
    "one tensor": lambda x, v, n, q: [x[:n]] * v + [x[:q]],
}


@pytest.mark.filterwarnings("ignore:z_aug. got the tensor z itself")  # one tensor, with labels
@every_name
@both_forms
def test_views_may_share_their_memory(name, form):
    """The gradient is that of clones, passed on to the tensor that holds them; the queue's part has none."""

    @FORMS[form]
    @given(case=ordinary(name), layout=st.sampled_from(sorted(LAYOUTS)))
    def check(case: Case, layout: str):
        with record.case("views may share their memory", name):
            arguments = case.arguments()
            queue = torch.empty(0, case.width).double() if arguments["queue"] is None else arguments["queue"]
            held = torch.cat([*case.embeddings(), queue]).requires_grad_()
            *views, queue = LAYOUTS[layout](held, case.views, case.samples, case.queue_rows)
            clones = [view.detach().clone(memory_format=torch.contiguous_format).requires_grad_() for view in views]
            of_clones, of_views = ({"queue": q if case.queue_rows else None} for q in (queue.detach().clone(), queue))
            expected, *gradients = value_and_gradients(case, clones, **of_clones)
            value = case.loss()(*views, **arguments | of_views)
            assert torch.equal(value, expected)
            got = torch.autograd.grad(value.mean(), held, retain_graph=True)
            assert same(got, torch.autograd.grad(views, held, gradients), tolerance=1e-12)

    check()


@every_name
@both_forms
def test_a_queue_may_be_filled_before_or_after_the_backward_pass(name, form):
    """Loss, gradient and statistics are those of the queue as it was at the call, to the last bit."""

    @FORMS[form]
    @given(case=ordinary(name, queue_rows=st.integers(1, 20)), batch=st.integers(1, 20))
    def check(case: Case, batch: int):
        with record.case("a queue may be filled before or after backward", name):
            keys = torch.randn(batch, case.width, generator=torch.Generator().manual_seed(case.seed)).double()
            found = []
            for order in ("never", "before", "after"):
                queue, views, loss = (
                    EmbeddingQueue(case.queue_rows, case.width).double(),
                    case.embeddings(),
                    case.loss(),
                )
                views = [view.requires_grad_() for view in views]
                rows = queue.embeddings.clone() if order == "never" else queue.embeddings
                value = loss(*views, **case.arguments() | {"queue": rows})
                if order == "before":
                    queue.enqueue(keys)
                gradients = torch.autograd.grad(value.square().sum(), views)
                queue.enqueue(keys)
                found.append([value.detach(), *gradients, *loss.last_stats.values()])
            for got in found[1:]:
                assert all(torch.equal(g, e) for g, e in zip(got, found[0], strict=True))

    check()

"""Writes engines.npz: what the first implementation of the loss computed, for whatever implements it later.

Made at commit ca66943 and only to be made there, where the loss was computed by autograd, block by block and in a ring
by code that shares little; before anything is written they have to agree to 1e-12::

    git worktree add /tmp/first ca66943
    cp tests/batches.py /tmp/first/tests/; cp tests/data/freeze_engines.py /tmp/first/tests/data/
    cd /tmp/first; OMP_NUM_THREADS=1 PYTHONPATH=.:tests python tests/data/freeze_engines.py

Two things go by the names and rules of today: `inverse` is what that commit calls ``Inverse(exact=False)``, and
`inverse_exact` its ``Inverse()``; where there is no negative at all, there are 0 effective negatives (then: 1).

The file holds, for S strategies and C combinations of options (tests/batches.py has both, in this order):
    strategies [S], combinations [C]: their names
    views [3, 5, 3], queue [7, 3], weights [15]: the inputs, in float64
    losses [S, C, 15]: loss of each anchor with reduction "none", then NaN
    gradients [S, C, 3, 5, 3]: gradient of ``Σ_i weights_i losses_i`` for the views, then NaN
    stats [S, C, 4]: d2_pos, d2_neg, alpha_entropy, effective_negatives
"""

import itertools
from pathlib import Path

import numpy as np
import torch
from batches import OPTIONS, STRATEGIES, Combination, random_batch, random_queue, random_weights, several_views

from alphacl_plugins import AlphaCLLoss, build_strategy
from alphacl_plugins.strategies import Strategy

STATS = ("d2_pos", "d2_neg", "alpha_entropy", "effective_negatives")


def first_strategy(name: str, options: dict) -> Strategy:
    """A strategy by the names of that commit."""
    if name == "inverse":
        return build_strategy("inverse", exact=False, **options)
    return build_strategy("inverse" if name == "inverse_exact" else name, **options)


def compute(strategy: Strategy, combination: Combination, **engine) -> tuple[np.ndarray, ...]:
    """Losses, gradient and statistics."""
    views, batch = random_batch(combination.views, combination.labels, combination.queued)
    kind = {"negatives": combination.negatives, "symmetric": combination.symmetric}
    loss = AlphaCLLoss(strategy, reduction="none", **kind, **engine)
    losses = loss(*views, **batch)
    gradient = torch.autograd.grad((random_weights(combination.anchors) * losses).sum(), views)
    stats = torch.stack([loss.last_stats[name] for name in STATS])
    return losses.detach().numpy(), torch.stack(gradient).numpy(), stats.numpy()


def freeze(strategy: Strategy, combination: Combination) -> tuple[np.ndarray, ...]:
    """What autograd finds, once the other engines agree."""
    found = compute(strategy, combination, block_size=None)
    others = [{"block_size": size} for size in (1, 3, combination.anchors, 100)]
    if getattr(strategy, "factored", None) is not None:
        others.append({"gather_distributed": "ring"})
    for engine in others:
        for got, expected in zip(compute(strategy, combination, **engine), found, strict=True):
            error = np.abs(got - expected).max()
            assert error <= 1e-12 * np.abs(expected).max(), (strategy, combination, engine, error)
    if combination.labels == "all equal" and not combination.queued:
        assert found[2][3] == 1
        found[2][3] = 0
    return found


def main() -> None:
    """Write the file."""
    from alphacl_plugins import tiles  # of that commit

    tiles.SIDE = 2
    shape = (len(STRATEGIES), len(OPTIONS))
    losses, gradients, stats = (np.full((*shape, *rest), np.nan) for rest in ((15,), (3, 5, 3), (len(STATS),)))
    for (s, spec), (c, options) in itertools.product(enumerate(STRATEGIES.values()), enumerate(OPTIONS)):
        found = freeze(first_strategy(*spec), options)
        losses[s, c, : options.anchors], gradients[s, c, : options.views], stats[s, c] = found
    np.savez_compressed(
        Path(__file__).with_name("engines.npz"),
        strategies=list(STRATEGIES),
        combinations=list(map(str, OPTIONS)),
        views=torch.stack(several_views(3)).detach().numpy(),
        queue=random_queue().numpy(),
        weights=random_weights(15).numpy(),
        losses=losses,
        gradients=gradients,
        stats=stats,
    )


if __name__ == "__main__":
    main()

"""What makes a study paired and its tuning fair: equal weights, batches and views; no test image in the tuning."""

import hashlib
from dataclasses import replace

import pytest
import torch

from alphacl_lightly import AlphaCLLoss
from paired.images import Parts, split
from paired.losses import Loss
from paired.run import Run, build, execute
from paired.training import pairing
from recipe import protocol as recipe_protocol


def hashes(parts, protocol, strategy, seed):
    return pairing(build(Loss(strategy), seed, protocol, parts.judging, parts))


def test_weights_batches_and_views_are_equal_across_losses_and_differ_across_seeds(parts, protocol):
    found = {
        (strategy, seed): hashes(parts, protocol, strategy, seed)
        for strategy in ("infonce", "direct", "square")
        for seed in (0, 1)
    }
    for seed in (0, 1):
        assert found["infonce", seed] == found["direct", seed] == found["square", seed]
    assert found["infonce", 0].keys() == {"weights", "order", "views"}
    assert all(found["infonce", 0][name] != found["infonce", 1][name] for name in found["infonce", 0])


def test_the_hashes_are_of_what_the_networks_see(parts, protocol, tuned, monkeypatch):
    """By another way: what goes into the network in training, and the weights then."""
    from recipe.network import BackboneWithHead

    original, seen = BackboneWithHead.forward, []

    def forward(self, images):
        seen.append((images.clone(), [value.clone() for value in self.state_dict().values()]))
        return original(self, images)

    monkeypatch.setattr(BackboneWithHead, "forward", forward)
    runs = {}
    for strategy in ("infonce", "square"):
        seen.clear()
        content = execute(tuned(strategy), protocol, parts)
        runs[strategy] = [images for images, _ in seen]
        assert digest(*(images for images, _ in seen[:2])) == content["pairing"]["views"]
        assert digest(*seen[0][1]) == content["pairing"]["weights"]
    steps = len(parts.judging.train) // protocol.batch_size
    assert len(runs["infonce"]) == 2 * steps * protocol.epochs
    assert all(torch.equal(a, b) for a, b in zip(runs["infonce"], runs["square"], strict=True))


def digest(*values):
    found = hashlib.sha256()
    for value in values:
        found.update(str(tuple(value.shape)).encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def test_every_image_comes_once_in_an_epoch_and_epochs_differ(parts, protocol):
    training = build(Loss("infonce"), 0, protocol, parts.judging, parts)
    first, second = training.order(0), training.order(1)
    assert len(first.unique()) == first.numel() == len(parts.judging.train) // 64 * 64
    assert not torch.equal(first, second)


def test_the_learning_rate_rises_and_then_falls_to_zero(parts, protocol):
    training = build(Loss("infonce"), 0, replace(protocol, epochs=10), parts.judging, parts)
    rates = [training.rate(step) for step in range(10 * len(training.steps))]
    assert max(rates) == rates[3] == protocol.learning_rate  # 40 steps, of which 4 rise
    assert rates[:4] == sorted(rates[:4])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-12)


class Untouchable:
    """Stands for the part with the test images."""

    def __getattribute__(self, name):
        raise AssertionError(f"the tuning touched the test images: {name}")


@pytest.mark.parametrize("strategy", ["infonce", "square"])
def test_the_tuning_never_touches_a_test_image(parts, protocol, tuned, strategy):
    blind = Parts(parts.tuning, Untouchable(), parts.augmentation)
    content = execute(Run("tuning", strategy, Loss(strategy), 0), protocol, blind)
    assert 0 <= content["probe"] <= 100
    with pytest.raises(AssertionError, match="touched the test images"):
        execute(tuned(strategy), protocol, blind)


@pytest.mark.parametrize("limit", [None, 200, 100])
def test_the_images_of_the_tuning_are_training_images_and_the_held_out_ones_are_not_trained_on(parts, limit):
    """Every pixel of an image says which one it is."""
    whole = parts.judging
    train, test = whole.train, whole.test
    numbers = torch.arange(len(train) + len(test), dtype=torch.int64)
    code = torch.stack([numbers // 256, numbers % 256, numbers * 0], dim=1).to(torch.uint8)[:, :, None, None]
    pixels = code.expand(-1, -1, 8, 8).contiguous()
    marked = replace(
        whole,
        train=replace(train, pixels=pixels[: len(train)]),
        test=replace(test, pixels=pixels[len(train) :]),
    )
    found = split(marked, limit, recipe_protocol.CIFAR)

    def which(images):
        first = images.pixels[:, :, 0, 0].long()
        return set((first[:, 0] * 256 + first[:, 1]).tolist())

    fitted, held_out = which(found.tuning.train), which(found.tuning.test)
    training = range(len(train))
    assert fitted <= set(training)
    assert held_out <= set(training)
    assert not fitted & held_out
    assert fitted <= which(found.judging.train)
    assert which(found.judging.test) <= set(numbers.tolist()) - set(training)
    n = limit or len(train)
    spare = len(train) - n
    assert len(found.judging.train) == n
    assert len(held_out) == (min(spare, n // 2) if spare >= n // 5 else n // 5)
    assert len(fitted) == (n if spare >= n // 5 else n - n // 5)
    assert len(found.tuning.test.labels.unique()) == 10


def test_a_run_gives_the_same_numbers_again_and_another_seed_others(parts, protocol, tuned):
    first, again, other = (execute(tuned(seed=seed), protocol, parts) for seed in (1, 1, 2))
    numbers = ("probe", "knn", "effective_negatives", "pairing")
    assert [first[name] for name in numbers] == [again[name] for name in numbers]
    assert first["effective_negatives"] != other["effective_negatives"]
    assert 1 <= first["effective_negatives"] <= 126
    assert [row["epoch"] for row in first["curve"]] == [1, 2]


def test_any_timm_model_can_be_trained(parts, protocol, tuned):
    content = execute(tuned(), replace(protocol, backbone="test_resnet", precision="bf16", epochs=1), parts)
    assert content["protocol"]["backbone"] == "test_resnet"
    assert content["diverged"] is None


@pytest.mark.filterwarnings("ignore")
def test_a_training_that_diverges_counts_as_a_guess(parts, protocol, tuned, monkeypatch):
    original = AlphaCLLoss.forward

    monkeypatch.setattr(AlphaCLLoss, "forward", lambda self, a, b: original(self, a, b) * float("nan"))
    content = execute(tuned(), protocol, parts)
    assert (content["probe"], content["knn"]) == (10.0, 10.0)
    assert "diverged" in content["diverged"]
    assert content["curve"][0]["loss"] is None

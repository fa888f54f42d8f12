import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from recipe.data import Data, Images
from recipe.evaluation import Features, extract, knn_accuracy, probe
from recipe.protocol import Neighbours, Probe


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    images, labels = torch.tensor(images, dtype=torch.float32), torch.tensor(labels)
    return Features(images[:1200], labels[:1200], images[1200:], labels[1200:], classes=10)


def test_the_probe_agrees_with_scikit_learns_where_both_have_converged(digits):
    # Adam's weight decay λ adds λ/2 |w|² to the mean loss: C = 1 / (λ n)
    decay, n = 0.01, len(digits.train)
    scaler = StandardScaler().fit(digits.train)
    expected = LogisticRegression(C=1 / (decay * n), max_iter=5000).fit(
        scaler.transform(digits.train), digits.train_labels
    )
    accuracy = 100 * expected.score(scaler.transform(digits.test), digits.test_labels)
    found = probe(digits, 0, Probe(learning_rate=3e-3, weight_decay=decay, batch_size=n, epochs=1500))
    assert found.last == pytest.approx(accuracy, abs=0.35)  # two of 597 images


def test_best_last_and_curve(digits):
    found = probe(digits, 0)
    assert len(found.curve) == 50
    assert found.last == found.curve[-1]
    assert found.best == max(found.curve)
    assert probe(digits, 0) == found
    assert probe(digits, 1).curve != found.curve


def test_one_step_of_the_probe_is_adams(digits):
    few = Features(digits.train[:64], digits.train_labels[:64], digits.test, digits.test_labels, classes=10)
    scaler = StandardScaler().fit(few.train)
    train, test = (torch.tensor(scaler.transform(x), dtype=torch.float32) for x in (few.train, few.test))
    generator = torch.Generator().manual_seed(3)
    bound = 64**-0.5
    weight, bias = (torch.empty(s).uniform_(-bound, bound, generator=generator) for s in ((10, 64), (10,)))
    probabilities = (train @ weight.T + bias).softmax(dim=1)
    error = (probabilities - torch.eye(10)[few.train_labels]) / 64
    for value, gradient in ((weight, error.T @ train), (bias, error.sum(dim=0))):
        value -= 3e-4 * torch.sign(gradient + 1e-3 * value)  # Adam's first step, but for its ε
    expected = 100 * ((test @ weight.T + bias).argmax(dim=1) == few.test_labels).double().mean().item()
    assert probe(few, 3, Probe(epochs=1)).last == pytest.approx(expected, abs=0.2)


def test_features_that_are_constant_do_no_harm(digits):
    wide = digits._replace(train=digits.train.clone(), test=digits.test.clone())
    wide.train[:, 0] = wide.test[:, 0] = 7.0
    assert np.isfinite(probe(wide, 0, Probe(epochs=2)).last)


def test_knn_votes_by_cosine(digits):
    bank = torch.nn.functional.normalize(digits.train.double())
    queries = torch.nn.functional.normalize(digits.test[:50].double())
    right = 0
    for query, label in zip(queries, digits.test_labels[:50], strict=True):
        cosine = bank @ query
        nearest = cosine.argsort(descending=True)[:20]
        votes = torch.zeros(10, dtype=torch.float64)
        for index in nearest:
            votes[digits.train_labels[index]] += torch.exp(cosine[index] / 0.07)
        right += int(votes.argmax() == label)
    few = digits._replace(test=digits.test[:50], test_labels=digits.test_labels[:50])
    assert knn_accuracy(few, Neighbours(k=20, temperature=0.07)) == 100 * right / 50


def test_knn_of_fewer_images_than_neighbours(digits):
    few = digits._replace(train=digits.train[:30], train_labels=digits.train_labels[:30])
    assert knn_accuracy(few) > 20


class Means(torch.nn.Module):
    def features(self, images):
        assert not self.training
        return images.flatten(2).mean(dim=2)


def data_of(pixels):
    return Data(
        Images(pixels[:600], torch.arange(600) % 3),
        Images(pixels[600:], torch.arange(100) % 3),
        Images(pixels[:0], torch.arange(0)),
        ("a", "b", "c"),
        "nothing",
    )


def test_features_are_of_images_in_0_1_in_order():
    pixels = torch.randint(0, 256, (700, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = extract(Means(), data_of(pixels), torch.device("cpu"))
    expected = pixels.double().mean(dim=(2, 3)) / 255
    torch.testing.assert_close(torch.cat([found.train, found.test]).double(), expected, rtol=0, atol=1e-6)
    assert found.train_labels.tolist() == [i % 3 for i in range(600)]
    assert found.classes == 3


def test_features_that_are_not_finite_are_an_error():
    class Diverged(Means):
        def features(self, images):
            return super().features(images) / 0

    pixels = torch.zeros(700, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"features: expected finite numbers, got others; the training has diverged"):
        extract(Diverged(), data_of(pixels), torch.device("cpu"))

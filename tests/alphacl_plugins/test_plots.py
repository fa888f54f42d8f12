"""Pictures show the numbers that they claim to show."""

import sys

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib")

from alphacl_plugins import metrics, plots
from alphacl_plugins.functional import l2_normalize
from alphacl_plugins.sharpness import sharpness_of
from alphacl_plugins.strategies import InfoNCE

HISTORY = [
    {"epoch": 0, "step": 0, "uniformity": -0.1},
    *(
        {"epoch": e, "step": 10 * e, "uniformity": -e, "knn": 10.0 + e}
        | {f"effective_negatives_{q}": int(q) + e for q in ("05", "25", "50", "75", "95")}
        for e in (1, 2)
    ),
]


def drawn(axes):
    """Lines by their labels: x, y."""
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.get_lines()}


def embeddings(n=40, d=6, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_curves_are_those_of_the_strategies():
    axes = plots.alpha_curves(["infonce:tau=0.2", InfoNCE(0.2), "uniform"], negatives=50)
    lines = drawn(axes)
    expected = sharpness_of("infonce:tau=0.2", lines["uniform (50)"][0], negatives=50)
    of_one = [line for label, line in lines.items() if f"({expected.effective:.0f})" in label]
    assert len(of_one) == 2
    for _, curve in of_one:
        assert curve == pytest.approx(expected.curve)
    assert set(lines["uniform (50)"][1]) == {1.0}


def test_a_heat_map_is_sorted_by_class():
    alpha, labels = torch.rand(6, 6), torch.tensor([2, 0, 1, 0, 2, 1])
    axes = plots.alpha_heatmap(alpha, labels)
    order = labels.argsort(stable=True)
    share = alpha / alpha.sum(dim=1, keepdim=True) * 6
    shown = share[order][:, order].log10().clamp_min(-2)
    np.testing.assert_allclose(axes.images[0].get_array(), shown, rtol=1e-5, atol=1e-6)
    assert sorted(line.get_xdata()[0] for line in axes.get_lines() if len(set(line.get_xdata())) == 1) == [1.5, 3.5]
    wide = plots.alpha_heatmap(torch.rand(6, 4), labels, columns=torch.tensor([1, 0, 1, 0]))
    assert wide.images[0].get_array().shape == (6, 4)


def test_effective_negatives_over_training():
    axes = plots.effective_negatives(HISTORY)
    assert drawn(axes)["median anchor"] == ([1, 2], [51, 52])
    bands = [band.get_paths()[0].vertices[:, 1] for band in axes.collections]
    assert [(band.min(), band.max()) for band in bands] == [(6, 97), (26, 77)]


def test_singular_values_are_relative_to_the_largest():
    z = embeddings()
    lines = drawn(plots.singular_values({"here": z, "a line": torch.ones(5, 6)}))
    values = torch.linalg.svdvals(l2_normalize(z))
    rank = float(metrics.effective_rank(l2_normalize(z)))
    assert lines[f"here ({rank:.1f})"][1] == pytest.approx((values / values[0]).tolist(), rel=1e-5)
    assert lines["a line (1.0)"][1][0] == 1


def test_similarities_are_a_density_beside_the_uniform_law():
    z = embeddings(60)
    axes = plots.similarities({"here": z})
    density, law = (patch.get_data().values for patch in axes.patches)
    assert density.sum() * 2 / len(density) == pytest.approx(1)
    assert law.sum() * 2 / len(law) == pytest.approx(1)
    unit = l2_normalize(z.double())
    cosines = (unit @ unit.T)[torch.ones(60, 60).triu(1).bool()].numpy()
    np.testing.assert_allclose(density, np.histogram(cosines, 80, (-1, 1), density=True)[0], rtol=1e-9)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == [f"here ({float(metrics.wasserstein_uniformity(z)):.3f})", "uniform law (0)"]
    assert len(plots.similarities({"a": z, "b": embeddings(9, 3)}).patches) == 2  # two widths have two laws
    assert len(plots.similarities(torch.rand(5, 1)).patches) == 1


def test_training_curves_leave_out_what_nobody_has():
    figure = plots.training_curves({"a": HISTORY, "b": HISTORY[:1]})
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == [plots.CURVES["knn"], plots.CURVES["uniformity"]]
    assert drawn(panels[1]) == {"a": ([0, 1, 2], [-0.1, -1, -2]), "b": ([0], [-0.1])}
    assert len(plots.training_curves(HISTORY, ["knn"]).axes) == 1


def test_into_axes_of_ones_own():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert plots.alpha_curves(["uniform"], axes=axes) is axes


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: plots.alpha_curves(["infonse"]), ValueError, "infonse"),
        (lambda: plots.alpha_curves(negatives=1), ValueError, "negatives: expected an int >= 2, got 1"),
        (lambda: plots.alpha_heatmap(torch.rand(3, 4), torch.arange(3)), ValueError, r"columns: expected shape \[4\]"),
        (lambda: plots.effective_negatives(HISTORY[:1]), ValueError, "history: expected effective negatives, got none"),
        (lambda: plots.training_curves(HISTORY, ["nothing"]), ValueError, "names: expected some .* got nothing"),
        (lambda: plots.singular_values({}), ValueError, "embeddings: expected at least one, got an empty mapping"),
        (lambda: plots.similarities(torch.rand(1, 4)), ValueError, "embeddings: expected at least 2 rows"),
        (lambda: plots.similarities({"mine": [1]}), TypeError, r"mine: expected a tensor \[rows, columns\], got list"),
    ],
)
def test_errors_say_what_was_expected(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"plots needs matplotlib: pip install 'alphacl-plugins\[plots\]'"):
        plots.alpha_curves()


def test_a_single_name_is_no_list_of_strategies():
    with pytest.raises(TypeError, match=r"^strategies: expected a list, got 'infonce'$"):
        plots.alpha_curves("infonce")

"""The Python of the manual's chapter on contrastive PCA runs as it stands there, and says what the chapter says."""

import re
from pathlib import Path

import pytest
import sklearn

CHAPTER = (Path(__file__).parents[2] / "docs" / "theory.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", CHAPTER, flags=re.DOTALL | re.MULTILINE)


def run(word):
    (code,) = (block for block in BLOCKS if word in block)
    names = {}
    with sklearn.config_context():  # what a block sets ends with it
        exec(compile(code, word, "exec"), names)
    return names


def test_contrastive_pca_on_tensors():
    names = run("operator = ContrastiveCovariance")
    scale = names["eigenvalues"][0]
    expected = names["eigenvalues"] * names["components"].T
    assert (names["product"] - expected).abs().max() < 1e-4 * scale


@pytest.mark.slow
def test_the_search_over_tau(capsys):
    search = run("GridSearchCV")["search"]
    percent = [f"{100 * score:.1f}" for score in search.cv_results_["mean_test_score"]]
    expected = re.search(
        r"prints ([\d.]+), ([\d.]+) and ([\d.]+) % .*? for the best, τ = ([\d.]+)\.", CHAPTER.replace("\n", " ")
    )
    assert [float(score) for score in percent] == pytest.approx([float(x) for x in expected.groups()[:3]], abs=0.5)
    assert search.best_params_["reduce__strategy"].tau == float(expected[4])
    assert "InfoNCE(tau=0.1" in capsys.readouterr().out


def test_a_second_view_inside_a_pipeline():
    names = run("set_fit_request")
    assert names["z"].shape == (1797, 9)
    scaled, moved = (names["pipe"][0].transform(names[view]) for view in ("X", "X_aug"))
    by_hand = names["ContrastivePCA"](9).fit(scaled, X_aug=moved)
    assert abs(names["z"] - by_hand.transform(scaled)).max() < 1e-6
    assert not sklearn.get_config()["enable_metadata_routing"]

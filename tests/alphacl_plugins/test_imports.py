"""The core stands on torch alone, and importing it has no side effects in any host."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import alphacl_plugins

HOSTS = (
    "lightly",
    "timm",
    "solo",
    "lightning",
    "pytorch_lightning",
    "torchvision",
    "sklearn",
    "hydra",
    "scipy",
    "kornia",
)


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_the_core_imports_no_host():
    code = f"import alphacl_plugins, sys; print([h for h in {HOSTS!r} if h in sys.modules])"
    assert run(code) == "[]"


def test_the_core_imports_nothing_but_torch_and_the_standard_library():
    code = (  # sympy and mpmath: a dependency of torch, which some versions import late
        "import sys, torch; before = set(sys.modules)\n"
        "import alphacl_plugins\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(roots - set(sys.stdlib_module_names) - {'alphacl_plugins', 'torch', 'sympy', 'mpmath'}))"
    )
    assert run(code) == "[]"


def test_a_missing_host_is_named_with_the_line_that_installs_it():
    code = (
        "import sys; sys.modules['timm'] = None\n"
        "try:\n    import alphacl_timm\nexcept ImportError as error:\n    print(error)"
    )
    assert "pip install 'alphacl-plugins[timm]'" in run(code)


@pytest.mark.parametrize("missing", ["numpy", "sklearn"])
def test_the_sklearn_adapter_says_what_it_needs(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "try:\n    import alphacl_sklearn\nexcept ImportError as error:\n    print(error)"
    )
    assert run(code) == "alphacl_sklearn needs scikit-learn 1.6 or later: pip install 'alphacl-plugins[sklearn]'"


def test_the_lightly_adapter_works_without_lightly():
    code = (
        "import sys; sys.modules['lightly'] = None\n"
        "import torch, alphacl_lightly\n"
        "loss = alphacl_lightly.AlphaCLLoss('infonce', memory_bank_size=(8, 4))\n"
        "print(loss(torch.eye(4), torch.eye(4)).isfinite().item())"
    )
    assert run(code) == "True"


def test_imports_of_the_core_go_one_way():
    """A folder counts as one module; imports inside functions and for type checkers alone do not count."""
    root, needs = Path(alphacl_plugins.__file__).parent, {}
    for path in root.rglob("*.py"):
        unit = path.relative_to(root).parts[0].removesuffix(".py")
        imports = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom))
        names = [f"{node.module}.{alias.name}".split(".") for node in imports for alias in node.names]
        needs.setdefault(unit, set()).update(name[1] for name in names if name[0] == root.name and name[1] != unit)
    order = list(TopologicalSorter(needs).static_order())  # raises on a cycle
    steps = ["strategies", "functional", "pairs", "engines", "loss"]
    assert sorted(steps, key=order.index) == steps

"""The core stands on torch alone, and importing it has no side effects in any host."""

import subprocess
import sys

import pytest

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
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "import alphacl_plugins\n"
        "roots = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(roots - set(sys.stdlib_module_names) - {'alphacl_plugins', 'torch'}))"
    )
    assert run(code) == "[]"


@pytest.mark.parametrize(("package", "host"), [("alphacl_lightly", "lightly"), ("alphacl_timm", "timm")])
def test_a_missing_host_is_named_with_the_line_that_installs_it(package, host):
    code = (
        f"import sys; sys.modules[{host!r}] = None\n"
        f"try:\n    import {package}\nexcept ImportError as error:\n    print(error)"
    )
    assert f"pip install 'alphacl-plugins[{host}]'" in run(code)

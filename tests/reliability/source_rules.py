"""What our source may not do, found by reading its syntax tree: each finding is ``line: what``."""

from __future__ import annotations

import ast
from collections.abc import Iterator

UNSAFE_MODULES = {"pickle", "_pickle", "cPickle", "cloudpickle", "marshal", "shelve", "dill", "joblib"}
HARMLESS = "UnpicklingError"  # what a safe load raises for a broken file
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__"}
UNSAFE_FUNCTIONS = {"tempfile.mktemp", "os.tempnam", "os.tmpnam", "os.system", "os.popen", "yaml.unsafe_load"}
LOADERS = {"torch.load": ("weights_only", True), "torch.hub.load_state_dict_from_url": ("weights_only", True)}


def findings(source: str) -> list[str]:
    """Every unsafe thing in a module's source text."""
    tree = ast.parse(source)
    names = _imported_names(tree)
    return [f"{line}: {what}" for node in ast.walk(tree) for line, what in _of_node(node, names)]


def _imported_names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: ``np`` for ``numpy``, ``read`` for ``torch.load``."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _of_node(node: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.ImportFrom) and node.module == "pickle" and [n.name for n in node.names] == [HARMLESS]:
        return
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        yield from (
            (node.lineno, f"import {module}") for module in modules if module.partition(".")[0] in UNSAFE_MODULES
        )
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        if node.value == "/tmp" or node.value.startswith(("/tmp/", "/var/tmp")):
            yield node.lineno, f"fixed temporary name {node.value!r}"
    elif isinstance(node, ast.Call):
        yield from ((node.lineno, what) for what in _of_call(node, _dotted(node.func, names)))


def _of_call(call: ast.Call, name: str) -> Iterator[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in UNSAFE_CALLS or name.removeprefix("builtins.") in UNSAFE_CALLS or name in UNSAFE_FUNCTIONS:
        yield f"call of {name}"
    if name in LOADERS and not _is(keywords.get(LOADERS[name][0]), True):
        yield f"{name} without {LOADERS[name][0]}=True"
    if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], False):
        yield f"{name} with allow_pickle"
    if "shell" in keywords and not _is(keywords["shell"], False):
        yield f"{name} with shell"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full dotted name of what is called, imports resolved; empty where there is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, names)
        return f"{owner}.{node.attr}" if owner else ""
    return ""

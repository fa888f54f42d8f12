"""Modules whose host is not installed are not collected, nor those that put our losses in the place of a host's."""

from importlib.util import find_spec

HOSTS = {"sentence_transformers": "sentence_transformers", "pytorch_metric_learning": "metric_learning"}
collect_ignore_glob = [
    "tests/*/shim/*",
    *(
        pattern
        for host, name in HOSTS.items()
        if find_spec(host) is None
        for pattern in (f"integrations/alphacl_{name}/*", f"tests/alphacl_{name}/*")
    ),
]

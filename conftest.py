"""Modules whose host is not installed are not collected."""

from importlib.util import find_spec

HOSTS = {"sentence_transformers": "sentence_transformers", "pytorch_metric_learning": "metric_learning"}
collect_ignore_glob = [
    pattern
    for host, name in HOSTS.items()
    if find_spec(host) is None
    for pattern in (f"integrations/alphacl_{name}/*", f"tests/alphacl_{name}/*")
]

"""A pytest plugin that puts our classes, with `loss: alpha_cl`, in place of solo-learn's in solo-learn's own tests.

It says at the end, as one line of JSON, how often each of our losses was computed.
"""

import collections
import json
import os

from alphacl_solo_learn import register
from alphacl_solo_learn.methods import CONTRASTIVE, ContrastiveMethod

COMPUTED = collections.Counter()


def with_loss(cls):
    """Our class, with the key that solo-learn's tests do not know."""

    def __init__(self, cfg):
        cfg.loss = os.environ["SHIM_LOSS"]
        cls.__init__(self, cfg)
        assert isinstance(self, ContrastiveMethod)
        self.criterion.register_forward_hook(lambda *_: COMPUTED.update([cfg.method]))

    return type(cls.__name__, (cls,), {"__init__": __init__})


def pytest_collection_modifyitems(items):
    """Substitute in every collected test module, and see that nothing else is under test there."""
    import solo.methods

    register()
    ours = {cls.__name__: with_loss(cls) for name, cls in solo.methods.METHODS.items() if name in CONTRASTIVE}
    for module in {item.module for item in items}:
        (name,) = {"SimCLR", "SupCon", "MoCoV2Plus", "MoCoV3", "NNCLR"} & set(vars(module))
        assert getattr(module, name) is getattr(solo.methods, name)
        setattr(module, name, ours[name])


def pytest_sessionfinish():
    """Report."""
    print(f"\ncomputed: {json.dumps(COMPUTED)}")

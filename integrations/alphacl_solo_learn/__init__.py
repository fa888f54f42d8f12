"""α-CL for solo-learn: ``loss: alpha_cl`` in a config, and any timm model as ``backbone: {name: timm/...}``.

Hydra turns it on by itself (``hydra_plugins.alphacl``); a script without Hydra takes `register`.
"""

from alphacl_solo_learn.registration import register

__all__ = ["register"]

"""A plugin of pytest: open_clip's ClipLoss and SigLipLoss are ours, under the host's names and with its options."""

import open_clip
import open_clip.factory
import open_clip.loss

from alphacl_open_clip import ClipLoss as Ours


class ClipLoss(Ours):
    """Gathers as ours does, which is the host's local_loss and gather_with_grad together."""

    def __init__(
        self,
        local_loss=False,
        gather_with_grad=False,
        cache_labels=False,
        rank=0,
        world_size=1,
        use_horovod=False,
    ):
        assert not use_horovod
        super().__init__("infonce")
        self.cache_labels = cache_labels  # of the host: a test asks whether it was passed on


class SigLipLoss(Ours):
    """Of one direction, as the host's."""

    def __init__(self, cache_labels=False, rank=0, world_size=1, dist_impl=None, chunk_size=0):
        super().__init__("sigmoid", symmetric=False)


for module in (open_clip, open_clip.loss, open_clip.factory):
    for ours in (ClipLoss, SigLipLoss):
        setattr(module, ours.__name__, ours)

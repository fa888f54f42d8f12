"""A pytest plugin that runs pytorch-metric-learning's own tests of NTXentLoss on ours."""

import pytorch_metric_learning.losses

import alphacl_metric_learning


class NTXentLoss(alphacl_metric_learning.AlphaCLLoss):
    """The host's name and signature."""

    def __init__(self, temperature=0.07, **options):
        super().__init__("infonce", tau=temperature, **options)


pytorch_metric_learning.losses.NTXentLoss = NTXentLoss

"""α-strategies, grouped by where α comes from, and their registry.

>>> build_strategy("direct", tau=0.2)
Direct(tau=0.2, p=4.0, normalize=True)
"""

from alphacl_plugins.strategies.base import PairWeights, Strategy
from alphacl_plugins.strategies.direct import Direct, Uniform
from alphacl_plugins.strategies.family import (
    MINE,
    Family,
    InfoNCE,
    LiftedStructured,
    ModifiedTriplet,
    NPlus1Tuplet,
    SoftTriplet,
    Triplet,
    TripletContrastive,
)
from alphacl_plugins.strategies.kernels import DHEL, KCL
from alphacl_plugins.strategies.registry import build_strategy, register_strategy, strategy_names
from alphacl_plugins.strategies.regularized import Entropy, Inverse, Regularized, Square
from alphacl_plugins.strategies.tempered import Tempered

__all__ = [
    "DHEL",
    "KCL",
    "MINE",
    "Direct",
    "Entropy",
    "Family",
    "InfoNCE",
    "Inverse",
    "LiftedStructured",
    "ModifiedTriplet",
    "NPlus1Tuplet",
    "PairWeights",
    "Regularized",
    "SoftTriplet",
    "Square",
    "Strategy",
    "Tempered",
    "Triplet",
    "TripletContrastive",
    "Uniform",
    "build_strategy",
    "register_strategy",
    "strategy_names",
]

register_strategy("infonce")(InfoNCE)
register_strategy("entropy")(Entropy)
register_strategy("inverse")(Inverse)
register_strategy("square")(Square)
register_strategy("direct")(Direct)
register_strategy("uniform")(Uniform)
register_strategy("dhel")(DHEL)
register_strategy("kcl")(KCL)
register_strategy("mine")(MINE)
register_strategy("triplet")(Triplet)
register_strategy("soft_triplet")(SoftTriplet)
register_strategy("n_plus_1_tuplet")(NPlus1Tuplet)
register_strategy("lifted_structured")(LiftedStructured)
register_strategy("modified_triplet")(ModifiedTriplet)
register_strategy("triplet_contrastive")(TripletContrastive)

"""α-strategies, grouped by where α comes from, and their registry.

>>> build_strategy("direct", tau=0.2)
Direct(tau=0.2, p=4.0, normalize=True)
"""

from alphacl_plugins.strategies.base import AnyStrategy, PairWeights, Strategy
from alphacl_plugins.strategies.direct import Direct, Uniform
from alphacl_plugins.strategies.exponential import MINE, InfoNCE, LiftedStructured, NPlus1Tuplet, SoftTriplet
from alphacl_plugins.strategies.family import Family
from alphacl_plugins.strategies.inverse import Inverse, InverseExact
from alphacl_plugins.strategies.kernels import DHEL, KCL
from alphacl_plugins.strategies.kl_ball import KLBall
from alphacl_plugins.strategies.learnable_temperature import LearnableTemperature
from alphacl_plugins.strategies.masked import Masked
from alphacl_plugins.strategies.options import StrategyOptions
from alphacl_plugins.strategies.registry import (
    build_strategy,
    register_strategy,
    reserve_options,
    resolve_strategy,
    strategy_names,
)
from alphacl_plugins.strategies.regularized import Entropy, Regularized
from alphacl_plugins.strategies.separable import Separable
from alphacl_plugins.strategies.square import Square
from alphacl_plugins.strategies.triplets import ModifiedTriplet, Triplet, TripletContrastive
from alphacl_plugins.strategies.tsallis import Tsallis

__all__ = [
    "DHEL",
    "KCL",
    "MINE",
    "AnyStrategy",
    "Direct",
    "Entropy",
    "Family",
    "InfoNCE",
    "Inverse",
    "InverseExact",
    "KLBall",
    "LearnableTemperature",
    "LiftedStructured",
    "Masked",
    "ModifiedTriplet",
    "NPlus1Tuplet",
    "PairWeights",
    "Regularized",
    "Separable",
    "SoftTriplet",
    "Square",
    "Strategy",
    "StrategyOptions",
    "Triplet",
    "TripletContrastive",
    "Tsallis",
    "Uniform",
    "build_strategy",
    "register_strategy",
    "reserve_options",
    "resolve_strategy",
    "strategy_names",
]

register_strategy("infonce")(InfoNCE)
register_strategy("entropy")(Entropy)
register_strategy("inverse")(Inverse)
register_strategy("inverse_exact")(InverseExact)
register_strategy("square")(Square)
register_strategy("tsallis")(Tsallis)
register_strategy("kl_ball")(KLBall)
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

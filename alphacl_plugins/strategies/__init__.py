"""α-strategies, grouped by where α comes from, and their registry.

>>> build_strategy("direct", tau=0.2)
Direct(tau=0.2, p=4.0, normalize=True)
"""

from alphacl_plugins.strategies.base import AnyStrategy, PairWeights, Strategy
from alphacl_plugins.strategies.batch_positives import MACL, DCLWeighted
from alphacl_plugins.strategies.calibrated import Calibrated
from alphacl_plugins.strategies.debiased import Debiased
from alphacl_plugins.strategies.direct import Direct, Uniform
from alphacl_plugins.strategies.exponential import MINE, InfoNCE, LiftedStructured, NPlus1Tuplet, SoftTriplet
from alphacl_plugins.strategies.family import Family
from alphacl_plugins.strategies.hard_negatives import ADNCE, DualTemperature, Hardness
from alphacl_plugins.strategies.inverse import Inverse, InverseExact
from alphacl_plugins.strategies.kernels import DHEL, KCL
from alphacl_plugins.strategies.kl_ball import KLBall
from alphacl_plugins.strategies.learnable_temperature import LearnableTemperature
from alphacl_plugins.strategies.links import Link, StudentT
from alphacl_plugins.strategies.masked import Masked
from alphacl_plugins.strategies.metric_learning import Circle, MultiSimilarity
from alphacl_plugins.strategies.options import StrategyOptions
from alphacl_plugins.strategies.registry import (
    build_strategy,
    register_strategy,
    reserve_options,
    resolve_strategy,
    strategy_names,
)
from alphacl_plugins.strategies.regularized import Entropy, Regularized
from alphacl_plugins.strategies.robust import RINCE
from alphacl_plugins.strategies.separable import Separable
from alphacl_plugins.strategies.sigmoid import LearnableSigmoid, Sigmoid
from alphacl_plugins.strategies.square import Square
from alphacl_plugins.strategies.triplets import ModifiedTriplet, Triplet, TripletContrastive
from alphacl_plugins.strategies.tsallis import Tsallis
from alphacl_plugins.strategies.weighted import Quadratic, Weighted

__all__ = [
    "ADNCE",
    "DHEL",
    "KCL",
    "MACL",
    "MINE",
    "RINCE",
    "AnyStrategy",
    "Calibrated",
    "Circle",
    "DCLWeighted",
    "Debiased",
    "Direct",
    "DualTemperature",
    "Entropy",
    "Family",
    "Hardness",
    "InfoNCE",
    "Inverse",
    "InverseExact",
    "KLBall",
    "LearnableSigmoid",
    "LearnableTemperature",
    "LiftedStructured",
    "Link",
    "Masked",
    "ModifiedTriplet",
    "MultiSimilarity",
    "NPlus1Tuplet",
    "PairWeights",
    "Quadratic",
    "Regularized",
    "Separable",
    "Sigmoid",
    "SoftTriplet",
    "Square",
    "Strategy",
    "StrategyOptions",
    "StudentT",
    "Triplet",
    "TripletContrastive",
    "Tsallis",
    "Uniform",
    "Weighted",
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
register_strategy("hardness")(Hardness)
register_strategy("dual_temperature")(DualTemperature)
register_strategy("adnce")(ADNCE)
register_strategy("debiased")(Debiased)
register_strategy("sigmoid")(Sigmoid)
register_strategy("student_t")(StudentT)
register_strategy("rince")(RINCE)
register_strategy("multi_similarity")(MultiSimilarity)
register_strategy("circle")(Circle)
register_strategy("dcl_weighted")(DCLWeighted)
register_strategy("macl")(MACL)

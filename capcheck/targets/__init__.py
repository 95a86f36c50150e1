"""Known distributions and their exact conditionals."""

from capcheck.targets.categorical_mixture import CategoricalMixture
from capcheck.targets.diagonal_mixture import DiagonalMixture
from capcheck.targets.empirical import from_samples
from capcheck.targets.fitting import from_sklearn
from capcheck.targets.gaussian_mixture import GaussianMixture
from capcheck.targets.hidden_markov import HiddenMarkov
from capcheck.targets.markov_chain import MarkovChain
from capcheck.targets.product_mixture import ProductMixture
from capcheck.targets.provenance import HeldOut, Picture, Provenance
from capcheck.targets.scratchpad import Windowed
from capcheck.targets.specs import from_spec
from capcheck.targets.tables import from_table, uniform_over
from capcheck.targets.target import CategoricalTarget, ContinuousTarget, Target

__all__ = [
    "CategoricalMixture",
    "CategoricalTarget",
    "ContinuousTarget",
    "DiagonalMixture",
    "GaussianMixture",
    "HeldOut",
    "HiddenMarkov",
    "MarkovChain",
    "Picture",
    "ProductMixture",
    "Provenance",
    "Target",
    "Windowed",
    "from_samples",
    "from_sklearn",
    "from_spec",
    "from_table",
    "uniform_over",
]

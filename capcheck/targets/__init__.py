"""Targets: known laws of sequences, with exact samplers, log-densities and conditionals."""

from capcheck.targets.categorical.categorical_mixture import CategoricalMixture
from capcheck.targets.categorical.causal_lm import CausalLM, from_causal_lm
from capcheck.targets.categorical.hidden_markov import HiddenMarkov
from capcheck.targets.categorical.markov_chain import MarkovChain
from capcheck.targets.categorical.tables import from_table, uniform_over
from capcheck.targets.continuous.diagonal_mixture import DiagonalMixture
from capcheck.targets.continuous.gaussian_mixture import GaussianMixture
from capcheck.targets.continuous.product_mixture import ProductMixture
from capcheck.targets.from_data.empirical import from_samples
from capcheck.targets.from_data.fitted_continuous import from_sklearn
from capcheck.targets.provenance import HeldOut, Picture, Provenance
from capcheck.targets.specs import from_spec
from capcheck.targets.target import CategoricalTarget, ContinuousTarget, Target

__all__ = [
    "CategoricalMixture",
    "CategoricalTarget",
    "CausalLM",
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
    "from_causal_lm",
    "from_samples",
    "from_sklearn",
    "from_spec",
    "from_table",
    "uniform_over",
]

"""The stable interface for authors of families: every name that a new family needs to import.

The names in this module keep their meaning between minor versions; other modules may move. They
are:

- for the family itself: `Probe`, `State`, `Row`, `Suspect`, `OPTIONS`, `Groupwise` with `Group` for
  families that draw groups of tokens one after the other, and `Scheduled` for families that denoise
  tokens along a schedule of levels;
- for its arguments and answers: `SequenceSpec`, `Kind`, `Budget`, `Axis`, `Randomness`,
  `LogDensity`, `Unavailable`, and the error `UnfitError` for targets that the family is not defined
  for;
- for its network: the signatures (`TokenPredictorSignature` and others, or a subclass of
  `Signature`), the protocols of the networks (`TokenPredictor` and others), and `Wrapper` for code
  that stands around a network;
- for the laws of tokens that networks return: `TokenLaw`, `Categorical`, `MixtureOfGaussians`, and
  `log_table`, which reads the log-probabilities of a categorical law;
- for noise: `NoisePath`, and `PATHS`, the noise paths by their `PathName`;
- for registered families: `build_probe`, which makes one of them with its options.

`capcheck.check(MyFamily(), target)` measures a new family without registering it, and
`capcheck.testing.check_family` tests the family against the contract of `Probe`.
"""

from capcheck.core.budget import Axis, Budget
from capcheck.core.errors import UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import Randomness
from capcheck.core.sequences import Kind, SequenceSpec
from capcheck.core.unavailable import Unavailable
from capcheck.laws import Categorical, MixtureOfGaussians, TokenLaw, log_table
from capcheck.networks.signatures import (
    AutoEncoder,
    Bijection,
    BijectionSignature,
    ConsistencyFunction,
    ConsistencySignature,
    Decoder,
    DecoderSignature,
    Denoiser,
    DenoiserSignature,
    Energy,
    EnergySignature,
    FlowMap,
    FlowMapSignature,
    Generator,
    GeneratorSignature,
    NoisyPredictor,
    NoisyPredictorSignature,
    PrefixPredictor,
    PrefixPredictorSignature,
    Signature,
    TokenPredictor,
    TokenPredictorSignature,
    TransitionPredictor,
    TransitionPredictorSignature,
    Wrapper,
)
from capcheck.noise.paths import PATHS, NoisePath, PathName
from capcheck.procedures.groups import Group, Groupwise
from capcheck.procedures.probe import OPTIONS, Probe, State, Suspect
from capcheck.procedures.registry import build_probe
from capcheck.procedures.rows import Row
from capcheck.procedures.scheduled import Scheduled

__all__ = [
    "OPTIONS",
    "PATHS",
    "AutoEncoder",
    "Axis",
    "Bijection",
    "BijectionSignature",
    "Budget",
    "Categorical",
    "ConsistencyFunction",
    "ConsistencySignature",
    "Decoder",
    "DecoderSignature",
    "Denoiser",
    "DenoiserSignature",
    "Energy",
    "EnergySignature",
    "FlowMap",
    "FlowMapSignature",
    "Generator",
    "GeneratorSignature",
    "Group",
    "Groupwise",
    "Kind",
    "LogDensity",
    "MixtureOfGaussians",
    "NoisePath",
    "NoisyPredictor",
    "NoisyPredictorSignature",
    "PathName",
    "PrefixPredictor",
    "PrefixPredictorSignature",
    "Probe",
    "Randomness",
    "Row",
    "Scheduled",
    "SequenceSpec",
    "Signature",
    "State",
    "Suspect",
    "TokenLaw",
    "TokenPredictor",
    "TokenPredictorSignature",
    "TransitionPredictor",
    "TransitionPredictorSignature",
    "Unavailable",
    "UnfitError",
    "Wrapper",
    "build_probe",
    "log_table",
]

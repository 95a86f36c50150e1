"""Names for authors of families: all that a new family imports, in one place.

These names, and their meaning, stay what they are between minor versions; other modules may move.

- a family: `Probe`, `State`, `Row`, `Suspect`, `OPTIONS`, and `Groupwise` with `Group` for those
  that draw groups of tokens one after the other;
- what it is told and what it answers: `SequenceSpec`, `Kind`, `Budget`, `Axis`, `Randomness`,
  `LogDensity`, `Unavailable`, and `UnfitError` where it is not defined for such tokens;
- its network: a signature (`TokenPredictorSignature`, ..., or a `Signature` of its own) and the
  protocol of what is called (`TokenPredictor`, ...), with `Wrapper` around it;
- the laws that networks of tokens return: `TokenLaw`, `Categorical`, `MixtureOfGaussians`, and
  `log_table` for the log-probabilities of categorical ones;
- noise: `NoisePath`, `PATHS` by `PathName`;
- `build_probe`, which makes a registered family with its options.

A family is tried with `capcheck.check(MyFamily(), target)`, and held to its promises by
`capcheck.testing.check_family`.
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
from capcheck.procedures.probe import OPTIONS, Probe, Row, State, Suspect
from capcheck.procedures.registry import build_probe

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
    "PathName",
    "PrefixPredictor",
    "PrefixPredictorSignature",
    "Probe",
    "Randomness",
    "Row",
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

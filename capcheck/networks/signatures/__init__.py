"""Signatures: the arguments and answers of each family's network, and its oracle.

There is one module for each kind of network.
"""

from capcheck.networks.oracles.decoders import Noise
from capcheck.networks.signatures.decoder import AutoEncoder, Decoder, DecoderSignature
from capcheck.networks.signatures.denoiser import (
    Denoiser,
    DenoiserSignature,
    OracleDenoiser,
    OwnDenoiser,
    with_slope,
)
from capcheck.networks.signatures.energy import Energy, EnergySignature
from capcheck.networks.signatures.flow_map import (
    ConsistencyFunction,
    ConsistencySignature,
    DistilledFlow,
    ExactFlow,
    FlowMap,
    FlowMapSignature,
)
from capcheck.networks.signatures.generator import (
    Bijection,
    BijectionSignature,
    Generator,
    GeneratorSignature,
    Layer,
)
from capcheck.networks.signatures.low_rank import LowRankPredictorSignature
from capcheck.networks.signatures.noisy_predictor import NoisyPredictor, NoisyPredictorSignature
from capcheck.networks.signatures.prefix_predictor import PrefixPredictor, PrefixPredictorSignature
from capcheck.networks.signatures.signature import (
    Blinding,
    Calls,
    NetworkT,
    Signature,
    Wrapper,
    counted,
    of_values,
    together,
)
from capcheck.networks.signatures.token_predictor import TokenPredictor, TokenPredictorSignature
from capcheck.networks.signatures.transition import (
    TransitionPredictor,
    TransitionPredictorSignature,
)

__all__ = [
    "AutoEncoder",
    "Bijection",
    "BijectionSignature",
    "Blinding",
    "Calls",
    "ConsistencyFunction",
    "ConsistencySignature",
    "Decoder",
    "DecoderSignature",
    "Denoiser",
    "DenoiserSignature",
    "DistilledFlow",
    "Energy",
    "EnergySignature",
    "ExactFlow",
    "FlowMap",
    "FlowMapSignature",
    "Generator",
    "GeneratorSignature",
    "Layer",
    "LowRankPredictorSignature",
    "NetworkT",
    "Noise",
    "NoisyPredictor",
    "NoisyPredictorSignature",
    "OracleDenoiser",
    "OwnDenoiser",
    "PrefixPredictor",
    "PrefixPredictorSignature",
    "Signature",
    "TokenPredictor",
    "TokenPredictorSignature",
    "TransitionPredictor",
    "TransitionPredictorSignature",
    "Wrapper",
    "counted",
    "of_values",
    "together",
    "with_slope",
]

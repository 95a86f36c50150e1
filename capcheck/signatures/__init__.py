"""Signatures: what each family's network is shown and returns, one module for each."""

from capcheck.signatures.decoder import AutoEncoder, Decoder, DecoderSignature, Noise
from capcheck.signatures.denoiser import Denoiser, DenoiserSignature
from capcheck.signatures.energy import Energy, EnergySignature
from capcheck.signatures.flow_map import (
    ConsistencyFunction,
    ConsistencySignature,
    FlowMap,
    FlowMapSignature,
)
from capcheck.signatures.generator import (
    Bijection,
    BijectionSignature,
    Generator,
    GeneratorSignature,
    Layer,
)
from capcheck.signatures.low_rank import LowRankPredictorSignature
from capcheck.signatures.prefix_predictor import PrefixPredictor, PrefixPredictorSignature
from capcheck.signatures.signature import Calls, NetworkT, Signature, counted
from capcheck.signatures.token_predictor import TokenPredictor, TokenPredictorSignature
from capcheck.signatures.transition import TransitionPredictor, TransitionPredictorSignature

__all__ = [
    "AutoEncoder",
    "Bijection",
    "BijectionSignature",
    "Calls",
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
    "Layer",
    "LowRankPredictorSignature",
    "NetworkT",
    "Noise",
    "PrefixPredictor",
    "PrefixPredictorSignature",
    "Signature",
    "TokenPredictor",
    "TokenPredictorSignature",
    "TransitionPredictor",
    "TransitionPredictorSignature",
    "counted",
]

"""Default modules: a torch module for each signature, of a given architecture.

Most modules of continuous tokens start as the exact network for independent Gaussian tokens, and
learn the difference to the target's oracle. A signature without a default module needs a module of
the user's.
"""

from __future__ import annotations

import functools

import torch
from torch import nn

from capcheck.core.errors import InputError
from capcheck.core.randomness import torch_generators
from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.architecture import Architecture
from capcheck.fitting.denoisers import (
    ConsistencyModule,
    DenoiserModule,
    FlowMapModule,
    TransitionModule,
)
from capcheck.fitting.generators import (
    AffineModule,
    ChoiceModule,
    DecoderModule,
    FlowModule,
    GeneratorModule,
)
from capcheck.fitting.noisy_predictors import NoisyPredictorModule
from capcheck.fitting.predictors import EnergyModule, PredictorModule
from capcheck.networks.signatures import (
    BijectionSignature,
    ConsistencySignature,
    DecoderSignature,
    DenoiserSignature,
    EnergySignature,
    FlowMapSignature,
    GeneratorSignature,
    LowRankPredictorSignature,
    NoisyPredictorSignature,
    PrefixPredictorSignature,
    TokenPredictorSignature,
    TransitionPredictorSignature,
)

__all__ = ["build", "module_for"]


def build(signature: object, spec: SequenceSpec, network: str, *, seed: int = 0) -> nn.Module:
    """Build an untrained default module for a signature, in float32 on the CPU.

    Args:
        signature: Signature of the family's network.
        spec: Spec of the sequences in the family's coordinates (`Procedure.spec`).
        network: Architecture, as in `mlp:width=128,depth=3`; see `Architecture`.
        seed: Seed of the initial weights; torch's global seed is not changed.

    Raises:
        InputError: The architecture cannot be parsed, or the signature has no default module.
    """
    size = Architecture.parse(network)
    on_cpu = SequenceSpec(
        tokens=spec.tokens,
        kind=spec.kind,
        dim=spec.dim,
        mean=spec.mean.cpu(),
        variance=spec.variance.cpu(),
        given=spec.given,
    )
    with torch_generators():
        torch.manual_seed(seed)
        return module_for(signature, on_cpu, size)


@functools.singledispatch
def module_for(signature: object, spec: SequenceSpec, size: Architecture) -> nn.Module:
    """Build the default module of a signature; register a function to support another signature."""
    raise InputError(
        f"network {size} has no default module for {type(signature).__name__}; "
        "bring a module of your own."
    )


@module_for.register
def _(signature: DenoiserSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    return DenoiserModule(spec, size, path=signature.path, view=signature.view)


@module_for.register
def _(signature: FlowMapSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    return FlowMapModule(spec, size, path=signature.path)


@module_for.register
def _(signature: ConsistencySignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    return ConsistencyModule(spec, size, path=signature.path)


@module_for.register
def _(signature: TransitionPredictorSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    return TransitionModule(spec, size)


@module_for.register
def _(signature: TokenPredictorSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    return PredictorModule(spec, size)


@module_for.register
def _(signature: LowRankPredictorSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    return PredictorModule(spec, size, rank=signature.rank)


@module_for.register
def _(signature: PrefixPredictorSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    return PredictorModule(spec, size, prefix=True)


@module_for.register
def _(signature: NoisyPredictorSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    return NoisyPredictorModule(spec, size)


@module_for.register
def _(signature: EnergySignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    return EnergyModule(spec, size)


@module_for.register
def _(signature: GeneratorSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    if signature.lipschitz is not None:
        raise InputError(
            f"network {size} has no bound on its slope, got lipschitz={signature.lipschitz:g}; "
            "leave out the bound, or bring a module of your own."
        )
    kind = GeneratorModule if spec.kind == "continuous" else ChoiceModule
    return kind(spec, size)


@module_for.register
def _(signature: BijectionSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    affine = signature.layer == "affine" or size.depth == 0
    return AffineModule(spec) if affine else FlowModule(spec, size)


@module_for.register
def _(signature: DecoderSignature, spec: SequenceSpec, size: Architecture) -> nn.Module:
    if signature.classes is not None:
        raise InputError(
            f"network {size} reads no classes off its latent, got classes={signature.classes}; "
            "leave out classes, or bring a module of your own."
        )
    if signature.latent is not None:  # the signature's decoder is linear
        size = Architecture(trunk=size.trunk, width=size.width, depth=0)
    if signature.latent == 0:
        raise InputError(
            f"network {size} has a latent, got latent=0; leave out latent, or measure the oracle."
        )
    numbers = spec.tokens * (spec.dim if spec.kind == "continuous" else 1)
    return DecoderModule(spec, size, latent=signature.latent or numbers, noise=signature.noise)

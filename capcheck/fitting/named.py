"""Named networks: a network that replaces the oracle, given by a name or as an object.

The name `mlp:width=128,depth=3` stands for a default module (see `Architecture`), and the name
`package.module:factory` for a function of the caller's that returns a network. Only modules that
the caller names are imported, and a name is never read from a data file. The name
`causal-lm:folder=PATH` stands for a language model (see `causal_lm`).
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import nn

from capcheck.core.errors import InputError
from capcheck.core.imports import current_folder_importable, imported
from capcheck.core.randomness import torch_generators
from capcheck.core.sequences import SequenceSpec
from capcheck.fitting import Architecture, as_network, build
from capcheck.fitting.architecture import Trunk
from capcheck.fitting.causal_lm import is_causal_lm, network_of, require_spec
from capcheck.procedures.procedure import AnyProcedure

__all__ = [
    "FACTORY",
    "Named",
    "is_architecture",
    "make",
    "placed",
    "require_fittable",
    "require_named",
]

Named = str | Callable[..., Any]
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def require_named(network: Named) -> Named:
    """Return a network's name in its canonical spelling, or the network if it is an object.

    The factory that a name refers to is imported.

    Raises:
        InputError: The text names neither an architecture nor a factory, the factory cannot be
            imported, or the object is not callable.
    """
    if not isinstance(network, str):
        if callable(network):
            return network
        raise InputError(
            "network must be callable, or the name of an architecture or a factory, got "
            f"{type(network).__name__}; write mlp:width=128,depth=3 or package.module:function."
        )
    if is_causal_lm(network):
        require_spec(network)
        return network
    if not _is_factory(network):
        return str(Architecture.parse(network))
    with current_folder_importable():
        imported("network", network)
    return network


def is_architecture(network: Named) -> bool:
    """Whether a network, as returned by `require_named`, is the name of a default module."""
    return isinstance(network, str) and not (_is_factory(network) or is_causal_lm(network))


def make(network: Named, procedure: AnyProcedure, *, seed: int) -> Callable[..., Any]:
    """Make the network that a name refers to; an object is returned as it is.

    Args:
        network: Network as returned by `require_named`.
        procedure: Procedure whose signature and coordinates the network gets.
        seed: Seed of the initial weights; torch's global seed is restored afterwards.

    Raises:
        InputError: The factory does not exist, raises an exception, or returns something that is
            not callable.
    """
    if not isinstance(network, str):
        return network
    signature, spec = procedure.probe.signature, procedure.spec
    if is_causal_lm(network):
        return network_of(network, signature, spec)
    if not _is_factory(network):
        return build(signature, spec, network, seed=seed)
    with current_folder_importable(), torch_generators():
        factory = imported("network", network)
        torch.manual_seed(seed)
        try:
            made = factory(signature, spec)
        except (Exception, SystemExit) as error:
            raise InputError(
                f"network {network} must be a function of a signature and a spec, and raised "
                f"{type(error).__name__}: {error}."
            ) from error
    if not callable(made):
        raise InputError(
            f"network {network} must return a module, got {type(made).__name__}; return an "
            "nn.Module, or any callable to be measured as it is."
        )
    return made  # type: ignore[no-any-return]


def placed(network: Callable[..., Any], spec: SequenceSpec, *, name: str) -> Callable[..., Any]:
    """The network in the form in which a procedure calls it.

    A module is copied, moved to the procedure's device, put into evaluation mode, and its
    parameters no longer require gradients. Any other callable receives copies of the procedure's
    tensors.

    Args:
        network: Module or other callable.
        spec: Spec of the sequences that the network is called with.
        name: Name of the network, for error messages.

    Raises:
        InputError: The module cannot be copied or moved to the device.
    """
    if not isinstance(network, nn.Module):
        return as_network(network, spec.mean.dtype)
    try:
        own = copy.deepcopy(network).to(spec.mean.device).eval().requires_grad_(False)
    except Exception as error:
        raise InputError(
            f"network {name} must be a module that can be copied, and raised "
            f"{type(error).__name__}: {error}."
        ) from error
    return as_network(own, spec.mean.dtype)


def require_fittable(network: object, *, name: str) -> None:
    """Raise InputError unless a network is a module with at least one trainable parameter."""
    if not isinstance(network, nn.Module):
        raise InputError(
            f"network {name} must be an nn.Module to be fitted, got {type(network).__name__}; "
            "measure it as it is, with objective none."
        )
    if not any(weight.requires_grad for weight in network.parameters()):
        raise InputError(
            f"network {name} must have parameters to be fitted, got none; measure it as it is, "
            "with objective none."
        )


def _is_factory(network: str) -> bool:
    trunk = network.partition(":")[0]
    return FACTORY.fullmatch(network) is not None and trunk not in get_args(Trunk)

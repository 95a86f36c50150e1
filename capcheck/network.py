"""A network in the oracle's place: where it comes from, and whether it has the right shape.

It is named in words, `mlp:width=128,depth=3` for a default module and `package.module:factory` for
a function of the caller's, or given as an object. Nothing is imported that the caller did not ask
for by name; a name never comes from a data file.
"""

from __future__ import annotations

import copy
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import torch
from torch import Tensor, nn

from capcheck.budget import Budget
from capcheck.errors import InputError
from capcheck.fitting import Architecture, Fitted, as_network, build
from capcheck.fitting.architecture import Trunk
from capcheck.fitting.checkpoint import content_key
from capcheck.fitting.networks import Network
from capcheck.laws import TokenLaw
from capcheck.probe import AnyProbe
from capcheck.randomness import CounterRandomness
from capcheck.records import FitFacts, NetworkFacts
from capcheck.sequences import SequenceSpec
from capcheck.signatures import Bijection, BijectionSignature

Named = str | Callable[..., Any]
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
ROWS = 3  # of a trial call


def require_named(network: Named) -> Named:
    """A network's name in one spelling, or the object.

    Raises:
        InputError: A text that names neither an architecture nor a factory.
    """
    if not isinstance(network, str):
        if callable(network):
            return network
        raise InputError(
            "network must be callable, or the name of an architecture or a factory, got "
            f"{type(network).__name__}; write mlp:width=128,depth=3 or package.module:factory."
        )
    return network if _is_factory(network) else str(Architecture.parse(network))


def make(network: Named, probe: AnyProbe, spec: SequenceSpec, *, seed: int) -> Callable[..., Any]:
    """The network, or the module that it is fitted from.

    Args:
        network: As `require_named` returns it.
        probe: Whose signature it has.
        spec: Of the sequences in the probe's coordinates.
        seed: Of the first weights of a default module.

    Raises:
        InputError: There is no such factory, it fails, or it returns no network.
    """
    if not isinstance(network, str):
        return network
    if not _is_factory(network):
        return build(probe.signature, spec, network, seed=seed)
    factory = _imported(network)
    try:
        made = factory(probe.signature, spec)
    except Exception as error:
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


def placed(network: Callable[..., Any], spec: SequenceSpec) -> Callable[..., Any]:
    """The network as a procedure calls it: of a module a copy, which evaluates and never learns."""
    if not isinstance(network, nn.Module):
        return network
    own = copy.deepcopy(network).to(spec.mean.device).eval().requires_grad_(False)
    return as_network(own, spec.mean.dtype)


def require_signature(
    network: Callable[..., Any],
    probe: AnyProbe,
    spec: SequenceSpec,
    budgets: Sequence[Budget],
    *,
    name: str,
) -> None:
    """Call a network once with what the procedure would show it first.

    Args:
        network: As a procedure calls it.
        probe: The procedure.
        spec: Of the sequences in its coordinates.
        budgets: Of which the last one that makes a call is tried.
        name: Of the network, for the sentence.

    Raises:
        InputError: It cannot be called so, or answers in another shape.
    """
    shown = next((found for b in reversed(budgets) for found in _first_call(probe, spec, b)), None)
    if shown is None:
        return
    summary = (type(probe.signature).__doc__ or "").splitlines()[0].rstrip(".")
    expected = (
        f"network {name} must be a {type(probe.signature).__name__.removesuffix('Signature')}, "
        f"{summary}, called with {_shapes(shown)}"
    )
    with torch.set_grad_enabled(shown[0].requires_grad):
        try:
            answer = network(*shown)
            if isinstance(probe.signature, BijectionSignature) and isinstance(network, Bijection):
                network.log_prob(answer)
        except Exception as error:
            raise InputError(f"{expected}, and raised {type(error).__name__}: {error}.") from error
    try:
        probe.signature.require(answer, shown[0])
    except InputError as error:
        raise InputError(f"{expected}: {error}") from None
    if isinstance(answer, TokenLaw):
        found, wanted = tuple(answer.mean().shape), (len(shown[0]), spec.tokens, spec.dim)
        if found != wanted:
            raise InputError(
                f"{expected}, and its law must have means of shape {wanted}, got {found}."
            )


def facts_of(network: Callable[..., Any], fitted: Fitted | None) -> NetworkFacts:
    """What there is to know of a network: its size, its weights, its fit."""
    module = network.module if isinstance(network, Network) else network
    if not isinstance(module, nn.Module):
        return NetworkFacts()
    fit = None
    if fitted is not None:
        fit = FitFacts(**{name: getattr(fitted, name) for name in FitFacts.model_fields})
    return NetworkFacts(
        parameters=sum(p.numel() for p in module.parameters()),
        weights=content_key(module, ()),
        fit=fit,
    )


def _is_factory(network: str) -> bool:
    trunk = network.partition(":")[0]
    return FACTORY.fullmatch(network) is not None and trunk not in get_args(Trunk)


def _imported(network: str) -> Callable[..., Any]:
    path, _, attributes = network.partition(":")
    if os.getcwd() not in sys.path:  # a console script does not look where it is run
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(path)
    except Exception as error:
        raise InputError(
            f"network {network} names a module that cannot be imported ({type(error).__name__}: "
            f"{error}); install it, or run in the folder that holds it."
        ) from error
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            raise InputError(
                f"network {network} must name a function, and {path} has no {attributes!r}."
            )
        found = getattr(found, attribute)
    if not callable(found):
        raise InputError(f"network {network} must name a function, got {type(found).__name__}.")
    return found  # type: ignore[no-any-return]


class _Shown(Exception):  # noqa: N818
    """What the first call was made with; ends the run."""

    def __init__(self, shown: tuple[Tensor, ...]) -> None:
        self.shown = shown


def _first_call(
    probe: AnyProbe, spec: SequenceSpec, budget: Budget
) -> Iterator[tuple[Tensor, ...]]:
    """What the procedure shows its network first, if it shows it anything."""

    def stop(*shown: Tensor) -> Any:
        raise _Shown(shown)

    rng = CounterRandomness(0, name="trial", device=spec.mean.device)
    try:
        for _ in probe.run(stop, spec, budget, ROWS, rng):
            pass
    except _Shown as call:
        yield call.shown


def _shapes(shown: Sequence[Tensor]) -> str:
    return ", ".join(f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in shown)

"""A network in the oracle's place: where it comes from, and whether it has the right shape.

It is named in words, `mlp:width=128,depth=3` for a default module and `package.module:factory` for
a function of the caller's, or given as an object. Nothing is imported that the caller did not ask
for by name; a name never comes from a data file.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
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
from capcheck.signatures import (
    Bijection,
    BijectionSignature,
    LowRankPredictorSignature,
    PrefixPredictor,
    PrefixPredictorSignature,
)

Named = str | Callable[..., Any]
FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
ROWS = 3  # of a trial run
CALLS = 32  # after which a trial run has seen enough
LEAK = 1e-3  # of a law's mean that changes with a token that has no say in it


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
            f"{type(network).__name__}; write mlp:width=128,depth=3 or package.module:function."
        )
    return network if _is_factory(network) else str(Architecture.parse(network))


def is_architecture(network: Named) -> bool:
    """Whether a name, as `require_named` returns it, is that of a default module."""
    return isinstance(network, str) and not _is_factory(network)


def make(network: Named, probe: AnyProbe, spec: SequenceSpec, *, seed: int) -> Callable[..., Any]:
    """The network, or the module that it is fitted from.

    Args:
        network: As `require_named` returns it.
        probe: Whose signature it has.
        spec: Of the sequences in the probe's coordinates.
        seed: Of the first weights; torch has its own seed back.

    Raises:
        InputError: There is no such factory, it fails, or it returns no network.
    """
    if not isinstance(network, str):
        return network
    if not _is_factory(network):
        return build(probe.signature, spec, network, seed=seed)
    with _where_it_is_run(), torch.random.fork_rng(devices=[]):
        factory = _imported(network)
        torch.manual_seed(seed)
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


def placed(network: Callable[..., Any], spec: SequenceSpec, *, name: str) -> Callable[..., Any]:
    """The network as a procedure calls it: of a module a copy, which evaluates and never learns.

    Args:
        network: A module, or any other callable, which is taken as it is.
        spec: Of the sequences that it is called with.
        name: Of the network, for the sentence.

    Raises:
        InputError: A module that cannot be copied, or put on the device.
    """
    if not isinstance(network, nn.Module):
        return network
    try:
        own = copy.deepcopy(network).to(spec.mean.device).eval().requires_grad_(False)
    except Exception as error:
        raise InputError(
            f"network {name} must be a module that can be copied, and raised "
            f"{type(error).__name__}: {error}."
        ) from error
    return as_network(own, spec.mean.dtype)


def answers_of(
    network: Callable[..., Any],
    probe: AnyProbe,
    spec: SequenceSpec,
    budgets: Sequence[Budget],
    *,
    name: str,
) -> str:
    """Try a network out in a run of a few rows: SHA-256 of what it answers, to three digits.

    Args:
        network: As a procedure calls it.
        probe: The procedure.
        spec: Of the sequences in its coordinates.
        budgets: Of which the last one that makes a call is tried.
        name: Of the network, for the sentence.

    Raises:
        InputError: It cannot be called so, answers in another shape or with broken numbers, or
            looks at what it is to predict.
    """
    if isinstance(probe.signature, PrefixPredictorSignature):
        _require_looking_back(network, spec, name)
    for budget in reversed(budgets):
        trial = _Trial(network, probe, spec, name)
        rng = CounterRandomness(0, name="trial", device=spec.mean.device)
        blind = probe.signature.blind(trial, spec)
        with contextlib.suppress(_SeenEnough), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for _ in probe.run(blind, spec, budget, ROWS, rng):
                pass
        if trial.calls:
            return trial.digest.hexdigest()
    return ""


def facts_of(network: Callable[..., Any], fitted: Fitted | None, *, answers: str) -> NetworkFacts:
    """What there is to know of a network: its size, its weights, its fit.

    Args:
        network: As a procedure calls it.
        fitted: What its fit came to, if there was one.
        answers: What tells it from others of the same structure and weights.
    """
    module = network.module if isinstance(network, Network) else network
    fit = None
    if fitted is not None:
        fit = FitFacts(**{name: getattr(fitted, name) for name in FitFacts.model_fields})
    if not isinstance(module, nn.Module):
        return NetworkFacts(weights=answers, fit=fit)
    return NetworkFacts(
        parameters=sum(p.numel() for p in module.parameters()),
        weights=content_key(module, (answers,)),
        fit=fit,
    )


def _is_factory(network: str) -> bool:
    trunk = network.partition(":")[0]
    return FACTORY.fullmatch(network) is not None and trunk not in get_args(Trunk)


@contextlib.contextmanager
def _where_it_is_run() -> Iterator[None]:
    """Look for modules in the current folder, too, as a console script does not."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _imported(network: str) -> Callable[..., Any]:
    path, _, attributes = network.partition(":")
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


class _SeenEnough(Exception):  # noqa: N818
    """Ends a trial run."""


class _Trial:
    """A network whose answers are looked at one by one."""

    def __init__(
        self, network: Callable[..., Any], probe: AnyProbe, spec: SequenceSpec, name: str
    ) -> None:
        self._network, self._signature, self._spec = network, probe.signature, spec
        self._name = name
        self.calls, self.digest = 0, hashlib.sha256()

    def __call__(self, *shown: Tensor) -> Any:
        summary = (type(self._signature).__doc__ or "").splitlines()[0].rstrip(".")
        kind = type(self._signature).__name__.removesuffix("Signature")
        article = "an" if kind[0] in "AEIOU" else "a"
        expected = (
            f"network {self._name} must be {article} {kind}, {summary}, called with "
            f"{_shapes(shown)}"
        )
        with torch.set_grad_enabled(shown[0].requires_grad):
            try:
                answer = self._network(*shown)
                if isinstance(self._signature, BijectionSignature) and isinstance(
                    self._network, Bijection
                ):
                    self._network.log_prob(answer)
                numbers = list(_numbers(answer))
            except Exception as error:
                raise InputError(
                    f"{expected}, and raised {type(error).__name__}: {error}."
                ) from error
        try:
            self._signature.require(answer, shown[0])
        except InputError as error:
            raise InputError(f"{expected}: {error}") from None
        self._require_shape_of_law(answer, shown[0], expected)
        if shown[0].requires_grad and not any(x.requires_grad for x in numbers):
            raise InputError(f"{expected}, and must have a gradient, got none; leave it attached.")
        for x in numbers:
            # A softmax of bounded rank knows one token; the laws of the others may be broken.
            if bool(x.isnan().any()) and not isinstance(self._signature, LowRankPredictorSignature):
                raise InputError(f"{expected}, and must answer in numbers, got NaN.")
            coarse = x.detach().to(torch.bfloat16).view(torch.int16)  # other devices round alike
            self.digest.update(repr(tuple(x.shape)).encode() + coarse.cpu().numpy().tobytes())
        self.calls += 1
        if self.calls == CALLS:
            raise _SeenEnough
        return answer

    def _require_shape_of_law(self, answer: object, shown: Tensor, expected: str) -> None:
        if not isinstance(answer, TokenLaw):
            return
        found, wanted = tuple(answer.mean().shape), (len(shown), self._spec.tokens, self._spec.dim)
        if found != wanted:
            raise InputError(
                f"{expected}, and its law must have means of shape {wanted}, got {found}."
            )


def _numbers(answer: object) -> Iterator[Tensor]:
    if isinstance(answer, TokenLaw):
        yield answer.mean()
    elif isinstance(answer, Tensor):
        yield answer


def _require_looking_back(network: PrefixPredictor, spec: SequenceSpec, name: str) -> None:
    """Change the tokens from i on, which are no part of the prefix of token i."""
    x, other = (_any_tokens(spec, draw) for draw in ("tokens", "others"))
    known = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    try:
        with torch.no_grad():
            before = network(x, known).mean()
            for i in range(spec.tokens):
                after = network(torch.cat([x[:, :i], other[:, i:]], 1), known).mean()
                moved = (after - before).abs()[:, : i + 1].amax((0, 2))
                if bool((moved > LEAK * (1 + before.abs().max())).any()):
                    raise InputError(
                        f"network {name} must not look ahead, and its law of token "
                        f"{int(moved.argmax())} changes with the tokens from {i} on; mask token i "
                        "and what follows it."
                    )
    except InputError:
        raise
    except Exception:  # the trial run says what is wrong
        return


def _any_tokens(spec: SequenceSpec, name: str) -> Tensor:
    rng = CounterRandomness(0, name=name, device=spec.mean.device)
    if spec.kind == "categorical":
        even = torch.ones(spec.dim, dtype=torch.float64, device=spec.mean.device)
        return rng.categorical(even, (ROWS, spec.tokens))
    noise = rng.normal((ROWS, spec.tokens, spec.dim)).to(spec.mean)
    return spec.mean + spec.variance.sqrt() * noise


def _shapes(shown: Sequence[Tensor]) -> str:
    return ", ".join(f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in shown)

"""Network check: a few calls of a network before a run, which show whether it fits its signature.

The network must accept the signature's arguments, return the promised type and shape, contain no
NaN, be deterministic, and, for signatures in which a token sees only some of the others, not depend
on the rest. The log-density of a bijection must be the density of its own draws.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.errors import ControlFlow, InputError, NetworkError
from capcheck.core.randomness import CounterRandomness, torch_generators
from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.causal_check import LEAK, ROWS, any_tokens, require_causal
from capcheck.fitting.networks import Network, cast
from capcheck.laws import LOG_2PI, TokenLaw
from capcheck.networks.oracles.rosenblatt import with_given
from capcheck.networks.signatures import (
    Bijection,
    BijectionSignature,
    Blinding,
    DecoderSignature,
    GeneratorSignature,
    LowRankPredictorSignature,
    Signature,
    Wrapper,
)
from capcheck.networks.signatures.generator import normals_for
from capcheck.networks.signatures.given import given_arguments
from capcheck.procedures.procedure import AnyProcedure

__all__ = ["CALLS", "DENSITY", "TWICE", "WIDEST", "check_network", "require_density"]

CALLS = 32  # network calls after which a check ends
TWICE = 4  # first calls of a check that are repeated to test determinism
WIDEST = 64  # most numbers whose Jacobian is taken, by one pass backwards for each of them
DENSITY = 0.05, 0.01  # tolerance of a log-density: nats, and share of its size (inverses round)


def check_network(
    network: Callable[..., Any], procedure: AnyProcedure, budgets: Sequence[Budget], *, name: str
) -> str:
    """Check a network in a run of a few rows, and return a fingerprint of its answers.

    Args:
        network: Network in the form in which the procedure calls it.
        procedure: Procedure that the network is meant for.
        budgets: Budgets to try, from the last to the first, until one makes a call.
        name: Name of the network, for error messages.

    Returns:
        SHA-256 of the answers, rounded to bfloat16; empty if no budget makes a call.

    Raises:
        NetworkError: The network raises an exception, answers in another type or shape or with NaN,
            is not deterministic, or depends on values that it is meant to predict.
    """
    signature, spec = procedure.probe.signature, procedure.spec
    with torch_generators():
        torch.manual_seed(0)  # networks that draw random numbers are refused, but reproducibly
        for budget in reversed(budgets):
            check = _NetworkCheck(signature, spec, name, network)
            rng = CounterRandomness(0, name="check", device=spec.mean.device)
            checked = procedure.with_trusted_network(network).wrapped(check)
            with contextlib.suppress(_CheckComplete):
                for _ in checked.wrapped(Blinding(signature, spec)).run(budget, ROWS, rng):
                    pass
            if check.calls:
                break
        require_causal(network, signature, spec, name=name)
    return check.digest.hexdigest() if check.calls else ""


def require_density(network: Callable[..., Any], procedure: AnyProcedure, *, name: str) -> None:
    """Raise NetworkError unless a bijection's log-density is the density of its own draws.

    By the change of variables, log q(f(z)) = log N(z) - log |det df/dz|. The check is skipped for
    other networks, and for bijections that have no gradient, work in half precision, or make
    sequences of more than `WIDEST` numbers.

    Args:
        network: Network in the form in which the procedure calls it.
        procedure: Procedure that the network is meant for.
        name: Name of the network, for error messages.
    """
    signature, spec = procedure.probe.signature, procedure.spec
    if not isinstance(signature, BijectionSignature) or not isinstance(network, Bijection):
        return
    rough = isinstance(network, Network) and network.dtype.itemsize < 4
    if rough or spec.tokens * spec.dim > WIDEST:
        return
    rng = CounterRandomness(0, name="density", device=spec.mean.device)
    free = list(spec.free)
    z = normals_for(spec, ROWS, rng)
    of_free = z[:, free].requires_grad_(True)
    given = given_arguments(any_tokens(spec, "tokens"), spec)
    try:
        with torch.enable_grad():
            x: Tensor = network(z.index_copy(1, torch.tensor(free).to(z.device), of_free), *given)
            rows = [
                torch.autograd.grad(one.sum(), of_free, retain_graph=True)[0].flatten(1)
                for one in x[:, free].flatten(1).unbind(1)
            ]
    except RuntimeError:  # the network has no gradient
        return
    with torch.no_grad():
        own = network.log_prob(with_given(x.detach(), *given), *given[1:])
        slope = torch.stack(rows, 1).double().slogdet().logabsdet
        normal = -0.5 * (of_free.double().square() + LOG_2PI).flatten(1).sum(1)
        wanted = normal - slope
    off = float((own - wanted).abs().median())
    nats, share = DENSITY
    if not off <= nats + share * float(wanted.abs().median()) and bool(wanted.isfinite().all()):
        raise NetworkError(
            f"network {name} must know the density of what it draws, and its log_prob is "
            f"{_few(own)} where the change of variables gives {_few(wanted)}; add the logarithm of "
            "the Jacobian's determinant."
        )


class _CheckComplete(ControlFlow):
    """Raised to end the run of a check after enough calls."""


class _NetworkCheck(Wrapper):
    """Wrapper that checks every answer of a network and adds it to a fingerprint."""

    def __init__(
        self, signature: Signature[Any], spec: SequenceSpec, name: str, network: Any
    ) -> None:
        self._network, self._signature, self._spec = network, signature, spec
        self._name = name
        self.calls, self.digest = 0, hashlib.sha256()

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """Return the network's answer, or raise NetworkError if the answer breaks a rule."""
        expected = self._expected(shown)
        with torch.set_grad_enabled(shown[0].requires_grad):
            try:
                answer = network(*shown)
                numbers = list(_numbers(answer))
            except Exception as error:
                if isinstance(error, TypeError) and self._is_shown_given(shown):
                    expected = f"{expected}: z, tokens and which of them are known"
                raise NetworkError(
                    f"{expected}, and raised {type(error).__name__}: {error}."
                ) from error
        try:
            self._signature.require(answer, shown[0])
        except InputError as error:
            raise NetworkError(f"{expected}: {error}") from None
        self._require_shape_of_law(answer, shown[0], expected)
        self._require_tokens(answer, expected)
        if shown[0].requires_grad and not any(x.requires_grad for x in numbers):
            raise NetworkError(
                f"{expected}, and must have a gradient, got none; leave it attached."
            )
        for x in numbers:
            # A low-rank softmax predicts one token; the laws of the others may be NaN.
            if bool(x.isnan().any()) and not isinstance(self._signature, LowRankPredictorSignature):
                raise NetworkError(f"{expected}, and must answer in numbers, got NaN.")
            coarse = x.detach().to(torch.bfloat16).view(torch.int16)  # other devices round alike
            self.digest.update(repr(tuple(x.shape)).encode() + coarse.cpu().numpy().tobytes())
        if isinstance(answer, TokenLaw) and bool((numbers[1] < 0).any()):
            raise NetworkError(f"{expected}, and must have variances of at least 0, got less.")
        if isinstance(self._signature, BijectionSignature):
            self._require_log_prob(answer, shown[1:], expected)
        if self.calls < TWICE:
            self._require_same(shown, numbers, expected)
        self.calls += 1
        if self.calls == CALLS:
            raise _CheckComplete
        return answer

    def _is_shown_given(self, shown: Sequence[Tensor]) -> bool:
        """Whether the call passes given tokens to a network that makes whole sequences."""
        makes = (GeneratorSignature, BijectionSignature, DecoderSignature)
        return isinstance(self._signature, makes) and len(shown) > 1

    def _expected(self, shown: Sequence[Tensor]) -> str:
        summary = (type(self._signature).__doc__ or "").splitlines()[0].rstrip(".")
        kind = type(self._signature).__name__.removesuffix("Signature")
        article = "an" if kind[0] in "AEIOU" else "a"
        if isinstance(self._network, Network):
            shown = [cast(x, self._network.dtype) for x in shown]
        return (
            f"network {self._name} must be {article} {kind}, {summary}, called with "
            f"{_shapes(shown)}"
        )

    def _require_shape_of_law(self, answer: object, shown: Tensor, expected: str) -> None:
        if not isinstance(answer, TokenLaw):
            return
        found, wanted = tuple(answer.mean().shape), (len(shown), self._spec.tokens, self._spec.dim)
        if found != wanted:
            raise NetworkError(
                f"{expected}, and its law must have means of shape {wanted}, got {found}."
            )

    def _require_tokens(self, answer: object, expected: str) -> None:
        """Raise NetworkError if a generator's or a bijection's answer is no valid tokens.

        Their signatures do not know the kind of the tokens, and check the shape only.
        """
        spec = self._spec
        generates = isinstance(self._signature, (GeneratorSignature, BijectionSignature))
        if not generates or not isinstance(answer, Tensor):
            return
        whole = not (answer.is_floating_point() or answer.is_complex())
        if spec.kind == "continuous":
            if whole:
                raise NetworkError(f"{expected}, and must return numbers, got {answer.dtype}.")
        elif not whole or bool(((answer < 0) | (answer >= spec.dim)).any()):
            got = (
                f"{answer.min():g} to {answer.max():g}, {str(answer.dtype).removeprefix('torch.')}"
            )
            raise NetworkError(
                f"{expected}, and must return token ids, integers from 0 to {spec.dim - 1}, "
                f"got {got}."
            )

    def _require_log_prob(self, answer: Tensor, given: Sequence[Tensor], expected: str) -> None:
        if not isinstance(self._network, Bijection):  # the procedure reports a missing density
            return
        try:
            density = self._network.log_prob(with_given(answer.detach(), *given), *given[1:])
        except Exception as error:
            raise NetworkError(
                f"{expected}, and its log_prob raised {type(error).__name__}: {error}."
            ) from error
        shape = tuple(density.shape) if isinstance(density, Tensor) else type(density).__name__
        if shape != (len(answer),):
            raise NetworkError(
                f"{expected}, and its log_prob must return one number for each row, of shape "
                f"({len(answer)},), got {shape}; sum over tokens and their coordinates."
            )
        if bool(density.isnan().any()):
            raise NetworkError(f"{expected}, and its log_prob must be a number, got NaN.")

    def _require_same(self, shown: Sequence[Tensor], first: list[Tensor], expected: str) -> None:
        with torch.set_grad_enabled(shown[0].requires_grad):
            again = list(_numbers(self._network(*shown)))
        for one, other in zip(first, again, strict=True):
            a, b = (x.detach().double() for x in (one, other))
            close = LEAK * float(a.nan_to_num(posinf=0, neginf=0).abs().max())
            if not torch.allclose(a, b, rtol=LEAK, atol=close, equal_nan=True):
                raise NetworkError(
                    f"{expected}, and must answer the same when it is asked the same, and did not; "
                    "switch off what draws random numbers, as dropout does."
                )


def _numbers(answer: object) -> Iterator[Tensor]:
    if isinstance(answer, TokenLaw):
        yield answer.mean()
        yield answer.variance()
    elif isinstance(answer, Tensor):
        yield answer


def _shapes(shown: Sequence[Tensor]) -> str:
    return ", ".join(f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in shown)


def _few(x: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in x.tolist())

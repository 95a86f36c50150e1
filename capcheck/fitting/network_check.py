"""Network check: a few calls of a network before a run.

The network must accept the arguments of its signature, return the promised type and shape, contain
no NaN, answer the same when it is asked the same, and, for signatures that restrict what a token
sees, not depend on the others. The log-density of a bijection must be that of its draws.
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
from capcheck.core.randomness import CounterRandomness
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

__all__ = ["CALLS", "DENSITY", "TWICE", "WIDEST", "answers_of", "require_density"]

CALLS = 32  # after which a check ends
TWICE = 4  # of these calls are made again
WIDEST = 256  # numbers of a sequence of which a Jacobian is taken
DENSITY = 0.05, 0.01  # nats, and share, that a log-density may be off by, as its inverse rounds


def answers_of(
    network: Callable[..., Any], procedure: AnyProcedure, budgets: Sequence[Budget], *, name: str
) -> str:
    """Check a network in a run of a few rows: SHA-256 of what it answers, to three digits.

    Args:
        network: As a procedure calls it.
        procedure: Whose network it is to be.
        budgets: Of which the last one that makes a call is tried.
        name: Of the network, for the sentence.

    Raises:
        NetworkError: It cannot be called so, answers in another shape or with broken numbers, does
            not answer the same twice, or looks at what it is to predict.
    """
    signature, spec = procedure.probe.signature, procedure.spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of networks that draw, which are refused
        for budget in reversed(budgets):
            check = _NetworkCheck(signature, spec, name, network)
            rng = CounterRandomness(0, name="check", device=spec.mean.device)
            checked = procedure.with_trusted_network(network).wrapped(check)
            with contextlib.suppress(_SeenEnough):
                for _ in checked.wrapped(Blinding(signature, spec)).run(budget, ROWS, rng):
                    pass
            if check.calls:
                break
        require_causal(network, signature, spec, name=name)
    return check.digest.hexdigest() if check.calls else ""


def require_density(network: Callable[..., Any], procedure: AnyProcedure, *, name: str) -> None:
    """Raise NetworkError unless the log-density of a bijection is that of what it draws.

    By the change of variables, log q(f(z)) = log N(z) - log |det df/dz|. Other networks pass, and
    so do bijections without a gradient, of half precision, or of very long sequences.

    Args:
        network: As a procedure calls it.
        procedure: Whose network it is to be.
        name: Of the network, for the sentence.
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
    except RuntimeError:  # there is no gradient
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


class _SeenEnough(ControlFlow):
    """Ends the run of a check."""


class _NetworkCheck(Wrapper):
    """Looks at the answers of a network one by one."""

    def __init__(
        self, signature: Signature[Any], spec: SequenceSpec, name: str, network: Any
    ) -> None:
        self._network, self._signature, self._spec = network, signature, spec
        self._name = name
        self.calls, self.digest = 0, hashlib.sha256()

    def call(self, network: Callable[..., Any], *shown: Tensor) -> Any:
        """The network's answer, if nothing is wrong with it."""
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
            # A softmax of bounded rank knows one token; the laws of the others may be broken.
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
            raise _SeenEnough
        return answer

    def _is_shown_given(self, shown: Sequence[Tensor]) -> bool:
        """Whether a network that makes whole sequences is shown the tokens that are given."""
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
        """Of a generator of token ids, which says no more of its answer than its shape."""
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
        if not isinstance(self._network, Bijection):  # a procedure says what cannot be had
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

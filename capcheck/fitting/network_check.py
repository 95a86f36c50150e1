"""Network check: a few calls of a network before a run.

The network must accept the arguments of its signature, return the promised type and shape, contain
no NaN, answer the same when it is asked the same, and, for causal signatures, not depend on later
tokens. The log-density of a bijection must be that of its draws.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from capcheck.core.budget import Budget
from capcheck.core.errors import ControlFlow, InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.core.sequences import SequenceSpec
from capcheck.fitting.networks import Network, cast
from capcheck.laws import LOG_2PI, TokenLaw
from capcheck.networks.signatures import (
    Bijection,
    BijectionSignature,
    Blinding,
    DenoiserSignature,
    GeneratorSignature,
    LowRankPredictorSignature,
    PrefixPredictorSignature,
    Signature,
    Wrapper,
)
from capcheck.networks.signatures.generator import normals_for
from capcheck.procedures.procedure import AnyProcedure

ROWS = 3
CALLS = 32  # after which a trial has seen enough
TWICE = 4  # of these calls are made again
LEAK = 1e-3  # of an answer that may change with what has no say in it: rounding
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
        InputError: It cannot be called so, answers in another shape or with broken numbers, does
            not answer the same twice, or looks at what it is to predict.
    """
    signature, spec = procedure.probe.signature, procedure.spec
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of networks that draw, which are refused
        for budget in reversed(budgets):
            check = _NetworkCheck(signature, spec, name, network)
            rng = CounterRandomness(0, name="trial", device=spec.mean.device)
            checked = procedure.with_trusted_network(network).wrapped(check)
            with contextlib.suppress(_SeenEnough):
                for _ in checked.wrapped(Blinding(signature, spec)).run(budget, ROWS, rng):
                    pass
            if check.calls:
                break
        require_causal(network, signature, spec, name=name)
    return check.digest.hexdigest() if check.calls else ""


def require_density(network: Callable[..., Any], procedure: AnyProcedure, *, name: str) -> None:
    """Raise InputError unless the log-density of a bijection is that of what it draws.

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
    z = normals_for(spec, ROWS, rng).requires_grad_(True)
    try:
        with torch.enable_grad():
            x: Tensor = network(z)
            rows = [
                torch.autograd.grad(one.sum(), z, retain_graph=True)[0].flatten(1)
                for one in x.flatten(1).unbind(1)
            ]
    except RuntimeError:  # there is no gradient
        return
    with torch.no_grad():
        own = network.log_prob(x.detach())
        slope = torch.stack(rows, 1).double().slogdet().logabsdet
        normal = -0.5 * (z.double().square() + LOG_2PI).flatten(1).sum(1)
        wanted = normal - slope
    off = float((own - wanted).abs().median())
    nats, share = DENSITY
    if not off <= nats + share * float(wanted.abs().median()) and bool(wanted.isfinite().all()):
        raise InputError(
            f"network {name} must know the density of what it draws, and its log_prob is "
            f"{_few(own)} where the change of variables gives {_few(wanted)}; add the logarithm of "
            "the Jacobian's determinant."
        )


class _SeenEnough(ControlFlow):
    """Ends a trial run."""


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
                raise InputError(
                    f"{expected}, and raised {type(error).__name__}: {error}."
                ) from error
        try:
            self._signature.require(answer, shown[0])
        except InputError as error:
            raise InputError(f"{expected}: {error}") from None
        self._require_shape_of_law(answer, shown[0], expected)
        self._require_tokens(answer, expected)
        if shown[0].requires_grad and not any(x.requires_grad for x in numbers):
            raise InputError(f"{expected}, and must have a gradient, got none; leave it attached.")
        for x in numbers:
            # A softmax of bounded rank knows one token; the laws of the others may be broken.
            if bool(x.isnan().any()) and not isinstance(self._signature, LowRankPredictorSignature):
                raise InputError(f"{expected}, and must answer in numbers, got NaN.")
            coarse = x.detach().to(torch.bfloat16).view(torch.int16)  # other devices round alike
            self.digest.update(repr(tuple(x.shape)).encode() + coarse.cpu().numpy().tobytes())
        if isinstance(self._signature, BijectionSignature):
            self._require_log_prob(answer, expected)
        if self.calls < TWICE:
            self._require_same(shown, numbers, expected)
        self.calls += 1
        if self.calls == CALLS:
            raise _SeenEnough
        return answer

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
            raise InputError(
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
                raise InputError(f"{expected}, and must return numbers, got {answer.dtype}.")
        elif not whole or bool(((answer < 0) | (answer >= spec.dim)).any()):
            got = (
                f"{answer.min():g} to {answer.max():g}, {str(answer.dtype).removeprefix('torch.')}"
            )
            raise InputError(
                f"{expected}, and must return token ids, integers from 0 to {spec.dim - 1}, "
                f"got {got}."
            )

    def _require_log_prob(self, answer: Tensor, expected: str) -> None:
        if not isinstance(self._network, Bijection):  # a procedure says what cannot be had
            return
        try:
            density = self._network.log_prob(answer.detach())
        except Exception as error:
            raise InputError(
                f"{expected}, and its log_prob raised {type(error).__name__}: {error}."
            ) from error
        shape = tuple(density.shape) if isinstance(density, Tensor) else type(density).__name__
        if shape != (len(answer),):
            raise InputError(
                f"{expected}, and its log_prob must return one number for each row, of shape "
                f"({len(answer)},), got {shape}; sum over tokens and their coordinates."
            )
        if bool(density.isnan().any()):
            raise InputError(f"{expected}, and its log_prob must be a number, got NaN.")

    def _require_same(self, shown: Sequence[Tensor], first: list[Tensor], expected: str) -> None:
        with torch.set_grad_enabled(shown[0].requires_grad):
            again = list(_numbers(self._network(*shown)))
        for one, other in zip(first, again, strict=True):
            a, b = (x.detach().double() for x in (one, other))
            close = LEAK * float(a.nan_to_num(posinf=0, neginf=0).abs().max())
            if not torch.allclose(a, b, rtol=LEAK, atol=close, equal_nan=True):
                raise InputError(
                    f"{expected}, and must answer the same when it is asked the same, and did not; "
                    "switch off what draws random numbers, as dropout does."
                )


def _numbers(answer: object) -> Iterator[Tensor]:
    if isinstance(answer, TokenLaw):
        yield answer.mean()
        yield answer.variance()
    elif isinstance(answer, Tensor):
        yield answer


def require_causal(
    network: Callable[..., Any], signature: Signature[Any], spec: SequenceSpec, *, name: str
) -> None:
    """Raise InputError if a network whose signature is causal depends on what it must not see.

    The tokens from i on, or those after i, are changed; nothing before them may move.

    Args:
        network: As a procedure calls it.
        signature: A prefix predictor's, or that of a denoiser with a causal view or its own; any
            other passes.
        spec: Of the sequences.
        name: Of the network, for the sentence.
    """
    x, other = (_any_tokens(spec, draw) for draw in ("tokens", "others"))
    ask: Callable[[Tensor], Any]
    if isinstance(signature, PrefixPredictorSignature):
        known = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        last, ask = 1, lambda tokens: network(tokens, known)  # token i does not see itself
    elif isinstance(signature, DenoiserSignature) and signature.view == "causal":
        levels = torch.full(x.shape[:2], 0.5, dtype=x.dtype, device=x.device)
        last, ask = 0, lambda tokens: network(tokens, levels)
    else:
        return
    try:
        with torch.no_grad():
            before = ask(x)
            for i in range(1 - last, spec.tokens):
                after = ask(torch.cat([x[:, :i], other[:, i:]], 1))
                moved = _changes(before, after, (x, other), spec)[:, : i + last].amax(0)
                if bool((moved > LEAK).any()):
                    raise InputError(
                        f"network {name} must not look ahead, and its answer for token "
                        f"{int(moved.argmax())} changes with the tokens from {i} on; mask "
                        f"{'token i and ' if last else ''}what follows token i."
                    )
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"network {name} must answer for tokens that are all known, and raised "
            f"{type(error).__name__}: {error}."
        ) from error


def _changes(before: Any, after: Any, at: Sequence[Tensor], spec: SequenceSpec) -> Tensor:
    """The largest change of the answer for a token, (n, N), the same for tokens of any size.

    It is that of the mean, in deviations of the token, or of the log-density at one of some points,
    as a share of it.
    """
    own = spec.variance.double().sqrt() if spec.kind == "continuous" else torch.ones(1)
    unit = torch.where(own > 0, own, 1).to(spec.mean.device)
    means = [a.mean() if isinstance(a, TokenLaw) else a for a in (before, after)]
    found = [((means[1] - means[0]).double() / unit).abs().amax(-1)]
    for x in at if isinstance(before, TokenLaw) else ():
        p, q = (law.log_prob(x).double() for law in (before, after))
        share = (q - p).abs() / (1 + p.abs())
        found.append(torch.where(p == q, 0, share.nan_to_num(nan=math.inf, posinf=math.inf)))
    return torch.stack(found).amax(0)


def _any_tokens(spec: SequenceSpec, name: str) -> Tensor:
    rng = CounterRandomness(0, name=name, device=spec.mean.device)
    if spec.kind == "categorical":
        even = torch.ones(spec.dim, dtype=torch.float64, device=spec.mean.device)
        return rng.categorical(even, (ROWS, spec.tokens))
    noise = rng.normal((ROWS, spec.tokens, spec.dim)).to(spec.mean)
    return spec.mean + spec.variance.sqrt() * noise


def _shapes(shown: Sequence[Tensor]) -> str:
    return ", ".join(f"{tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}" for x in shown)


def _few(x: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in x.tolist())

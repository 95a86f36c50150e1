"""The checks of the conformance suite, each of which runs one case and raises at a violation."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from capcheck.core.budget import AXES, Budget
from capcheck.core.errors import ProbeError, UnfitError
from capcheck.core.log_density import LogDensity
from capcheck.core.randomness import CounterRandomness
from capcheck.divergences.evidence import ModelEvidence
from capcheck.divergences.reference import Reference
from capcheck.networks.signatures import Calls
from capcheck.procedures.principal_axes import LEAST
from capcheck.procedures.probe import AnyProbe, State
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.procedures.rows import ROWS
from capcheck.procedures.trace import Recorder
from capcheck.targets import GaussianMixture
from capcheck.testing.cases import TARGETS, Case
from capcheck.testing.intervention import require_honest

__all__ = ["CHECKS", "check_declaration"]

N_ROWS = 5  # number of sample rows of a run


def check_declaration(probe: AnyProbe) -> None:
    """Checks that the class declares only values that exist, and consistent ones."""
    name = probe.family
    _require(probe.row in ROWS, f"{name}: row must be one of {', '.join(ROWS)}, got {probe.row!r}")
    _require(
        probe.kinds <= {"continuous", "categorical"} and bool(probe.kinds),
        f"{name}: kinds must be of continuous and categorical, got {set(probe.kinds)}",
    )
    for what, axes in (("reads", probe.reads), ("anytime", probe.anytime)):
        _require(axes <= set(AXES), f"{name}: {what} must be of {', '.join(AXES)}, got {set(axes)}")
    _require(probe.anytime <= probe.reads, f"{name}: an axis that is never read cannot be anytime")
    for suspect in probe.suspects():
        _require(suspect.probe != probe, f"{name}: a suspect must be another procedure")
        _require(
            bool(suspect.probe.kinds & probe.kinds),
            f"{name}: a suspect must take the same tokens, {suspect.cure} does not",
        )
        _require(
            suspect.cure.rstrip(".") == suspect.cure != "",
            f'{name}: a cure must follow "with" in a sentence, got {suspect.cure!r}',
        )
    if probe.rotates:
        _require(_rotates(probe), f"{name}: it does not commute with rotations, so drop `rotates`")


def check_states(case: Case) -> None:
    """Checks that states are well formed, keep to the budget, and report what they change."""
    if case.network == "huge":
        return  # its tokens may be infinite; check_divergence runs it
    procedure = case.procedure()
    spec, probe = procedure.spec, case.probe
    for budget in _some_budgets(spec.tokens):
        calls = Calls()
        states = _recorded(case, procedure, budget, calls)
        for state in states:
            shape = (N_ROWS, spec.tokens)
            _require(
                tuple(state.tokens.shape) == (*shape, *spec.token_shape)
                and tuple(state.placed.shape) == tuple(state.written.shape) == shape,
                f"{case}: a state must have tokens of shape {(*shape, *spec.token_shape)}",
            )
            _require(
                state.tokens.dtype == procedure.start(1, case.rng()).tokens.dtype,
                f"{case}: tokens must keep the type of the start, got {state.tokens.dtype}",
            )
            _require(bool(state.tokens.isfinite().all()), f"{case}: a token is no finite number")
            if spec.kind == "categorical":
                inside = (state.tokens >= 0) & (state.tokens < spec.dim)
                _require(bool(inside.all()), f"{case}: a token id is not in 0..{spec.dim - 1}")
        _require(
            all(bool(state.written.any()) for state in states[1:]),
            f"{case}: every state but the first must write something at {budget}",
        )
        most = probe.iterations(spec, budget)
        _require(
            len(states) - 1 <= most,
            f"{case}: {len(states) - 1} states follow the first at {budget}, and iterations() says "
            f"at most {most}",
        )
        placed = states[-1].placed.sum(1)
        if probe.row in ("neither", "steps"):
            _require(bool((placed == spec.tokens).all()), f"{case}: every token must be placed")
        else:
            few = bool((placed <= budget.length).all())
            _require(few, f"{case}: too many tokens are placed at {budget}")
            full = budget.length < spec.tokens or bool((placed == spec.tokens).all())
            _require(full, f"{case}: every token must be placed at {budget}")
        _require(calls.sequential > 0 or budget.length == 0, f"{case}: no call of the network")


def check_determinism(case: Case) -> None:
    """Checks that a run depends on its seed only, and a row not on its batch."""
    if case.network != "oracle":
        return
    procedure = case.procedure()
    budget = Budget(length=procedure.spec.tokens, steps=3)

    def final(n: int, first: int, seed: int = 0) -> Tensor:
        *_, last = procedure.run(budget, n, case.rng(seed, first))
        return last.tokens

    whole = final(20, 0)
    _require(torch.equal(final(20, 0), whole), f"{case}: the same seed must give the same tokens")
    tolerance = 1e-9 if case.device == "cpu" else 1e-3
    _require(
        bool(((final(8, 12) - whole[12:]).abs() <= tolerance).all()),
        f"{case}: a row must not depend on the batch in which it is drawn",
    )
    _require(
        not torch.equal(final(20, 0, seed=1), whole), f"{case}: another seed must give other tokens"
    )


def check_reads(case: Case) -> None:
    """Checks that states and densities depend on no more than `reads` and `effective` say."""
    if case.network != "oracle":
        return
    procedure = case.procedure()
    N = procedure.spec.tokens
    whole = Budget(length=N, steps=3)
    less = {"length": Budget(length=N // 2, steps=3), "steps": Budget(length=N, steps=1)}
    claims = {f"`reads` leaves {a} out": (whole, less[a]) for a in {*AXES} - case.probe.reads}
    for one in (Budget(length=n, steps=k) for n in (0, 1, N // 2, N) for k in (1, 2, 3, 64)):
        if (other := case.probe.effective(procedure.spec, one)) != one:
            claims[f"`effective` takes {one} for {other}"] = (one, other)
    for claim, (one, other) in claims.items():
        runs = [list(procedure.run(budget, N_ROWS, case.rng())) for budget in (one, other)]
        same = len(runs[0]) == len(runs[1]) and all(
            torch.equal(a.tokens, b.tokens) and torch.equal(a.placed, b.placed)
            for a, b in zip(*runs, strict=True)
        )
        _require(same, f"{case}: {claim}, and a run depends on what differs")
        x = procedure.target.sample(N_ROWS, case.rng())
        found = [procedure.log_density(budget, x, case.rng()) for budget in (one, other)]
        values = [f.values if isinstance(f, LogDensity) else f.reason for f in found]
        same = (
            torch.equal(values[0], values[1])
            if isinstance(values[0], Tensor) and isinstance(values[1], Tensor)
            else values[0] is values[1] or values[0] == values[1]
        )
        _require(same, f"{case}: {claim}, and the log-density depends on what differs")


def check_snapshots(case: Case) -> None:
    """Checks that, along an anytime axis, the largest run contains every smaller run."""
    if case.network != "oracle":
        return
    procedure = case.procedure()
    N, anytime = procedure.spec.tokens, case.probe.anytime

    def states(length: int, steps: int) -> list[State]:
        return list(procedure.run(Budget(length=length, steps=steps), 6, case.rng(3)))

    largest = states(N, 5)
    if "steps" in anytime:
        same = torch.equal(states(N, 2)[-1].tokens, largest[:3][-1].tokens)
        _require(same, f"{case}: `steps` is no anytime axis")
    if "length" in anytime:
        half = N // 2
        held = [state for state in largest if int(state.placed[0].sum()) <= half][-1]
        small = states(half, 5)[-1]
        same = torch.equal(small.placed, held.placed) and torch.equal(
            small.tokens[small.placed], held.tokens[held.placed]
        )
        _require(same, f"{case}: `length` is no anytime axis")


def check_writes(case: Case) -> None:
    """Checks the reported writes by interventions; see `require_honest`."""
    if case.network == "oracle" and case.target in ("modes", "table"):
        procedure = case.procedure()
        require_honest(procedure, Budget(length=procedure.spec.tokens, steps=2))


def check_given(case: Case) -> None:
    """Checks that given tokens are placed and keep their values, and that the rest is placed."""
    N = TARGETS[case.target].spec.tokens
    if N == 1 or case.network == "huge":
        return
    try:
        procedure = case.procedure(given=(0,))
        states = _recorded(case, procedure, Budget(length=N - 1, steps=3), Calls())
    except UnfitError:
        return  # no oracle of a conditional law
    start = procedure.start(N_ROWS, case.rng())
    for state in states:
        _require(
            torch.equal(state.tokens[:, 0], start.tokens[:, 0])
            and bool(state.placed[:, 0].all())
            and not bool(state.written[:, 0].any()),
            f"{case}: a given token must keep its value and never be written",
        )
    _require(bool(states[-1].placed.all()), f"{case}: the rest must be filled in")


def check_density(case: Case) -> None:
    """Checks that the log-density, where it is exact, is that of the sampled law."""
    if case.network != "oracle" or case.device != "cpu":
        return
    procedure = case.procedure()
    budget = Budget(length=procedure.spec.tokens // 2, steps=2)
    reference = Reference(procedure.target, divergences=("kl",), samples=400, seed=0)
    density = procedure.log_density(budget, reference.draws, case.rng())
    samples = procedure.sample(budget, 400, case.rng())
    if reference.has_law:  # raises if the draws contradict the law
        law = procedure.exact_law(budget)
        reference.estimates(ModelEvidence(samples=samples, law=law))
    if isinstance(density, LogDensity) and not density.bound:  # raises likewise
        kl = reference.estimates(ModelEvidence(samples=samples, log_density=density))["kl"]
        _require(kl.value is not None, f"{case}: the log-density is no density: {kl.method}")


def check_forgetful(case: Case) -> None:
    """Checks that the network's answers for known tokens have no effect."""
    if case.network != "forgetful":
        return
    oracle = Case(probe=case.probe, target=case.target, network="oracle", device=case.device)
    N = TARGETS[case.target].spec.tokens
    for given in [(), (0,)] if N > 1 else [()]:
        budget = Budget(length=N - len(given), steps=3)
        with contextlib.suppress(UnfitError):  # no oracle of a conditional law
            one, other = (
                c.procedure(given=given).sample(budget, N_ROWS, case.rng()) for c in (oracle, case)
            )
            _require(
                torch.equal(one, other),
                f"{case}: the result changes with the network's answer for tokens that are known",
            )


def check_divergence(case: Case) -> None:
    """Checks that a run with huge answers ends, and that divergences of its draws are computed."""
    if case.network != "huge":
        return
    procedure = case.procedure()
    budget = Budget(length=procedure.spec.tokens, steps=3)
    samples = procedure.sample(budget, 200, case.rng())
    reference = Reference(procedure.target, divergences=("wasserstein", "mmd"), samples=200, seed=0)
    estimates = reference.estimates(ModelEvidence(samples=samples))
    _require(
        all(e.value is not None for e in estimates.values()),
        f"{case}: divergences must be computed from draws of any size",
    )


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_states,
    check_determinism,
    check_reads,
    check_snapshots,
    check_writes,
    check_given,
    check_density,
    check_forgetful,
    check_divergence,
)
"""All checks of a case."""


def _rotates(probe: AnyProbe) -> bool:
    """Whether draws in the principal axes of a Gaussian are those in its own coordinates."""
    factors = torch.arange(1.0, 2 * LEAST + 1, dtype=torch.float64).sin().reshape(LEAST, 2)
    covariance = factors @ factors.T + 0.2 * torch.eye(LEAST, dtype=torch.float64)
    law = GaussianMixture(covariance.new_ones(1, LEAST // 2, 2), covariance[None])
    plain = Procedure.of(probe, law)
    rotated, budget = plain.in_quickest_coordinates, Budget(length=LEAST // 2, steps=3)
    x, y = (one.sample(budget, N_ROWS, CounterRandomness(0)) for one in (plain, rotated))
    return torch.allclose(x, y, rtol=1e-7, atol=1e-7)


def _some_budgets(tokens: int) -> list[Budget]:
    lengths = sorted({0, tokens // 2, tokens})
    return [Budget(length=length, steps=steps) for length in lengths for steps in (1, 7)]


def _recorded(case: Case, procedure: AnyProcedure, budget: Budget, calls: Calls) -> list[State]:
    """The states of a run, after checking that they report all writes."""
    recorder = Recorder(case.probe.family, procedure.start(N_ROWS, case.rng()))
    states = []
    for state in procedure.run(budget, N_ROWS, case.rng(), calls=calls):
        recorder.record(state)
        states.append(state)
    _require(bool(states), f"{case}: run() yielded no state at {budget}")
    return states


def _require(fine: bool, otherwise: str) -> None:
    if not fine:
        raise ProbeError(f"{otherwise}.")

"""The registry of objectives maps a network's signature to the loss that it is fitted with.

| network | objective |
|---|---|
| denoiser, flow map, consistency function | squared error to the oracle |
| token laws | cross-entropy against the oracle's |
| energy | score matching; pseudo-likelihood of token ids |
| generator | energy distance |
| bijection, decoder | likelihood, ELBO |
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from capcheck.core.budget import Budget
from capcheck.core.errors import InputError
from capcheck.core.randomness import CounterRandomness
from capcheck.fitting.energies import PseudoLikelihood, ScoreMatching
from capcheck.fitting.likelihoods import (
    EvidenceBound,
    Likelihood,
    masked,
    prefix_masked,
    transitions,
)
from capcheck.fitting.noisy_predictors import denoised
from capcheck.fitting.objectives import Objective
from capcheck.fitting.recording import Call, Pool, record
from capcheck.fitting.regressions import denoising, distilling, mapping
from capcheck.fitting.sample_distance import SampleDistance
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
from capcheck.networks.signatures.denoiser import require_continuous
from capcheck.procedures.procedure import AnyProcedure
from capcheck.targets.target import ContinuousTarget

__all__ = ["RecordedRun", "end_to_end", "objective_for"]


class RecordedRun:
    """A procedure with its budgets, whose calls are recorded at the first access to `calls`.

    Args:
        procedure: Procedure with its oracle.
        budgets: Budgets of the recorded runs, at least one.
        seed: Seed of the recorded runs.
    """

    def __init__(self, procedure: AnyProcedure, *, budgets: Sequence[Budget], seed: int) -> None:
        self.procedure, self.budgets = procedure, budgets
        self.target = procedure.coordinates.target
        self._seed = seed

    @functools.cached_property
    def oracle(self) -> Any:
        """The network to imitate: the oracle; for a low-rank softmax that of full rank."""
        if isinstance(self.procedure.probe.signature, LowRankPredictorSignature):
            return TokenPredictorSignature().oracle(self.target)
        return self.procedure.oracle

    @functools.cached_property
    def calls(self) -> list[Call]:
        """The recorded calls of the procedure with the oracle."""
        rng = CounterRandomness(self._seed, name="fit", device=self.target.device)
        return record(
            self.procedure.with_trusted_network(self.oracle), budgets=self.budgets, rng=rng
        )

    @property
    def continuous(self) -> ContinuousTarget:
        """The target; raises UnfitError if its tokens are not continuous."""
        return require_continuous(self.target, "this objective")


def end_to_end(run: RecordedRun) -> Objective:
    """The energy distance between the procedure's output and the target, at the only budget.

    Raises:
        InputError: There are several budgets, or the procedure cannot be differentiated.
    """
    if len(run.budgets) != 1:
        raise InputError(
            f"budgets must be one for objective end_to_end, got {len(run.budgets)}; fit once for "
            "each."
        )
    return SampleDistance(procedure=run.procedure, budget=run.budgets[0])


@functools.singledispatch
def objective_for(signature: object, run: RecordedRun) -> Objective:
    """Make the objective of a signature; register a function to support another signature."""
    raise InputError(
        f"fit has no objective for {type(signature).__name__}; register one with "
        "capcheck.fitting.objective_for."
    )


@objective_for.register
def _(signature: DenoiserSignature, run: RecordedRun) -> Objective:
    return denoising(run.continuous, run.oracle, run.calls, signature.path)


@objective_for.register
def _(signature: FlowMapSignature, run: RecordedRun) -> Objective:
    return mapping(run.continuous, run.oracle, run.calls, run.procedure.spec, lands=True)


@objective_for.register
def _(signature: ConsistencySignature, run: RecordedRun) -> Objective:
    if signature.solver_steps is not None:
        return distilling(run.continuous, run.oracle, run.calls, signature.path)
    carry = FlowMapSignature(signature.path).oracle(run.target)
    return mapping(run.continuous, carry, run.calls, run.procedure.spec, lands=False)


@objective_for.register
def _(signature: TransitionPredictorSignature, run: RecordedRun) -> Objective:
    return transitions(run.continuous, run.oracle, run.calls)


@objective_for.register(TokenPredictorSignature)
@objective_for.register(LowRankPredictorSignature)
def _(signature: object, run: RecordedRun) -> Objective:
    return masked(run.target, run.oracle, run.calls)


@objective_for.register
def _(signature: PrefixPredictorSignature, run: RecordedRun) -> Objective:
    return prefix_masked(run.target, run.oracle, run.calls)


@objective_for.register
def _(signature: NoisyPredictorSignature, run: RecordedRun) -> Objective:
    return denoised(run.target, run.oracle, run.calls)


@objective_for.register
def _(signature: EnergySignature, run: RecordedRun) -> Objective:
    states = Pool.of(run.calls, lambda call: call.shown)
    if isinstance(run.target, ContinuousTarget):
        return ScoreMatching.of(run.target, states)
    return PseudoLikelihood(target=run.target, states=states)


@objective_for.register
def _(signature: GeneratorSignature, run: RecordedRun) -> Objective:
    return SampleDistance(procedure=run.procedure, budget=run.budgets[-1])


@objective_for.register
def _(signature: BijectionSignature, run: RecordedRun) -> Objective:
    return Likelihood(target=run.target, spec=run.procedure.spec)


@objective_for.register
def _(signature: DecoderSignature, run: RecordedRun) -> Objective:
    return EvidenceBound(target=run.target, spec=run.procedure.spec)

"""The witness names planted defects, and is silent where there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from capcheck.core.randomness import CounterRandomness
from capcheck.diagnostics.observer import Observer
from capcheck.diagnostics.witness import Witness
from capcheck.targets import from_spec
from capcheck.targets.target import Target


def draws(target: Target, name: str, n: int = 2000) -> Tensor:
    return target.sample(n, CounterRandomness(0, name=name))


def observe(target: Target, samples: Tensor) -> Witness:
    return Observer(target, draws(target, "target")).compare(samples)


SPECS = ["modes:tokens=3,modes=3,gap=6", "gaussian:ar1,tokens=4,rho=0.9", "parity:6", "shuffle:4"]


@pytest.mark.parametrize("spec", SPECS)
def test_equal_laws_have_nothing_to_say(spec: str) -> None:
    target = from_spec(spec)
    observer = Observer(target, draws(target, "target"))
    said = [observer.compare(draws(target, f"fresh {k}")).sentences() for k in range(10)]
    assert sum(map(len, said)) == 0


def test_a_dropped_mode_is_shown_with_an_example() -> None:
    target = from_spec("modes:tokens=2,modes=3,gap=8")
    samples = draws(target, "model", 6000)
    first = samples.flatten(1).mean(1)
    kept = samples[first < first.quantile(0.66)][:2000]  # the highest of three modes is gone
    modes = observe(target, kept).modes
    assert modes
    assert sum(mode.target for mode in modes) == pytest.approx(1 / 3, abs=0.05)
    for mode in modes:
        assert np.mean(mode.example) > float(kept.max()) - 3
        assert mode.model < 0.5 * mode.target


def test_shuffled_tokens_lose_the_dependence_of_pairs() -> None:
    target = from_spec("gaussian:ar1,tokens=4,rho=0.9")
    samples = draws(target, "model").clone()
    samples[:, 3] = samples[torch.randperm(2000, generator=torch.Generator().manual_seed(0)), 3]
    witness = observe(target, samples)
    assert witness.pairs[0].tokens == (2, 3)  # the neighbour: correlation 0.9, and now none
    assert witness.pairs[0].target == pytest.approx(0.9, abs=0.02)
    assert abs(witness.pairs[0].model) < 0.1
    assert {pair.tokens for pair in witness.pairs} == {(0, 3), (1, 3), (2, 3)}
    assert not witness.tokens


def test_lost_dependence_of_categorical_tokens_is_information() -> None:
    target = from_spec("copy:tokens=3,symbols=4")
    samples = draws(target, "model").clone()
    samples[:, 0] = samples[torch.randperm(2000, generator=torch.Generator().manual_seed(0)), 0]
    pair = observe(target, samples).pairs[0]
    assert pair.target == pytest.approx(np.log(4), abs=0.01)
    assert pair.model < 0.02
    assert pair.tokens[0] == 0


def test_a_dependence_that_only_distances_from_the_mean_show_is_found() -> None:
    # Two tokens of mixture scale: uncorrelated, with |x| and |y| dependent.
    target = from_spec("gaussian:ar1,tokens=2,rho=0.0")
    z = draws(target, "model").clone()
    scale = torch.where(torch.arange(2000) % 2 == 0, 0.3, 1.4)
    witness = observe(target, z * scale[:, None, None])
    assert witness.pairs[0].model > 0.3


def test_a_token_whose_law_is_off_is_named() -> None:
    target = from_spec("gaussian:ar1,tokens=4,rho=0.9")
    samples = draws(target, "model").clone()
    samples[:, 2] += 0.5
    witness = observe(target, samples)
    # sup |F(x) - F(x - 1/2)| of a standard normal is 2 Phi(1/4) - 1 = 0.197
    assert witness.tokens[0].token == 2
    assert witness.tokens[0].error == pytest.approx(0.197, abs=0.04)
    bits = from_spec("parity:4")
    samples = draws(bits, "model").clone()
    samples[:400, 1] = 1  # a fifth of the rows: total variation 0.1
    found = observe(bits, samples)
    assert [error.token for error in found.tokens] == [1]
    assert found.tokens[0].error == pytest.approx(0.1, abs=0.03)


def test_impossible_samples_are_counted() -> None:
    target = from_spec("parity:4")
    samples = draws(target, "model", 500).clone()
    samples[:20, 0] = 1 - samples[:20, 0]
    witness = observe(target, samples)
    assert witness.impossible == 20
    assert "20 of 500 samples cannot occur in the target." in witness.sentences()
    assert observe(target, draws(target, "model", 500)).impossible == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e170])
def test_lost_samples_are_counted_and_nothing_else_is_looked_for(value: float) -> None:
    target = from_spec("gaussian:ar1,tokens=4,rho=0.9")
    samples = 2 * draws(target, "model")
    assert observe(target, samples).tokens  # all variances are wrong
    samples[:3, 0] = value
    witness = observe(target, samples)
    assert witness.lost == 3
    assert (witness.tokens, witness.pairs, witness.modes) == ((), (), ())
    (said,) = witness.sentences()
    assert said.startswith(f"3 of {len(samples)} draws are infinitely far out")
    assert observe(target, draws(target, "model")).lost == 0

"""No refining family mixes devices, as seen without a GPU: see `reference.devices`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reference.devices import MixedDevicesError, TwoDevices

from capcheck.core.budget import Budget
from capcheck.core.randomness import CounterRandomness
from capcheck.procedures.procedure import Procedure
from capcheck.procedures.registry import build_probe
from capcheck.targets import from_spec

CASES: list[tuple[str, dict[str, Any]]] = [
    ("diffusion", {}),
    ("diffusion", {"eta": 0.5, "levels": "1/0.4/0.2/0"}),
    ("diffusion", {"solver": "heun", "grid": "karras"}),
    ("diffusion", {"solver": "dpm_solver", "grid": "log_snr"}),
    ("diffusion", {"solver": "ddpm_large_noisy"}),
    ("consistency", {"times": "0.5/0.2"}),
    ("consistency", {"solver_steps": "exact"}),
    ("flow_map", {}),
    ("ebm", {}),
    ("ebm", {"sampler": "mala"}),
    ("ar_diffusion", {}),
    ("ar_diffusion", {"schedule": "sequential"}),
    ("rolling_diffusion", {}),
    ("mar", {}),
    ("mar", {"order": "fixed", "tokens_per_round": 1}),
    ("ar_smoothing", {}),
    ("ar_smoothing", {"heads": "mixture"}),
    ("ar_smoothing", {"last": "factorised"}),
    ("diffusion_forcing", {"eta": 0.5}),
    ("diffusion_forcing", {"schedule": "pyramid", "causal": True}),
]
SPECS: list[tuple[str, tuple[int, ...]]] = [
    ("gaussian:ar1,tokens=3,rho=0.5", ()),
    ("modes:tokens=3,modes=2,gap=3", (1,)),
    ("parity:3", (1,)),
]


@pytest.mark.parametrize(
    ("family", "options", "spec", "given"),
    [
        (family, options, spec, given)
        for family, options in CASES
        for spec, given in SPECS
        if spec != "parity:3" or (family == "ebm" and not options)
    ],
)
def test_no_tensor_is_made_on_the_wrong_device(
    family: str, options: dict[str, Any], spec: str, given: tuple[int, ...]
) -> None:
    target = from_spec(spec)
    procedure = Procedure.of(build_probe(family, options), target, given=given)
    x, rng = target.sample(2, CounterRandomness(0)), CounterRandomness(0)
    _ = procedure.oracle, procedure.completion
    with TwoDevices():
        procedure.sample(Budget(length=2, steps=3), 4, rng)
        procedure.log_density(Budget(length=1, steps=2), x, rng)
        procedure.limit(2, rng)


def test_a_host_tensor_is_caught_and_indices_of_the_host_are_not() -> None:
    x = torch.ones(3)  # from outside: the GPU's
    with TwoDevices():
        with pytest.raises(MixedDevicesError):
            x * torch.arange(3)
        with pytest.raises(MixedDevicesError):
            torch.where(torch.ones(3).bool(), x, 0)
        with pytest.raises(MixedDevicesError):
            x + x.cpu()
        assert x[torch.arange(2)].shape == (2,)
        assert float((x * torch.arange(3).to(x)).sum()) == 3
        assert float((x * torch.arange(3, device=x.device) + torch.tensor(1.0)).sum()) == 6

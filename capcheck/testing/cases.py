"""The cases of the conformance suite: small targets, test networks and the available devices."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from capcheck.core.errors import UnfitError
from capcheck.core.randomness import CounterRandomness
from capcheck.procedures.probe import AnyProbe
from capcheck.procedures.procedure import AnyProcedure, Procedure
from capcheck.targets import ProductMixture, from_spec, from_table
from capcheck.targets.target import Target
from capcheck.testing.networks import NETWORKS, NetworkName, wrapper_of

__all__ = ["TARGETS", "Case", "cases_of", "devices"]

TARGETS: Mapping[str, Target] = {
    "modes": from_spec("modes:tokens=4,modes=3,gap=3"),
    "one token": from_spec("gaussian:tokens=1,std=2"),
    "correlated": from_spec("gaussian:ar1,tokens=4,rho=0.8"),
    "vectors": ProductMixture(
        torch.tensor([[[0.0, 1.0], [2.0, -1.0]], [[1.0, 1.0], [-2.0, 0.5]]], dtype=torch.float64),
        torch.tensor([[0.5, 1.0], [0.7, 0.4]], dtype=torch.float64),
    ),
    "table": from_table(
        torch.tensor([0.3, 0.1, 0.05, 0.2, 0.02, 0.13, 0.15, 0.05], dtype=torch.float64).reshape(
            2, 2, 2
        )
    ),
    "classes": from_spec("copy:tokens=4,symbols=3"),
    "one id": from_table(torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)),
}
"""Small targets of both kinds of tokens, by name."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A probe with a network on a target and a device.

    Attributes:
        probe: The probe to check.
        target: Name of the target in `TARGETS`.
        network: Name of the test network.
        device: Device of target and run.
    """

    probe: AnyProbe
    target: str
    network: NetworkName
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.probe.family} on {self.target} with {self.network} on {self.device}"

    def procedure(self, *, given: Sequence[int] = ()) -> AnyProcedure:
        """Makes the procedure of the case, in float64 on the CPU and in float32 elsewhere.

        Args:
            given: Indices of tokens that are known from the start.

        Raises:
            UnfitError: The family has no oracle on this target.
        """
        target = TARGETS[self.target]
        dtype = torch.float64 if self.device == "cpu" else torch.float32
        placed = target.to(device=self.device, dtype=dtype)
        procedure = Procedure.of(self.probe, placed, given=given)
        wrapper = wrapper_of(self.network, self.probe.signature)
        return procedure.with_trusted_network(procedure.oracle).wrapped(wrapper)

    def rng(self, seed: int = 0, first_row: int = 0) -> CounterRandomness:
        """The random numbers of the case."""
        return CounterRandomness(seed, first_row=first_row, name="model", device=self.device)


def devices() -> list[str]:
    """The available devices."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def cases_of(probe: AnyProbe) -> Iterator[Case]:
    """Yields every case of a probe: all targets on which it is defined and has an oracle."""
    for device in devices():
        for name, target in TARGETS.items():
            if target.spec.kind not in probe.kinds:
                continue
            with contextlib.suppress(UnfitError):
                first = Case(probe=probe, target=name, network="oracle", device=device)
                _ = first.procedure().network
                for network in NETWORKS:
                    yield Case(probe=probe, target=name, network=network, device=device)

"""The least KL that any network has in random order, which is below that of the oracle.

With several tokens per step in random order, samples follow the mixture over all orders. The oracle
minimises the mean of KL over orders, which the usual loss minimises, too. The KL of the mixture is
smaller, and the oracle does not minimise it: laws of different orders may share the sequences out.
Here the laws q(x_i | x_S) of all sets S are free numbers, and the KL of the mixture itself is
minimised from the oracle on.
"""

from __future__ import annotations

import itertools
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional

from prediction.densities import by_sets, per_round

__all__ = ["Least", "in_random_order", "least_kl", "rare_parity"]

RATE = 0.02  # of Adam
UPDATES = 400
EDGE = 1e-12  # probability from which the oracle's log-odds are finite


class Least(TypedDict):
    """KL in nats of the oracle, and the least that was found, with so many tokens per step."""

    per_step: int
    oracle: float
    least: float


def in_random_order() -> list[Least]:
    """The least KL for the runs of rare parity, and for one step, in which no order matters."""
    x, p = rare_parity(6, 0.2)
    return [least_kl(x, p, per_step=k, updates=UPDATES) for k in (3, 5, 6)]


def rare_parity(tokens: int, ones: float) -> tuple[Tensor, Tensor]:
    """The sequences with an even number of ones, (K, N), and their probabilities, (K,)."""
    x = torch.tensor(list(itertools.product(range(2), repeat=tokens)))
    x = x[x.sum(1) % 2 == 0]
    count = x.sum(1).double()
    weight = ones**count * (1 - ones) ** (tokens - count)
    return x, weight / weight.sum()


def least_kl(x: Tensor, p: Tensor, *, per_step: int, updates: int) -> Least:
    """The least KL(p || mixture over orders) of bits, by gradient descent from the oracle on.

    Args:
        x: Sequences of positive probability, (K, N) of 0 and 1.
        p: Their probabilities, (K,).
        per_step: Tokens that a step places, in random order.
        updates: Number of updates.
    """
    N = x.shape[1]
    place = 3 ** torch.arange(N)
    log_odds = _oracle(x, p).requires_grad_(True)

    def predict(rows: Tensor, known: Tensor) -> Tensor:
        seen = (torch.where(known, rows, 2) * place).sum(1)
        return -functional.softplus(torch.where(rows == 1, -1, 1) * log_odds[seen])

    chances = per_round(N, per_step)
    optimiser = torch.optim.Adam([log_odds], lr=RATE)
    found = []
    for _ in range(updates):
        optimiser.zero_grad()
        kl = (p * (p.log() - by_sets(predict, chances, x))).sum()
        kl.backward()
        optimiser.step()
        found.append(kl.item())
    return Least(per_step=per_step, oracle=found[0], least=min(found))


def _oracle(x: Tensor, p: Tensor) -> Tensor:
    """The log-odds of a one for every token given every view, (3^N, N); 2 stands for unseen."""
    views = torch.tensor(list(itertools.product(range(3), repeat=x.shape[1])))
    fits = ((views[:, None] == x) | (views[:, None] == 2)).all(2).to(p)  # (3^N, K)
    mass = fits * p
    ones = mass @ x.to(p) / mass.sum(1, keepdim=True).clamp(min=EDGE)
    place = 3 ** torch.arange(x.shape[1])
    by_code = torch.empty_like(ones)
    by_code[(views * place).sum(1)] = ones.clamp(EDGE, 1 - EDGE).logit()
    return by_code

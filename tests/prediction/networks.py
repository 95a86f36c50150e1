"""Ordinary networks in plain torch: predictors of tokens, denoisers, a flow map and a linear VAE.

Nothing here knows of capcheck. A predictor's method `log_prob` gives the log-probability of every
token of given sequences, and a denoiser's method `clean` its answer E[x_0 | x_t].
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "CausalDenoiser",
    "Denoiser",
    "FlowMap",
    "Heads",
    "LinearVAE",
    "MaskedMixtures",
    "MaskedSymbols",
    "Window",
    "amplitudes",
    "perceptron",
]

COMPONENTS = 10  # Gaussians in the law that a predictor of numbers gives a token


def perceptron(inputs: int, width: int, outputs: int, *, smooth: bool = True) -> nn.Sequential:
    """Three hidden layers: SiLU as torch initialises it, or ReLU with He's initialisation."""
    layers: list[nn.Module] = []
    for size in (inputs, width, width):
        layer = nn.Linear(size, width)
        if not smooth:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        layers += [layer, nn.SiLU() if smooth else nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def amplitudes(t: Tensor) -> tuple[Tensor, Tensor]:
    """Amplitudes cos(pi t / 2) of the signal and sin(pi t / 2) of the noise at levels t."""
    return torch.sin(0.5 * math.pi * (1 - t)), torch.sin(0.5 * math.pi * t)


def _dtype(network: nn.Module) -> torch.dtype:
    """The precision of a network's weights."""
    return next(network.parameters()).dtype


class MaskedSymbols(nn.Module):
    """Predicts every token id from those that are not masked.

    Args:
        tokens: N, length of a sequence.
        symbols: V, number of symbols.
        width: Width of the hidden layers.
        smooth: See `perceptron`.
    """

    def __init__(self, tokens: int, symbols: int, width: int, *, smooth: bool) -> None:
        super().__init__()
        self.symbols = symbols
        self.net = perceptron(tokens * (symbols + 1), width, tokens * symbols, smooth=smooth)

    def log_prob(self, x: Tensor, known: Tensor) -> Tensor:
        """Log-probability of each token of x (n, N) given the known ones (n, N) bool: (n, N)."""
        shown = functional.one_hot(torch.where(known, x, self.symbols), self.symbols + 1)
        logits = self.net(shown.flatten(1).to(_dtype(self)))
        log_p = logits.unflatten(1, (x.shape[1], self.symbols)).log_softmax(-1)
        found: Tensor = log_p.gather(2, x[..., None])[..., 0]
        return found


class MaskedMixtures(nn.Module):
    """Predicts a mixture of Gaussians for every number from those that are not masked.

    Args:
        tokens: N, numbers of a sequence.
        width: Width of the hidden layers.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.net = perceptron(2 * tokens, width, tokens * COMPONENTS * 3)

    def log_prob(self, x: Tensor, known: Tensor) -> Tensor:
        """Log-density of each token of x (n, N, 1) given the known ones (n, N) bool: (n, N)."""
        value = x[..., 0]
        shown = torch.cat([torch.where(known, value, 0), known.to(x)], 1)
        out = self.net(shown).unflatten(1, (value.shape[1], COMPONENTS, 3))
        weight, mean, log_std = out[..., 0].log_softmax(-1), out[..., 1], out[..., 2]
        residual = (value[..., None] - mean) * (-log_std).exp()
        log_p = weight - 0.5 * residual.square() - log_std - 0.5 * math.log(2 * math.pi)
        found: Tensor = log_p.logsumexp(-1)
        return found


class Window(nn.Module):
    """Predicts each token id from its place and the `window` token ids before it.

    Args:
        tokens: N, length of a sequence.
        symbols: V, number of symbols.
        window: Number of tokens that are seen.
        width: Width of the hidden layers.
    """

    def __init__(self, tokens: int, symbols: int, window: int, width: int) -> None:
        super().__init__()
        self.symbols, self.window = symbols, window
        self.net = perceptron(window * (symbols + 1) + tokens, width, symbols, smooth=False)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-probability of each token of x (n, N) given those before it: (n, N)."""
        n, N = x.shape
        before = functional.pad(x, (self.window, 0), value=self.symbols)
        seen = before.unfold(1, self.window, 1)[:, :N] if self.window else x.new_zeros(n, N, 0)
        shown = functional.one_hot(seen, self.symbols + 1).flatten(2)
        place = torch.eye(N, dtype=shown.dtype).expand(n, N, N)
        logits = self.net(torch.cat([shown, place], 2).to(_dtype(self)))
        found: Tensor = logits.log_softmax(-1).gather(2, x[..., None])[..., 0]
        return found


class Heads(nn.Module):
    """Predicts the next tokens from those before a place, with a head for each of them.

    Args:
        tokens: N, length of a sequence.
        symbols: V, number of symbols.
        heads: Number of tokens that are predicted at once.
        width: Width of the hidden layers.
    """

    def __init__(self, tokens: int, symbols: int, heads: int, width: int) -> None:
        super().__init__()
        self.symbols, self.heads = symbols, heads
        inputs = tokens * (symbols + 1) + tokens
        self.net = perceptron(inputs, width, heads * symbols, smooth=False)

    def log_prob(self, x: Tensor, place: Tensor) -> Tensor:
        """Log-probability of the tokens from a place on, given those before it: (n, heads).

        Args:
            x: (n, N) integers.
            place: Place of the first token that is predicted, (n,) in 0..N-1.

        Returns:
            Nats; 0 for tokens past the end.
        """
        N = x.shape[1]
        before = torch.arange(N) < place[:, None]
        shown = functional.one_hot(torch.where(before, x, self.symbols), self.symbols + 1)
        where = functional.one_hot(place, N)
        inputs = torch.cat([shown.flatten(1), where], 1).to(_dtype(self))
        log_p = self.net(inputs).unflatten(1, (self.heads, self.symbols)).log_softmax(-1)
        ahead = place[:, None] + torch.arange(self.heads)
        value = x.gather(1, ahead.clamp(max=N - 1))
        found: Tensor = log_p.gather(2, value[..., None])[..., 0]
        return torch.where(ahead < N, found, 0)


def _features(t: Tensor) -> Tensor:
    """Levels (n, N) as features of a network, (n, 4 N)."""
    return torch.cat([t, *amplitudes(t), torch.sin(2 * math.pi * t)], 1)


class Denoiser(nn.Module):
    """Predicts v = alpha e - sigma x_0 from all noisy tokens and their levels.

    Source of v: Salimans & Ho 2022, https://arxiv.org/abs/2202.00512.

    Args:
        tokens: N, numbers of a sequence.
        width: Width of the hidden layers.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.net = perceptron(5 * tokens, width, tokens)

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The answer v (n, N) at noisy tokens x_t (n, N) of levels t (n, N)."""
        found: Tensor = self.net(torch.cat([x_t, _features(t)], 1))
        return found

    def clean(self, x_t: Tensor, t: Tensor) -> Tensor:
        """E[x_0 | x_t] = alpha x_t - sigma v, (n, N)."""
        alpha, sigma = amplitudes(t)
        return alpha * x_t - sigma * self.velocity(x_t, t)


class CausalDenoiser(Denoiser):
    """The same, with an answer for token i that depends on the tokens up to i only."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__(tokens, width)
        self.net = perceptron(6 * tokens, width, 1)

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The answer v (n, N): one pass of the network for each token."""
        n, N = x_t.shape
        seen = torch.ones(N, N).tril().to(x_t)  # row i: tokens up to i
        place = torch.eye(N).to(x_t).expand(n, N, N)
        x_i, t_i = x_t[:, None] * seen, t[:, None] * seen
        shown = torch.cat([x_i.flatten(0, 1), _features(t_i.flatten(0, 1))], 1)
        out = self.net(torch.cat([shown, place.flatten(0, 1)], 1))
        found: Tensor = out.reshape(n, N)
        return found


class FlowMap(nn.Module):
    """Maps noise to data in one call: x_0 = f(z).

    Args:
        tokens: N, numbers of a sequence.
        width: Width of the hidden layers.
    """

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.net = perceptron(tokens, width, tokens)

    def forward(self, z: Tensor) -> Tensor:
        """The data (n, N) that noise z (n, N) is carried to."""
        found: Tensor = self.net(z)
        return found


class LinearVAE(nn.Module):
    """A decoder x = W z + b + noise of one variance, and a Gaussian encoder.

    Args:
        tokens: N, numbers of a sequence.
        latent: Number of latent numbers.
    """

    def __init__(self, tokens: int, latent: int) -> None:
        super().__init__()
        self.decoder = nn.Linear(latent, tokens)
        self.encoder = nn.Linear(tokens, latent)
        self.log_spread = nn.Parameter(torch.zeros(latent))
        self.log_noise = nn.Parameter(torch.zeros(()))

    def law(self) -> tuple[Tensor, Tensor]:
        """Mean (N,) and covariance W W^T + s^2 I (N, N) of the samples."""
        W = self.decoder.weight
        noise = (2 * self.log_noise).exp() * torch.eye(len(W)).to(W)
        return self.decoder.bias, W @ W.T + noise

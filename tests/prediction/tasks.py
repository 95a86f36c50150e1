"""The tasks: runs on one target, or on a few of its kind."""

from __future__ import annotations

from typing import Any

from prediction.run import Run

__all__ = ["bounds", "characters", "digits", "forcing", "mixture", "parity", "vae"]


def parity() -> list[Run]:
    """Six bits with an even number of ones: masked prediction, k tokens per step."""
    common: dict[str, Any] = {"task": "parity", "family": "maskgit"}
    runs = [
        Run(
            name=f"parity, masked, {k} per step",
            target="parity:6",
            options={"tokens_per_round": k},
            kind="masked",
            **common,
        )
        for k in (1, 2, 5)
    ]
    runs += [
        Run(
            name=f"rare parity, masked, {k} per step",
            target="parity:6,ones=0.2",
            options={"tokens_per_round": k},
            kind="masked",
            **common,
        )
        for k in (3, 5)
    ]
    runs.append(_heads("rare parity", "parity", "parity:6,ones=0.2", 2))
    return [*runs, _window(2), _window(2, scratchpad=True)]


def characters() -> list[Run]:
    """Windows of four characters of English, as a Markov chain."""
    runs = [
        Run(
            name=f"characters, masked diffusion, {k} step{'s' if k > 1 else ''}",
            task="characters",
            target="characters",
            family="masked_diffusion",
            options={"remask": False},
            steps=k,
            kind="masked",
        )
        for k in (1, 2, 4)
    ]
    runs += [
        Run(
            name=f"characters, masked, {k} per step",
            task="characters",
            target="characters",
            family="maskgit",
            options={"tokens_per_round": k},
            kind="masked",
        )
        for k in (1, 2)
    ]
    return [*runs, *(_heads("characters", "characters", "characters", h) for h in (1, 2))]


def mixture() -> list[Run]:
    """Three modes in the plane."""
    runs = [
        Run(
            name=f"plane, DDIM, {k} steps",
            task="plane",
            target="modes:tokens=2,modes=3,gap=4",
            family="diffusion",
            options={},
            steps=k,
            kind="denoiser",
            updates=3_000,
            draws=4_000 if k < 32 else 2_000,
        )
        for k in (2, 4, 8, 32)
    ]
    return runs + _one_call("plane", "modes:tokens=2,modes=3,gap=4", 128)


def digits() -> list[Run]:
    """Eight principal components of handwritten digits, as a mixture of Gaussians."""
    runs = [
        Run(
            name=f"digits, DDIM, {k} steps",
            task="digits",
            target="digits",
            family="diffusion",
            options={},
            steps=k,
            kind="denoiser",
            updates=3_000,
            draws=2_000,
        )
        for k in (4, 16)
    ]
    runs += [
        Run(
            name=f"digits, masked, {k} per step",
            task="digits",
            target="digits",
            family="maskgit",
            options={"tokens_per_round": k},
            kind="masked",
            draws=3_000,
        )
        for k in (1, 2, 8)
    ]
    return runs + _one_call("digits", "digits", 128)


def _one_call(task: str, target: str, width: int) -> list[Run]:
    """A flow map and a denoiser that make a sample in one call."""
    common: dict[str, Any] = {"task": task, "target": target, "divergence": "mmd"}
    return [
        Run(
            name=f"{task}, denoiser, 1 step",
            family="diffusion",
            options={},
            kind="denoiser",
            width=width,
            draws=500,
            **common,
        ),
        Run(
            name=f"{task}, flow map, 1 step",
            family="flow_map",
            options={},
            kind="flow_map",
            width=width,
            updates=5_000,
            draws=500,
            **common,
        ),
    ]


def forcing() -> list[Run]:
    """Diffusion Forcing on four correlated tokens."""
    runs = []
    for causal, schedule, k in (
        (False, "full_sequence", 4),
        (False, "full_sequence", 16),
        (True, "full_sequence", 16),
        (True, "autoregressive", 16),
    ):
        words = f"{'causal' if causal else 'bidirectional'}, {schedule.replace('_', ' ')}"
        runs.append(
            Run(
                name=f"forcing, {words}, {k} steps",
                task="forcing",
                target="gaussian:ar1,tokens=4,rho=0.9",
                family="diffusion_forcing",
                options={"causal": causal, "schedule": schedule},
                steps=k,
                kind="causal" if causal else "denoiser",
                width=64 if causal else 128,
                updates=3_000,
                draws=3_000,
            )
        )
    return runs


def vae() -> list[Run]:
    """Linear VAEs on eight correlated tokens."""
    return [_linear_vae(q) for q in (1, 2, 4, 7)]


def bounds() -> list[Run]:
    """Further runs whose floor holds for every network; see `prediction.verdict.bounds`."""
    runs = [_heads("rare parity", "parity", "parity:6,ones=0.2", h) for h in (3, 5)]
    runs += [_window(w) for w in (3, 4)]
    runs += [_linear_vae(q) for q in (3, 5)]
    runs.append(_heads("characters", "characters", "characters", 3))
    runs.append(_heads("rare parity", "parity", "parity:6,ones=0.2", 1))
    return runs


def _heads(name: str, task: str, target: str, heads: int) -> Run:
    """Blocks of as many tokens as there are heads."""
    return Run(
        name=f"{name}, {heads} head{'s' if heads > 1 else ''}",
        task=task,
        target=target,
        family="multi_token",
        options={"heads": heads},
        kind="heads",
    )


def _window(window: int, *, scratchpad: bool = False) -> Run:
    """Four bits and their parity, by a predictor that sees so many tokens."""
    note = ", scratchpad" if scratchpad else ""
    return Run(
        name=f"parity of a prompt, window {window}{note}",
        task="parity",
        target=f"chain-parity:4,scratch={'yes' if scratchpad else 'no'}",
        family="gpt",
        options={"window": window},
        kind="window",
        updates=1_500,
    )


def _linear_vae(latent: int) -> Run:
    """A linear VAE of so many latent numbers on eight correlated tokens."""
    return Run(
        name=f"linear VAE, {latent} latent number{'s' if latent > 1 else ''}",
        task="linear VAE",
        target="gaussian:ar1,tokens=8,rho=0.9",
        family="vae",
        options={"latent": latent, "noise": "shared"},
        kind="vae",
        width=latent,
        updates=5_000,
    )

"""Schedulers of token ids of `diffusers`, each in the loop of its own pipeline.

| scheduler | pipeline | its network is shown |
|---|---|---|
| Amused | Amused | the tokens so far, and masks |
| BlockRefinement | LLaDA2 | the blocks so far, and masks |
| EntropyBound | DiffusionGemma | the accepted tokens, and masks where it puts random tokens |
| DiscreteDDIM | DiffusionGemma | all tokens, each kept with probability alpha and else uniform |
| VQDiffusion | VQDiffusion | all tokens, each kept, uniform or masked |

The oracle is the law of every clean token given what is shown. In VQDiffusion the masks do not
depend on the tokens, so that a token without a mask is kept with probability alpha / (1 - gamma).
The network of DiffusionGemma is told neither the level nor which tokens are accepted. The one here
is told, and one that is not knows at most as much. Its loop always runs all steps
(`confidence_threshold=None`).

Settings are those of the scheduler's own config and of its pipeline's call; where both have one,
such as `threshold`, the pipeline's is used, with the pipeline's default.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from capcheck.core.errors import InputError, near
from capcheck.procedures.probe import AnyProbe
from capcheck.samplers.from_decoder import DecoderProbe, decoder_probe
from capcheck.samplers.from_diffusers import library
from capcheck.samplers.noisy_decoder import NoisyDecoderProbe

__all__ = ["CALLS", "NOISY", "TOKEN_SCHEDULERS", "TokenScheduler"]

CALLS: dict[str, dict[str, Any]] = {
    "AmusedScheduler": {"temperature": (2, 0)},
    "BlockRefinementScheduler": {
        "temperature": 0.0,
        "top_p": None,
        "top_k": None,
        "sampling_method": "multinomial",
        "threshold": 0.7,
        "editing_threshold": 0.5,
        "max_post_steps": 16,
        "minimal_topk": 1,
    },
    "EntropyBoundScheduler": {},
    "DiscreteDDIMScheduler": {"temperature": 0.0},
    "VQDiffusionScheduler": {},
}
"""Settings of the pipeline's call, with its defaults."""

GIVEN = ("mask_token_id", "num_vec_classes")
"""Settings that follow from the target."""


class TokenScheduler:
    """A scheduler of token ids as a decoder, see `capcheck.samplers.from_decoder`.

    Args:
        scheduler: Name of the scheduler's class, one of `TOKEN_SCHEDULERS`.
        config: Settings, see the module's docstring.

    Raises:
        InputError: The package, the scheduler or a setting is not there.
    """

    def __init__(self, scheduler: str, config: dict[str, Any]) -> None:
        self.scheduler: Any = getattr(library(), scheduler, None)
        if self.scheduler is None or scheduler not in TOKEN_SCHEDULERS:
            raise InputError(f"{scheduler!r} is no scheduler: {near(scheduler, TOKEN_SCHEDULERS)}")
        self.name, self.config = f"diffusers:{scheduler}", config
        self.versions = {"diffusers": importlib.metadata.version("diffusers")}
        self._own = set(inspect.signature(self.scheduler).parameters) - {*CALLS[scheduler], *GIVEN}
        known = self._own | set(CALLS[scheduler])
        for key in config:
            if key not in known:
                raise InputError(f"{scheduler} has no setting {key!r}: {near(key, known)}")

    def __call__(
        self, model: Callable[..., SimpleNamespace], tokens: Tensor, steps: int, **_: Any
    ) -> Tensor:
        """The tokens (n, N) that the scheduler makes of the masked ones.

        Args:
            model: The network, see `from_decoder` and `noisy_decoder`.
            tokens: Known ids and masks, (n, N); the mask's id is the largest.
            steps: Number of steps.
        """
        kind = self.scheduler.__name__
        run = Run(self, model, tokens, steps)
        return TOKEN_SCHEDULERS[kind](run)

    def made(self, **from_target: int) -> Any:
        """The scheduler, with the settings that follow from the target, such as the mask's id."""
        own = {key: value for key, value in self.config.items() if key in self._own}
        return self.scheduler(**own, **from_target)

    def call(self, name: str) -> Any:
        """A setting of the pipeline's call."""
        return self.config.get(name, CALLS[self.scheduler.__name__][name])

    def probe(self) -> AnyProbe:
        """The probe that runs the decoder with the network that it needs."""
        of = NoisyDecoderProbe if self.scheduler.__name__ in NOISY else DecoderProbe
        return decoder_probe(self, self.name, self.config, of)


class Run:
    """A run of a scheduler.

    Attributes:
        of: The scheduler and its settings.
        tokens: Known ids and masks, (n, N).
        mask: The mask's id, which is the number V of other ids.
        free: Whether a token is masked, (n, N).
        steps: Number of steps.
        generator: The generator that is passed on.
    """

    def __init__(
        self,
        of: TokenScheduler,
        model: Callable[..., SimpleNamespace],
        tokens: Tensor,
        steps: int,
    ) -> None:
        self.of, self.tokens, self.steps, self._model = of, tokens, steps, model
        self.mask = int(tokens.max())
        self.free = tokens == self.mask
        self.generator = torch.Generator()

    def log_p(self, x: Tensor, *keep: Tensor) -> Tensor:
        """The answer of the network without the column of the mask, (n, N, V)."""
        logits: Tensor = self._model(x, *keep).logits
        return logits[..., : self.mask]

    def noisy_log_p(self, x: Tensor, keep: float | Tensor) -> Tensor:
        """The answer of a network of noisy tokens x (n, N), kept with a probability, (n, N, V)."""
        return self.log_p(x, torch.where(self.free, keep, 1.0).double())

    def known(self, x: Tensor) -> Tensor:
        """The tokens x (n, N), with those that were given."""
        return torch.where(self.free, x, self.tokens)

    def canvas(self) -> Tensor:
        """Uniformly random tokens beside those that were given, (n, N)."""
        shape, generator = tuple(self.tokens.shape), self.generator
        return self.known(torch.randint(low=0, high=self.mask, size=shape, generator=generator))


def _amused(run: Run) -> Tensor:
    """The loop of `AmusedPipeline`, on an image of one row."""
    scheduler = run.of.made(mask_token_id=run.mask)
    scheduler.set_timesteps(run.steps, run.of.call("temperature"))
    x = run.tokens[:, None]  # (n, 1, N)
    for t in scheduler.timesteps:
        log_p = run.log_p(x[:, 0]).mT[:, :, None]  # (n, V, 1, N)
        x = scheduler.step(log_p, t, x, generator=run.generator).prev_sample
    found: Tensor = x[:, 0]
    return found


def _block_refinement(run: Run) -> Tensor:
    """The loop of `LLaDA2Pipeline`; a block is at most as long as the sequence."""
    N, scheduler = run.tokens.shape[1], run.of.made()
    block = min(N, scheduler.config.block_length)
    if N % block:
        raise InputError(f"block_length must divide the number {N} of tokens, got {block}.")
    steps = min(run.steps, N // run.of.call("minimal_topk"))
    scheduler.set_timesteps(steps, block_length=block)
    x = run.tokens
    for start in range(0, N, block):
        x = _refined(run, scheduler, x, slice(start, start + block))
    return x


def _refined(run: Run, scheduler: Any, x: Tensor, block: slice) -> Tensor:
    """The tokens (n, N) after the steps of one block."""
    names = ("temperature", "top_p", "top_k", "sampling_method", "threshold", "minimal_topk")
    editing = run.of.call("editing_threshold")
    how = {name: run.of.call(name) for name in names} | {"editing_threshold": editing}
    never = torch.zeros(len(x), dtype=torch.bool)
    step = after = 0
    going = True
    while going:
        remaining = bool((x[:, block] == run.mask).any())
        after += not remaining
        made = scheduler.step(
            run.log_p(x)[:, block],
            step,
            x[:, block],
            mask_token_id=run.mask,
            prompt_mask=~run.free[0, block],
            generator=run.generator,
            **how,
        )
        x = torch.cat([x[:, : block.start], made.prev_sample, x[:, block.stop :]], 1)
        step += remaining
        going = scheduler.check_block_should_continue(
            step_idx=step,
            masks_remaining=remaining,
            editing_enabled=editing is not None and editing > 0,
            editing_transfer_index=made.editing_transfer_index,
            post_steps=after,
            max_post_steps=run.of.call("max_post_steps"),
            finished=never,
        )
    return x


def _entropy_bound(run: Run) -> Tensor:
    """The loop of `DiffusionGemmaPipeline`, whose network is told which tokens are accepted."""
    scheduler = run.of.made()
    scheduler.set_timesteps(run.steps)
    x, shown = run.canvas(), run.tokens
    for step in range(run.steps):
        made = scheduler.step(run.log_p(shown), step, x, generator=run.generator)
        x = run.known(made.prev_sample)
        shown = run.known(torch.where(made.accepted_index, x, run.mask))
    return x


def _discrete_ddim(run: Run) -> Tensor:
    """The loop of `DiffusionGemmaPipeline`, whose budget of calls holds those of the corrector."""
    scheduler = run.of.made()
    sweeps = scheduler.config.corrector_steps
    corrected = (run.steps - 1) // (1 + sweeps) if sweeps else 0
    steps = run.steps - corrected * sweeps
    scheduler.set_timesteps(steps)
    x, how = run.canvas(), {"generator": run.generator}
    for step in range(steps):
        log_p = run.noisy_log_p(x, step / steps)
        made = scheduler.step(log_p, step, x, temperature=run.of.call("temperature"), **how)
        x = run.known(made.prev_sample)
        for _ in range(sweeps if step < corrected else 0):
            log_p = run.noisy_log_p(x, (step + 1) / steps)
            x = run.known(scheduler.step_correct(log_p, step, x, **how).prev_sample)
    return x


def _vq_diffusion(run: Run) -> Tensor:
    """The loop of `VQDiffusionPipeline`."""
    scheduler = run.of.made(num_vec_classes=run.mask + 1)
    scheduler.set_timesteps(run.steps)
    x = run.tokens
    for t in scheduler.timesteps:
        alpha = scheduler.log_cumprod_at[t].double().exp()
        unmasked = -scheduler.log_cumprod_ct[t].double().expm1()  # 1 - gamma
        keep = torch.where(x == run.mask, 0, alpha / unmasked)
        log_p = run.noisy_log_p(torch.where(x == run.mask, 0, x), keep).mT  # (n, V, N)
        # The pipeline cuts at exp(-70), for want of log 0.
        made = scheduler.step(log_p.clamp(-70), t, x, generator=run.generator)
        x = run.known(made.prev_sample)
    return x


TOKEN_SCHEDULERS: Mapping[str, Callable[[Run], Tensor]] = {
    "AmusedScheduler": _amused,
    "BlockRefinementScheduler": _block_refinement,
    "EntropyBoundScheduler": _entropy_bound,
    "DiscreteDDIMScheduler": _discrete_ddim,
    "VQDiffusionScheduler": _vq_diffusion,
}
"""The loops, by the scheduler's class."""

NOISY = ("DiscreteDDIMScheduler", "VQDiffusionScheduler")
"""Those whose network is shown noisy tokens."""

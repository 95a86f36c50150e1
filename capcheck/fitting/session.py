"""A fit session is the part of a fit that runs in one process, from its start or a checkpoint.

At step k of K, the learning rate is l min(1, (k + 1) / w) (1 + cos(pi k / K)) / 2, with a warm-up
of w = K / 20 steps. A fit has diverged if a loss is not finite, or if the validation ends clearly
higher than it started (by `RISEN`, or at any validation by `ESCAPED`). A fit was too short if no
step lowered the validation, or if the time allowed the minimum number of steps only. In all cases,
the weights with the lowest validation are kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from capcheck.fitting.batches import BatchSource, step_seed
from capcheck.fitting.checkpoint import Checkpoint, Facts, adam_state, named, restore_adam, under
from capcheck.fitting.plan import CHECKS, Plan, planned
from capcheck.fitting.polish import affordable, polished

__all__ = [
    "CLIP",
    "ESCAPED",
    "NARROW",
    "NEAR",
    "PATIENCE",
    "PROGRESS",
    "RISEN",
    "FitSession",
    "Progress",
]

Progress = Callable[[int, int, float], None]
NARROW = 0.8  # share of the steps in bfloat16 on a GPU, if the objective allows mixed precision
CLIP = 5.0  # norm to which larger gradients are clipped
PATIENCE = 3 * CHECKS // 4  # validations without progress after which a fit stops
PROGRESS = 0.01  # relative fall of the validation that counts as progress
NEAR = 1e-8  # validation of an exact objective below which a fit stops
RISEN = 0.05  # rise of the final validation, in units of 1 + |start|, that counts as divergence
ESCAPED = 10.0  # rise of any validation, in the same units, at which a fit is stopped as diverged


class FitSession:
    """The part of a fit that runs in one process; see the module's docstring.

    Args:
        module: Module to be fitted, on the fit's device; it is changed.
        source: Batches of the fit.
        learning_rate: Largest learning rate l of the schedule.
        path: File of the checkpoint, or None to write none.
    """

    def __init__(
        self, module: nn.Module, source: BatchSource, *, learning_rate: float, path: Path | None
    ) -> None:
        self.module, self.source, self.path = module, source, path
        self.learning_rate = learning_rate
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.dtype = self.parameters[0].dtype
        self.adam = torch.optim.AdamW(
            self.parameters, lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.plan = Plan(steps=1)
        self.step, self.stale = 0, 0
        self.start = self.best = self.latest = self.mark = math.nan
        self.reason, self.diverged, self.too_short = "", False, False
        self.best_weights = self._weights()
        self.began, self.earlier = time.monotonic(), 0.0
        self.limit: float | None = None

    def clock(self, began: float, limit: float | None) -> None:
        """Set this session's start (`time.monotonic`) and the limit of all sessions (seconds)."""
        self.began, self.limit = began, limit

    def begin(self, steps: int | None) -> None:
        """Validate the initial weights, and plan the steps."""
        self.start = self.best = self.latest = self.mark = self._validate()
        if not math.isfinite(self.start):
            self._end(f"the loss is {self.start} before the first step", diverged=True)
        elif steps is not None:
            self.plan = Plan(steps=steps)
        elif self.limit is not None:
            left = self.limit - self._elapsed()
            self.plan = planned(self.source, self.module, seconds=left, dtype=self.dtype)

    def restore(self, held: Checkpoint) -> None:
        """Restore the state from a checkpoint."""
        self.module.load_state_dict(under("weights", held.tensors))
        restore_adam(self.adam, under("adam", held.tensors))
        self.best_weights = {
            name: x.to(self.source.device) for name, x in under("best", held.tensors).items()
        }
        facts = held.facts
        self.plan = Plan(steps=facts.steps, pool=facts.pool)
        self.step, self.stale, self.earlier = facts.step, facts.stale, facts.seconds
        self.start, self.best, self.latest = facts.start, facts.best, facts.latest
        self.mark = facts.mark

    def save(self) -> Checkpoint:
        """The state as a checkpoint, which is also written to the file if there is one."""
        facts = Facts(
            step=self.step,
            stale=self.stale,
            steps=self.plan.steps,
            pool=self.plan.pool,
            start=self.start,
            best=self.best,
            latest=self.latest,
            mark=self.mark,
            floor=self.source.floor,
            seconds=self._elapsed(),
            diverged=self.diverged,
            too_short=self.too_short,
            reason=self.reason,
        )
        tensors = {
            **named("weights", self.module.state_dict()),
            **named("best", self.best_weights),
            **named("adam", adam_state(self.adam)),
        }
        held = Checkpoint(tensors=tensors, facts=facts)
        if self.path is not None:
            held.write(self.path)
        return held

    def descend(self, progress: Progress | None) -> None:
        """Make the remaining Adam steps, and decide how the fit ended."""
        if self.reason:
            return
        self.source.fill(self.plan.pool)
        while self.step < self.plan.steps and not self.reason:
            self._make_step()
            if self.reason:
                break
            late = self._is_late()
            if self.step % self.plan.every == 0 or self.step == self.plan.steps or late:
                self._check()
                if progress is not None:
                    progress(self.step, self.plan.steps, self.latest)
        if self.diverged:
            return
        hurried = self.limit is not None and self.plan.steps <= CHECKS
        if self.latest > self.start + RISEN * (1 + abs(self.start)):
            self._end(self._rise(), diverged=True)
        elif self.best == self.start and not self._has_settled():
            self._end("no step made it better", too_short=True)
        elif not self.reason and hurried:
            fewest = "only the fewest steps were made, and took the time that there was"
            self._end(fewest, too_short=True)
        elif not self.reason:
            self._end("all steps were made")

    def finish(self) -> None:
        """Load the best weights, and polish them if possible; keep the result if it is better."""
        count = sum(p.numel() for p in self.parameters)
        self.module.load_state_dict(self.best_weights)
        polish = affordable(
            self.source.objective, parameters=count, steps=self.step, batch=self.source.batch
        )
        if self.diverged or self.too_short or polish is None:
            return
        deadline = None if self.limit is None else self.began + self.limit - self.earlier
        better = polished(self.source, self.module, polish, deadline=deadline)
        value = self.source.validate(better.eval(), self.dtype)
        if value < self.best:
            self.best, self.latest = value, value
            self.module.load_state_dict(better.state_dict())
            self.best_weights = self._weights()

    def _make_step(self) -> None:
        """Make one Adam step; a loss that is not finite ends the fit."""
        torch.manual_seed(step_seed(self.source.seed, self.step))  # for modules such as dropout
        share = self.step / self.plan.steps
        warm = min(1.0, (self.step + 1) / max(1, self.plan.steps // 20))
        for group in self.adam.param_groups:
            group["lr"] = self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))
        batch, device = self.source.at(self.step), self.source.device.type
        narrow = device == "cuda" and self.source.objective.mixed and share < NARROW
        self.adam.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=narrow):
            loss = self.source.loss(self.module.train(), batch, self.step, dtype=self.dtype)
        if not math.isfinite(float(loss.detach())):
            value = float(loss.detach())
            self._end(f"the loss became {value} at step {self.step}", diverged=True)
            return
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.adam.step()
        self.step += 1

    def _check(self) -> None:
        """Validate, keep the best weights, end the fit if a stopping rule holds, or save it."""
        self.latest = self._validate()
        if not math.isfinite(self.latest):
            self._end(f"the loss became {self.latest} at step {self.step}", diverged=True)
            return
        if self.latest > self.start + ESCAPED * (1 + abs(self.start)):
            self._end(self._rise(), diverged=True)
            return
        self.stale += 1
        if self.latest < self.mark - PROGRESS * abs(self.mark):
            self.stale, self.mark = 0, self.latest
        if self.latest < self.best:
            self.best, self.best_weights = self.latest, self._weights()
        if self.source.objective.exact and self.best < NEAR:
            self._end("there was nothing left to learn")
        elif self.stale >= PATIENCE:
            self._end("the validation stopped falling")
        elif self._is_late() and self.step < self.plan.steps:
            self._end("the time was over before all steps were made")
        elif self.path is not None and self.step < self.plan.steps:
            self.save()

    def _rise(self) -> str:
        return (
            f"the loss rose from {self.start:.3g} to {self.latest:.3g} by step "
            f"{self.step}; fit with a lower learning_rate"
        )

    def _has_settled(self) -> bool:
        """Whether the fit stopped because further steps would not help.

        This holds from the start for a module whose initial weights are optimal.
        """
        return self.stale >= PATIENCE or (self.source.objective.exact and self.best < NEAR)

    def _is_late(self) -> bool:
        """Whether the time limit is exceeded and the minimum number of steps is made."""
        return self.limit is not None and self._elapsed() > self.limit and self.step >= CHECKS

    def _validate(self) -> float:
        return self.source.validate(self.module.eval(), self.dtype)

    def _weights(self) -> dict[str, Tensor]:
        return {name: x.detach().clone() for name, x in self.module.state_dict().items()}

    def _elapsed(self) -> float:
        return self.earlier + time.monotonic() - self.began

    def _end(self, reason: str, *, diverged: bool = False, too_short: bool = False) -> None:
        self.reason, self.diverged, self.too_short = reason, diverged, too_short

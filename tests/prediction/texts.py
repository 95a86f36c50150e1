"""The parts of the page that no result changes, with places for numbers in braces."""

from __future__ import annotations

__all__ = ["INTRODUCTION", "LESSONS", "MEANING", "REPEAT", "TRAINED"]

INTRODUCTION = """
# Does a verdict predict training?

capcheck speaks of networks that nobody has: the ones that a training objective converges to with
unlimited data and size. This page asks whether its numbers say anything of networks that people
do have. For {runs} runs capcheck predicted a divergence, the *floor*, before anything was
trained. Then a small network was trained for each of them the ordinary way, and the samples that
it makes were measured in the same divergence.

The rules were fixed before the full run; they stand in the docstring of `tests/prediction`, with
what was changed after the first outcomes: eight runs were added whose floor holds for every
network, one run that had ended below its floor was trained again with other seeds, and samples of
one step are measured by another divergence. No run was taken out. Every number on this page is
generated from `tests/prediction/results.json`.
"""

TRAINED = """
## How it was trained

Training gets draws of the target and nothing else from capcheck. No draw is used twice, so that
data are as good as unlimited. Networks are perceptrons of three hidden layers in plain torch, and
are trained by Adam with a rate that falls to 0.

| runs | loss | sampler | how the outcome is measured |
|---|---|---|---|
| masked, masked diffusion | cross entropy of the masked tokens, a uniform number of them | k random tokens per step, or each masked token with chance (t - s) / t | mixture over all orders |
| heads | cross entropy of the h tokens behind a uniform place | blocks of h tokens | chain rule over blocks |
| window | cross entropy of the next token | token by token | chain rule |
| DDIM, denoiser | squared error of v, at the k levels of the sampler | DDIM, uniform steps, cosine path | KL by inverting every step; MMD² of samples at one step |
| forcing | the same, with a level of its own for each token | DDIM passes along the schedule | KL by inverting every pass |
| flow map | squared error of the end of a trained denoiser's probability flow | one call | MMD² of samples |
| linear VAE | negative evidence lower bound, one draw of the latent | one call of the decoder | KL of two Gaussians, in closed form |

Targets: six bits of even parity, fair or with 20% of ones; four bits and their parity, with or
without running results; four characters of English as a Markov chain; three Gaussians in the
plane, four standard deviations apart; eight principal components of handwritten digits as a
mixture of eight Gaussians; four and eight tokens of an autoregressive Gaussian with a correlation
of 0.9. On short sequences KL is a sum over all of them; otherwise it is a mean over fresh draws
of the target. Numbers of the table without an interval are exact for the network that was
trained.
"""  # noqa: E501

MEANING = """
## What a contradiction would have meant

An outcome below the floor has three explanations. Either capcheck's number is wrong, or the
procedure that it judged is not the one that was trained, or the floor is no lower bound. The
third is possible for some families:

- Where one factorised law is sampled (heads, window, masked tokens in one step) and for the linear
  VAE, the oracle minimises KL among all networks that are shown the same. No training can end below
  the floor, and any that does is a bug.
- In random order with several tokens per step, and for denoisers at few steps, the floor is that of
  the *optimum of the training loss*. Another network of the same kind may sample better, as the two
  examples below show. Nothing in the loss leads there, but nothing forbids it either.

An outcome far above its floor contradicts nothing: *representable* says that a procedure can, not
that a given training will.
"""

LESSONS = """
## What was found out on the way

- **Representable is not learned.** One token per step represents parity, and a perceptron with
  ReLU and He's initialisation learned it (KL {learned}). The same perceptron with SiLU, as torch
  initialises it, ended at {stuck} after as many updates; who has not learned the parity at all
  loses ln 2 = 0.693. Any five bits are independent of each other, so that there is nothing to
  follow until all of them are used at once. The prediction was right, and the training was not
  good enough.
- **A floor at one step is a statement on the optimum.** In a first trial the denoiser of the
  plane was trained at all levels t in [0, 1], as for many steps, and asked for one step from pure
  noise. It ended *below* its floor of {floor}:

  | updates | MMD² after training | below the floor? |
  |---|---|---|
{levels}

  Neither number is wrong. At t = 1 the input is pure noise, and the optimum answers with the
  mean. A little before, it answers with what the noise hides, which varies by several units. A
  smooth network that has seen all levels answers at t = 1 as the optimum does slightly before,
  and its one step then spreads the samples. What was trained was not the procedure that had been
  judged, whose network is at its optimum at the levels where it is asked. All runs above are
  therefore trained at the levels of their sampler, as DDPM is, and the same network ended at
  {one_level}.
- **In random order the oracle is not the best network.** The oracle minimises the mean of KL over
  orders, and so does the loss. Samples follow the mixture over orders, in which laws of different
  orders may share the sequences out. Minimising the KL of the mixture itself, over all laws that a
  network could answer with, ends far below the floor of rare parity, except in one step, where
  there is only one order:

  | tokens per step | KL of the oracle, the floor | least KL found |
  |---|---|---|
{orders}

  The usual loss does not lead there: the runs of rare parity ended above their floors. But a
  network that is a little off the optimum may end on either side. Fair parity with two tokens per
  step ended below ln 2 by less than a thousandth, which is significant since both numbers
  are exact. Its excess over the floor, and that of {seeds} more trainings with other seeds,
  in nats: {again}. capcheck is right about the procedure with its oracle, and its floor in random
  order is one of the optimum of the loss, as it is for denoisers.
- **The measure of an outcome can be wrong as well.** Samples of one step were first compared by
  W2², as the corrected transport between finite samples. A denoiser of digits then ended far
  below its floor. Half of the target's own distance at that sample size is subtracted there,
  although samples without any spread have none, so that what collapses looks better than it is.
  capcheck certifies its W2² by moments, and was right. Such samples are now compared by MMD²,
  whose estimate has no bias.
- **A pilot can mislead.** capcheck looks at a few draws first, to see how many it needs. When
  these runs were first predicted it made 354 of the 10,000 draws that it was allowed for
  *digits, masked, 2 per step*, and left the verdict open, since the pilot had overestimated how far
  KL is from its tolerance. That has been mended: the error of the pilot itself is allowed for.
- **Trained denoisers can be inverted.** The density of the samples of {inverted} trained
  denoisers was computed at {rows} draws by inverting every step. Draws without a preimage: {lost};
  draws at which a step was not one-to-one, so that KL is only bounded from above: {folded}.
"""

REPEAT = """
## How to repeat it

`make prediction` predicts, trains and measures everything on the CPU, and writes this page; the
run shown took {minutes} minutes with {workers} processes of one thread each on a busy machine, and
{processor} minutes of one core for training and measuring. Seeds stand in
`tests/prediction/runs.py`. `PYTHONPATH=tests .venv/bin/python -m prediction --page` writes the
page and its picture again without training. Six runs, trained for a shorter time, are part of the
test suite.
"""

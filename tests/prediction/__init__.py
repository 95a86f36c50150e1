"""The prediction test: do capcheck's verdicts, given before training, hold after training?

    make prediction

A run is a target, a family with its options, and a budget. First capcheck tells the divergence that
the family's procedure keeps with its oracle network (the floor) of every run. All floors are stored
before anything is trained. Then a small network is trained for each run the ordinary way, with a
seed of its own: draws of the target, the usual loss, the usual sampler. The law of its samples is
measured, in the divergence that was predicted.

Decided before the full run, and not changed after it:

- *Scale.* KL(target || model) in nats, and MMD squared where a sample is made in one call, since a
  denoiser's KL is infinite there. Both are divided by the tolerance that capcheck has by default,
  so that 1 means "just representable" everywhere. Runs are ranked by that multiple, all together;
  the ranking within each task is told beside it.
- *Floor.* A run violates its floor if the upper end of its outcome's interval lies below the lower
  end of its prediction's, both one-sided at 1 - 0.01 / runs, so that all statements hold together
  at 99%. Exact values have no interval, and 1e-9 for rounding.
- *Ranking.* Spearman's correlation with mean ranks for ties (all floors of 0 are one tie), and a
  95% interval by resampling runs. At least 0.9 is expected.
- *Size.* Three runs that capcheck calls representable are trained again, shorter and narrower, and
  longer and wider. Their excess over the floor should fall.

Changed after the first outcomes: a run in random order ended below its floor by a ten-thousandth of
it, as such floors are those of the optimum of the loss (`orders`, and `bounds` in `verdict`). It
was trained again with five other seeds, and eight runs were added whose floor holds for every
network. Samples of one call were compared by W2 squared at first, whose estimate is biased for
samples without spread, and are now by MMD squared. All else stayed as it was, and the run stayed in
the list.

Modules: `run`, `tasks` and `runs` list the runs; `targets` and `predictions` are all that asks
capcheck; `networks`, `training`, `densities` and `inversion` are plain torch; `outcomes` measures;
`orders` tells how far a network could go below a floor in random order; `verdict` draws the
conclusions, and `page` and `scatter` write them down.
"""

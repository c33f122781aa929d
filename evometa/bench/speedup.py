"""Speedup over tuned Adam and the other figures that are read off loss curves.

A curve is ``(…, K + 1)``: entry k is the loss after k inner steps, as in
:class:`~evometa.inner.record.UnrollRecord`. Losses that are not finite mean that the run has diverged, there
and at every later step.

The speedup is that of VeLO (Metz et al. 2022, arXiv:2211.09760, figure 1: "the relative number of steps it
takes learning rate-tuned Adam to achieve the same loss each optimizer reaches"), as their
``baselines/normalizers.py`` and ``continuous_eval/run_eval_chief.py``
(github.com/google/learned_optimization) compute it. Celo (Moudgil et al. 2025, arXiv:2501.12670) reports an
interquartile mean of speedups with respect to Adam. What differs here:

- Their moving average starts at the first loss and runs over evaluations ten steps apart. Here it runs over
  steps and is debiased: of a few hundred losses the former would still be holding on to the initial one.
- It smooths both sides; theirs is of Adam's curves alone. An average lags behind, about twenty steps at
  ``DECAY``, and on one side only that lag would be counted as speed.
- They interpolate between 512 points of Adam's curve; here every step is looked at, and steps are whole.
- Where Adam never gets as low they use all of its steps, silently. So does this, and says that it is a lower
  bound.
- Below a task's noise floor losses are noise. A run that ends there counts as ending when it first came
  there, and Adam has to come there too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evometa.bench.statistics import Statistic

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

#: Of the moving average, a step.
DECAY = 0.95


@dataclass(frozen=True)
class Speedup:
    """How many times as many steps tuned Adam takes to get as low as some runs end.

    Attributes:
        values: ``(…)``; 1 is parity. 0 for a run that diverged, or ends no lower than Adam starts.
        is_lower_bound: ``(…)`` where Adam never got as low: its value is the number of steps that Adam was
            given over the run's own, and Adam would need more.
    """

    values: FloatArray
    is_lower_bound: BoolArray


def speedup(
    losses: FloatArray, envelope: FloatArray, decay: float = DECAY, noise_floor: float = -np.inf
) -> Speedup:
    """Speedup over tuned Adam of runs ``(…, seeds, K + 1)``, at the loss at which they end: ``(…)``.

    That loss is the mean over seeds of the smoothed curves' ends; infinite, and the speedup 0, where a seed
    has diverged. The speedup is the number of whole steps after which ``envelope`` ``(A + 1,)``, from
    :func:`adam_envelope` with the same ``decay`` and on the same seeds, is as low, over the run's own K. It
    cannot exceed A / K: give Adam a multiple of the steps.

    It is no figure for single seeds, nor for seeds that are tasks of their own: where curves flatten, a seed
    that is lucky against the mean gains more steps than an unlucky one loses, and Adam itself comes out above
    1.
    :mod:`~evometa.bench.speedup_estimates` resamples seeds for an interval.

    Raises ValueError for curves without a step, and for an envelope that rises or is not finite.
    """
    if losses.ndim < 2 or losses.shape[-2] < 1 or losses.shape[-1] < 2:
        raise ValueError(
            f"losses have shape {losses.shape}, expected (…, seeds, steps + 1) with at least one step"
        )
    if envelope.ndim != 1 or not np.isfinite(envelope).all() or (np.diff(envelope) > 0).any():
        raise ValueError("envelope is not a falling curve of finite losses; expected one of adam_envelope")
    return read_off(smooth(losses, decay).mean(axis=-2), envelope, noise_floor)


def read_off(curves: FloatArray, envelope: FloatArray, noise_floor: float) -> Speedup:
    """Speedups ``(…)`` of smoothed curves ``(…, K + 1)``, means over seeds."""
    below = curves <= noise_floor
    ended = below[..., -1]
    final = np.where(ended, noise_floor, curves[..., -1])
    n_steps = np.where(ended, np.maximum(below.argmax(axis=-1), 1), curves.shape[-1] - 1)
    reached = np.searchsorted(-envelope, -final)  # the first step at which the envelope is not above it
    missed = reached == len(envelope)
    steps = np.where(missed, len(envelope) - 1, np.maximum(reached, ended))  # both may begin below the floor
    return Speedup(np.asarray(steps / n_steps), np.asarray(missed))


def is_lower_bound(found: Speedup, statistic: Statistic) -> bool:
    """Whether ``statistic`` of speedups ``(tasks, 1)`` would rise if those that are lower bounds did.

    The interquartile mean often would not: it cuts off the quarter in which most of them lie. ``statistic``
    must be one that never falls when a score rises.
    """
    raised = np.where(found.is_lower_bound, 2.0 * found.values.max() + 1.0, found.values)
    return bool(statistic(raised) > statistic(found.values))


def adam_envelope(losses: FloatArray, decay: float = DECAY) -> FloatArray:
    """The lowest loss ``(A + 1,)`` that Adam has reached by each step with any of its learning rates.

    ``losses`` is ``(learning rates, seeds, A + 1)``, all of one task. They are smoothed, averaged over seeds,
    and the lowest is taken over learning rates and over all steps so far. So the learning rate is the best
    one for every budget by itself, and no single Adam is as good. A learning rate at which any seed has
    diverged is out of the running from that step on.

    Raises ValueError where all of them have diverged before the first step.
    """
    if losses.ndim != 3 or 0 in losses.shape:
        raise ValueError(f"losses have shape {losses.shape}, expected (learning rates, seeds, steps + 1)")
    return envelope_of(smooth(losses, decay))


def envelope_of(smoothed: FloatArray) -> FloatArray:
    """The same from smoothed losses ``(learning rates, seeds, A + 1)``."""
    envelope = np.minimum.accumulate(smoothed.mean(axis=1).min(axis=0))
    if not np.isfinite(envelope[0]):
        raise ValueError("Adam's first loss is not finite at any learning rate: the task is broken")
    return np.asarray(envelope)


def smooth(losses: FloatArray, decay: float = DECAY) -> FloatArray:
    """Debiased exponential moving average of curves ``(…, K + 1)``; infinite once a run has diverged.

    Entry k is the mean of the losses up to step k, weighted by ``decay`` to the power of their age.
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay is {decay}, expected a number from 0 to below 1")
    lost = _lost(losses)
    finite = np.where(lost, 0.0, losses)
    averages = np.empty_like(finite)
    average = finite[..., 0]
    averages[..., 0] = average
    for step in range(1, finite.shape[-1]):
        gain = (1.0 - decay) / (1.0 - decay ** (step + 1))
        average = average + gain * (finite[..., step] - average)
        averages[..., step] = average
    averages[lost] = np.inf
    return averages


def steps_to_target(losses: FloatArray, target: FloatArray | float, decay: float = DECAY) -> FloatArray:
    """Inner steps ``(…)`` until the smoothed curve is first at or below ``target``; infinite if it never is.

    ``losses`` is ``(…, K + 1)``; ``target`` is a number, or ``(…)`` with one for each curve. A run that
    diverges after it was there has been there. Raises ValueError for a target that is not finite.
    """
    wanted = np.asarray(target, dtype=np.float64)
    if not np.isfinite(wanted).all():
        raise ValueError(f"target is {target}, expected a finite loss")
    reached = smooth(losses, decay) <= wanted[..., None]
    return np.where(reached.any(axis=-1), reached.argmax(axis=-1), np.inf)


def divergence_rate(losses: FloatArray) -> float:
    """Share of the runs ``(…, K + 1)`` in which a loss became infinite or NaN."""
    return float(_lost(losses)[..., -1].mean())


def final_loss_ratios(
    ours: FloatArray, theirs: FloatArray, initial: FloatArray, noise_floor: float
) -> FloatArray:
    """Our final losses over theirs, run by run ``(…)``: below 1 where ours are lower.

    ``ours``, ``theirs`` and ``initial`` are ``(…)``: final losses, and the loss that both started from. As in
    every comparison of evometa, a final loss that is not finite counts as the initial one, and losses below
    ``noise_floor`` as it.

    Raises ValueError for an initial loss that is not finite, or a floor that is not positive.
    """
    if not noise_floor > 0.0:
        raise ValueError(f"noise_floor is {noise_floor}, expected a positive loss")
    if not np.isfinite(initial).all():
        raise ValueError("an initial loss is not finite: the task is broken")
    above, below = (
        np.maximum(np.where(np.isfinite(final), final, initial), noise_floor) for final in (ours, theirs)
    )
    return np.asarray(above / below)


def _lost(losses: FloatArray) -> BoolArray:
    """``(…, K + 1)`` whether a run has diverged by each step."""
    if losses.ndim < 1 or losses.shape[-1] < 1:
        raise ValueError(f"losses have shape {losses.shape}, expected (…, steps + 1)")
    return np.asarray(np.logical_or.accumulate(~np.isfinite(losses), axis=-1))

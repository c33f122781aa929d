"""How each rule's candidates and tasks are mapped in JAX.

``AS_WRITTEN`` is what one writes first: ``vmap`` over candidates and tasks of a ``scan``, on one device with
XLA's pool of threads. ``TUNED`` are the fastest of what was tried for the rules of the tables, sharded over
one host device a core. Tried, beside the plans of ``TRIED`` (``python -m benchmarks --only jax-plans`` times
those):

- recurrent state feature-major (kept) or coordinate-major; one product for inputs and hidden state, or the
  few input rows added elementwise (kept where there are few); a bias added (kept) or folded in as a row of
  ones; tanh (kept) or 2σ(2x) − 1;
- the MLP rule's layers as products (``einsum``) on channels side by side or apart, or unit by unit in one
  elementwise expression (``unrolled``); norms by ``mean`` (kept) or by products;
- flags of XLA: fast math, vector width, XNNPACK, oneDNN, the scheduler, Eigen without threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.workload import Mode, Workload
from evometa.inner.cohort import Candidate


@dataclass(frozen=True)
class Plan:
    """How a program is laid out.

    Attributes:
        candidates, tasks: how many are mapped at once (0: all), the rest following one another.
        checkpoint: meta-gradients compute a step's intermediates again instead of keeping them.
        unrolled: small layers are written out unit by unit.
    """

    candidates: int = 0
    tasks: int = 0
    checkpoint: bool = False
    unrolled: bool = False


AS_WRITTEN = Plan()
TUNED: dict[tuple[Mode, str], Plan] = {
    ("forward", "recurrent"): Plan(candidates=1, unrolled=True),
    ("forward", "mlp"): Plan(candidates=4, unrolled=True),
    ("forward", "hand_designed"): Plan(candidates=8),
    ("bptt", "recurrent"): Plan(candidates=1, tasks=1, checkpoint=True),
    ("bptt", "mlp"): Plan(candidates=1, tasks=2),
    ("pes", "recurrent"): Plan(candidates=1, unrolled=True),
    ("pes", "mlp"): Plan(candidates=4, unrolled=True),
}
#: What ``--only jax-plans`` times.
TRIED: dict[Mode, tuple[Plan, ...]] = {
    "forward": tuple(Plan(p, t, False, u) for p in (0, 4, 1) for t in (0, 1) for u in (False, True)),
    "bptt": tuple(Plan(1, t, c, u) for t in (0, 2, 1) for c in (False, True) for u in (False, True)),
    "pes": tuple(Plan(p, 0, False, u) for p in (0, 4, 1) for u in (False, True)),
}


def tuned(candidate: Candidate, workload: Workload) -> Plan:
    """The tuned plan of a candidate's kind of rule."""
    kind = candidate.family if candidate.family in ("recurrent", "mlp") else "hand_designed"
    return TUNED[workload.mode, kind]

"""The registered estimators; one row a member."""

from __future__ import annotations

from collections.abc import Hashable

from evometa.errors import GenomeError
from evometa.genome.genes import Value
from evometa.genome.space import Genes, Space, switched
from evometa.meta.base import Estimator
from evometa.meta.dqn import DQN
from evometa.meta.es import ES
from evometa.meta.genes import FREE_IN_A_COHORT, shared_space
from evometa.meta.hybrid import Hybrid
from evometa.meta.implicit import Implicit
from evometa.meta.pes import PES
from evometa.meta.ppo import PPO
from evometa.meta.reinforce import Reinforce
from evometa.meta.reptile import Reptile
from evometa.meta.tbptt import TruncatedBPTT
from evometa.registry import MadeOf, Registry
from evometa.rules.base import RuleFamily
from evometa.rules.learner import Learner

ESTIMATORS: Registry[Estimator] = Registry("estimator", "evometa.estimators")
_TBPTT, _ES, _PES = TruncatedBPTT(), ES(), PES()
_BY_GRADIENT_OR_PERTURBATION = (_TBPTT, _ES, _PES, Hybrid(_TBPTT, _ES), Hybrid(_TBPTT, _PES))
for _estimator in (
    *_BY_GRADIENT_OR_PERTURBATION,
    Reinforce(),
    PPO(),
    DQN(),
    Implicit(),
    Reptile(),
):
    ESTIMATORS.add(_estimator.name, _estimator)


def meta_space(family: RuleFamily | None = None) -> Space:
    """All genes of level 1: the shared ones, then the estimators', active under the names of those.

    Of a ``family`` those of the estimators that serve it alone: what others may do does not concern it.
    """
    if family is None:
        return _SPACES()[1]
    return _spaces([(name, estimator) for name, estimator in ESTIMATORS if estimator.serves(family)])[1]


def estimator_of(learner: Learner, genes: Genes) -> Estimator:
    """The estimator that the complete ``meta.…`` genes name. Raises GenomeError where it serves others."""
    name = str(genes["meta.estimator"])
    if not ESTIMATORS[name].serves(learner.rule_family):
        served = [other for other, estimator in ESTIMATORS if estimator.serves(learner.rule_family)]
        raise GenomeError(
            f"estimator {name!r} does not serve rule {learner.family!r} (those that do: {', '.join(served)})"
        )
    return ESTIMATORS[name]


def meta_genes(genes: Genes) -> dict[str, Value]:
    """The ``meta.…`` genes of a genome, complete: one from before a gene existed gets its default.

    Raises GenomeError for a gene or value that is not permitted.
    """
    return meta_space().complete({name: value for name, value in genes.items() if name.startswith("meta.")})


def meta_structure(genes: Genes) -> Hashable:
    """What the complete ``meta.…`` genes of two genomes of one cohort must share to be refined together."""
    shared = _SPACES()[0].structural(genes)
    kept = tuple(item for item in shared if item[0] not in FREE_IN_A_COHORT)
    return (kept, ESTIMATORS[str(genes["meta.estimator"])].structure(genes))


def _spaces(registered: list[tuple[str, Estimator]]) -> tuple[Space, Space]:
    """The shared genes alone, and all genes."""
    shared = shared_space(tuple(name for name, _ in registered))
    own = switched("meta.estimator", {name: estimator.space for name, estimator in registered})
    return shared, shared.union(own)


_SPACES = MadeOf(ESTIMATORS, _spaces)

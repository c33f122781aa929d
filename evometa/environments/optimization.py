"""``evometa/Optimization-v0``: an agent sets the learning rate, and the momentum, of a model in training.

One episode trains fresh models on fresh tasks of a family for ``horizon`` inner steps; a step of the
environment makes ``interval`` of them. Observations, actions and rewards are those of controllers; see
:class:`~evometa.environments.process.OptimizationProcess`. Episodes end at the horizon, also those of a lost
training, and with it (``terminated``), since the progress is part of what is seen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from torch import Tensor

from evometa.environments.process import OptimizationProcess
from evometa.errors import EvometaError, unknown
from evometa.genome.genes import Value
from evometa.inner.task_set import TaskRequest, prepare
from evometa.rules.controller import CONTROLLERS, MOVES, ControllerRule
from evometa.rules.controller_policy import OBSERVATION_BOUND
from evometa.rules.learner import Learner
from evometa.tasks.base import SPLITS, Split

Array = npt.NDArray[Any]
#: The family of controllers for each kind of actions.
_FAMILIES = {str(family.actions): family.name for family in CONTROLLERS}


class Episodes:
    """What the environment and its vector form have in common: spaces, and how an episode begins.

    Args:
        task: a task family, by name or ``pkg.module:attribute``.
        options: its options.
        actions: ``"discrete"`` (keep, halve or double the learning rate) or ``"continuous"`` (each setting
            moves by up to an octave up or down).
        genes: of the controller: the rule below and its settings (``base``, ``lr``, …), ``interval``,
            ``statistics``; those of its policy count for nothing.
        horizon: inner steps of an episode.
        split: which of the family's tasks are drawn.
    """

    def __init__(
        self,
        task: str,
        options: Mapping[str, object] | None,
        actions: str,
        genes: Mapping[str, Value] | None,
        horizon: int,
        split: Split,
    ) -> None:
        if actions not in _FAMILIES:
            raise EvometaError(unknown("kind of actions", str(actions), _FAMILIES))
        if split not in SPLITS:
            raise EvometaError(unknown("split", str(split), SPLITS))
        if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
            raise EvometaError(f"horizon is {horizon!r}, expected a whole number from 1 on")
        self._learner = Learner.of(_FAMILIES[actions], {"schedule": "constant", **(genes or {})})
        if self._learner.schedule_family.learned:
            raise EvometaError("the agent decides here: the schedule beside it must not be learned")
        rule = self._learner.rule
        assert isinstance(rule, ControllerRule)
        self._rule = rule
        self._task, self._options, self._horizon = task, json.dumps(options or {}, sort_keys=True), horizon
        self._split: Split = split
        n_rows = sum(rule.observation.n_rows.values())
        self.observation_space = spaces.Box(
            -OBSERVATION_BOUND, OBSERVATION_BOUND, shape=(n_rows,), dtype=np.float32
        )
        shape = (len(rule.controls),)
        self.action_space: spaces.Discrete | spaces.Box = (
            spaces.Discrete(len(MOVES))
            if rule.actions == "discrete"
            else spaces.Box(-1.0, 1.0, shape=shape, dtype=np.float32)
        )

    def begin(self, n_tasks: int, generator: np.random.Generator) -> OptimizationProcess:
        """An episode of ``n_tasks`` trainings; everything in it comes from one draw of ``generator``."""
        return self.of(n_tasks, int(generator.integers(2**63 - 1)))

    def of(self, n_tasks: int, seed: int, n_rollouts: int = 1, *, repetition: int = 0) -> OptimizationProcess:
        """An episode of ``n_rollouts`` trainings of each of the ``n_tasks`` tasks of ``seed``.

        Another ``repetition`` trains other models with other minibatches on the same tasks.
        """
        wanted = TaskRequest(
            self._task,
            self._options,
            self._split,
            n_tasks,
            self._horizon + 1,
            seed,
            repetition=repetition,
        )
        parts = prepare(wanted, torch.device("cpu"))
        return OptimizationProcess(self._learner, parts, self._horizon, n_rollouts)

    @property
    def interval(self) -> int:
        """Inner steps of a step of the environment."""
        return self._rule.interval

    def moves(self, actions: Array) -> Tensor:
        """Octaves ``(T, C)`` of a batch of actions."""
        if isinstance(self.action_space, spaces.Discrete):
            return torch.tensor(MOVES, dtype=torch.float32)[torch.as_tensor(actions)].reshape(-1, 1)
        return torch.as_tensor(actions, dtype=torch.float32).reshape(-1, len(self._rule.controls))

    def observation(self, process: OptimizationProcess) -> Array:
        """What is seen, ``(T, F)``, in memory of its own."""
        bounded = process.observe().clamp(-OBSERVATION_BOUND, OBSERVATION_BOUND)
        return np.array(bounded.numpy(), dtype=np.float32)


class OptimizationEnv(gymnasium.Env[Array, Any]):
    """One training at a time; the arguments are those of :class:`Episodes`."""

    def __init__(
        self,
        task: str = "quadratic",
        options: Mapping[str, object] | None = None,
        actions: str = "discrete",
        genes: Mapping[str, Value] | None = None,
        horizon: int = 100,
        split: Split = "meta_train",
    ) -> None:
        self._episodes = Episodes(task, options, actions, genes, horizon, split)
        self.observation_space = self._episodes.observation_space
        self.action_space = self._episodes.action_space
        self._process: OptimizationProcess | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """A fresh model on a fresh task."""
        super().reset(seed=seed)
        self._process = self._episodes.begin(1, self.np_random)
        return self._episodes.observation(self._process)[0], self._info(self._process)

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """``interval`` inner steps after the settings moved."""
        process = self._process
        if process is None or process.is_over:
            raise EvometaError("the episode is over: call reset() first")
        (reward,) = process.step(self._episodes.moves(np.asarray([action]))).tolist()
        seen = self._episodes.observation(process)[0]
        return seen, reward, process.is_over, False, self._info(process)

    @staticmethod
    def _info(process: OptimizationProcess) -> dict[str, Any]:
        return {"loss": float(process.losses), "step": process.step_number, "lost": bool(process.lost)}


class OptimizationVectorEnv(VectorEnv[Array, Any, Array]):
    """``num_envs`` trainings at once, one call steps them all; they begin and end together.

    After an episode's last step the next call begins another, whatever its actions (Gymnasium's next-step
    autoreset). The tasks of an episode are one draw, so those of n environments are not those of fewer.
    """

    def __init__(
        self,
        num_envs: int = 1,
        task: str = "quadratic",
        options: Mapping[str, object] | None = None,
        actions: str = "discrete",
        genes: Mapping[str, Value] | None = None,
        horizon: int = 100,
        split: Split = "meta_train",
    ) -> None:
        self._episodes = Episodes(task, options, actions, genes, horizon, split)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.num_envs = num_envs
        self.single_observation_space = self._episodes.observation_space
        self.single_action_space = self._episodes.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._process: OptimizationProcess | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Fresh models on fresh tasks, all of them."""
        super().reset(seed=seed)
        return self._begin()

    def step(self, actions: Any) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """``interval`` inner steps of every training, or new ones for all."""
        process = self._process
        if process is None:
            raise EvometaError("no episode has begun: call reset() first")
        never = np.zeros(self.num_envs, dtype=np.bool_)
        if process.is_over:
            seen, info = self._begin()
            return seen, np.zeros(self.num_envs), never, never.copy(), info
        earned = process.step(self._episodes.moves(np.asarray(actions))).double().numpy()
        over = np.full(self.num_envs, process.is_over)
        return self._episodes.observation(process), earned, over, never, self._info(process)

    def _begin(self) -> tuple[Array, dict[str, Any]]:
        self._process = self._episodes.begin(self.num_envs, self.np_random)
        return self._episodes.observation(self._process), self._info(self._process)

    @staticmethod
    def _info(process: OptimizationProcess) -> dict[str, Any]:
        lost, losses = process.lost, process.losses
        step = np.full(len(losses), process.step_number)
        return {"loss": losses.double().numpy(), "step": step, "lost": lost.numpy()}

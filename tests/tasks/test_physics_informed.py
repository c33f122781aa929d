from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from evometa.errors import TaskError
from evometa.inner.cohort import Candidate
from evometa.inner.evaluate import evaluate
from evometa.inner.reference import Subject, train, valid_loss
from evometa.inner.task_set import prepare, request
from evometa.objectives.baseline import baseline_candidate
from evometa.rng import torch_generator
from evometa.tasks import SPLITS, TaskBatch, build_family
from evometa.tasks.equations import EQUATIONS, Equation, Jet
from evometa.tasks.physics_informed import PhysicsInformed, PhysicsNetwork

CPU = torch.device("cpu")


def drawn(name: str, corner: int | None = None) -> dict[str, Tensor]:
    """Parameters () in float64: from the middle of a range, or all from its lower or upper end."""
    ranges = EQUATIONS[name].ranges["meta_test"].items()
    chosen = {key: (ends if corner is not None else [sum(ends) / 2])[corner or 0] for key, ends in ranges}
    return {key: torch.tensor(value, dtype=torch.float64) for key, value in chosen.items()}


def places(d: int, n: int = 40) -> Tensor:
    return 2 * torch.rand((n, d), generator=torch_generator(0, "places"), dtype=torch.float64) - 1


def jet_of_the_solution(equation: Equation, points: Tensor, parameters: dict[str, Tensor]) -> Jet:
    def u(point: Tensor) -> Tensor:
        return equation.exact(point.unsqueeze(0), parameters)[0]

    curved = vmap(jacrev(grad(u)))(points).diagonal(dim1=1, dim2=2)
    return Jet(vmap(u)(points), vmap(grad(u))(points).mT, curved.mT)


@pytest.mark.parametrize("corner", [0, 1, None])
@pytest.mark.parametrize("name", EQUATIONS)
def test_the_exact_solution_solves_the_equation_and_meets_its_conditions(
    name: str, corner: int | None
) -> None:
    equation, parameters = EQUATIONS[name], drawn(name, corner)
    points, edge = places(equation.n_coordinates), equation.edge()
    inside = jet_of_the_solution(equation, points, parameters)
    assert float(inside.value.abs().max()) > 0.1
    assert float(equation.residual(inside, points, parameters).abs().max()) < 1e-6
    outside = jet_of_the_solution(equation, edge, parameters)
    assert float(equation.conditions(outside, edge, parameters).abs().max()) < 1e-6


def test_burgers_solution_obeys_the_equation_by_finite_differences() -> None:
    """In physical coordinates, by hand: nothing of the task's residual has a part in it."""
    nu, a, h = 0.04, 1.1, 1e-3
    parameters = {"nu": torch.tensor(nu).double(), "a": torch.tensor(a).double()}
    x = np.linspace(-0.9, 0.9, 19)
    for t in (0.1, 0.4, 0.9):

        def u(x: np.ndarray, t: float) -> np.ndarray:
            points = torch.from_numpy(np.stack([x, np.full_like(x, 2 * t - 1)], axis=1))
            return EQUATIONS["burgers"].exact(points, parameters).numpy()

        u_t = (u(x, t + h) - u(x, t - h)) / (2 * h)
        u_x = (u(x + h, t) - u(x - h, t)) / (2 * h)
        u_xx = (u(x + h, t) - 2 * u(x, t) + u(x - h, t)) / h**2
        scale = np.abs(u_x).max() ** 2
        np.testing.assert_allclose(u_t + u(x, t) * u_x, nu * u_xx, atol=1e-4 * scale)
    np.testing.assert_allclose(u(x, 0.0), -a * np.sin(math.pi * x), atol=1e-12)


def test_what_is_no_solution_has_a_residual() -> None:
    """What the first test could miss: all terms of an equation count."""
    terms = {"oscillator": Jet._fields, "burgers": Jet._fields, "poisson": ("curvature",)}
    for name, equation in EQUATIONS.items():
        parameters = drawn(name)
        points = places(equation.n_coordinates)
        right = jet_of_the_solution(equation, points, parameters)
        for part in terms[name]:
            wrong = right._replace(**{part: 1.1 * getattr(right, part)})
            assert float(equation.residual(wrong, points, parameters).abs().max()) > 1e-2


@pytest.mark.parametrize("name", EQUATIONS)
def test_derivatives_carried_through_the_network_are_those_of_autograd(name: str) -> None:
    network = PhysicsNetwork(name, 5, 3, 1.0)
    params = network.init_params(1, torch_generator(0))[0].double()
    points = places(EQUATIONS[name].n_coordinates, 6)

    def u(point: Tensor) -> Tensor:
        return network.jet(params, point.unsqueeze(0)).value[0]

    jet = network.jet(params, points)
    torch.testing.assert_close(jet.slope, vmap(grad(u))(points).mT)
    torch.testing.assert_close(jet.curvature, vmap(jacrev(grad(u)))(points).diagonal(dim1=1, dim2=2).mT)


def test_the_held_out_loss_is_the_relative_error_and_never_trained_on() -> None:
    wanted = request("physics_informed", {"equations": ["burgers"]}, "meta_test", 2, 6, 0)
    (part,) = prepare(wanted, CPU, torch.float64)
    tasks, network = part.tasks, part.tasks.loss.__self__  # type: ignore[attr-defined]
    record = evaluate([baseline_candidate("adam", 0.01, {})], wanted, CPU, torch.float64)
    subject = Subject.of(baseline_candidate("adam", 0.01, {}), torch.float64)
    for task in range(2):
        params = train(subject, part, task, 5).params
        assert tasks.valid_rows is not None
        points = tasks.rows["x"][tasks.valid_rows[task]]
        own = {key: tasks.constants[key][task] for key in ("nu", "a")}
        exact = EQUATIONS["burgers"].exact(points, own)
        error = (network.jet(params, points).value - exact).norm() / exact.norm()
        assert float(valid_loss(part, task, params)) == pytest.approx(float(error), rel=1e-9)
        assert record.valid_losses[0, task] == pytest.approx(float(error), rel=1e-6)


@pytest.mark.parametrize(("name", "error"), [("oscillator", 0.6), ("burgers", 0.3), ("poisson", 0.8)])
def test_training_on_the_residual_lowers_the_true_error(name: str, error: float) -> None:
    options = {"equations": [name], "width": 10, "batch_size": 24, "n_valid": 64}

    def held_out(candidate: Candidate, n_steps: int) -> float:
        wanted = request("physics_informed", options, "meta_train", 2, n_steps + 1, 0)
        return float(evaluate([candidate], wanted, CPU).valid_losses.mean())

    assert held_out(baseline_candidate("sgd", 1e-5, {}), 1) > 0.8
    assert held_out(baseline_candidate("adam", 0.03, {}), 150) < error


def test_one_batch_an_equation_and_parameters_in_their_ranges() -> None:
    for split in SPLITS:
        batches = PhysicsInformed().sample(split, 60, torch_generator(0))
        assert [batch.n_tasks for batch in batches] == [20, 20, 20]
        assert len({batch.description for batch in batches}) == 3
        for batch in batches:
            (equation,) = [e for e in EQUATIONS.values() if batch.description.startswith(e.title)]
            for name, (low, high) in equation.ranges[split].items():
                values = batch.constants[name]
                assert low <= float(values.min()) < float(values.max()) <= high


def test_the_points_of_a_split_are_its_own() -> None:
    def points(batches: list[TaskBatch]) -> set[bytes]:
        return {row.numpy().tobytes() for batch in batches for row in batch.rows["x"]}

    train, valid, test = (points(PhysicsInformed().sample(split, 3, torch_generator(0))) for split in SPLITS)
    assert len(train) == 3 * (512 + 256)
    assert not train & valid
    assert not train & test
    assert not valid & test


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"equations": ("heat",)},
            r"'equations' is \('heat',\); allowed: a non-empty list out of 'oscillator'",
        ),
        ({"batch_size": 600}, r"'batch_size' is 600; allowed: an integer from 1 to 512"),
        ({"edge_weight": 0.0}, r"'edge_weight' is 0.0; allowed: a finite number above 0"),
        ({"depth": 0}, r"'depth' is 0"),
    ],
)
def test_refuses_options_with_what_is_allowed(options: dict[str, object], text: str) -> None:
    with pytest.raises(TaskError, match=text):
        PhysicsInformed(**options)  # type: ignore[arg-type]


def test_gradients_of_all_runs_at_once_can_be_differentiated_again() -> None:
    for batch in build_family("physics_informed", {"width": 4}).sample("meta_train", 3, torch_generator(0)):
        batch = batch.to(CPU, torch.float64)
        rows = {name: value[:, :3] if name == "x" else value for name, value in batch.valid_batch().items()}  # type: ignore[union-attr]
        starts = [batch.init_params(torch_generator(seed)).double() for seed in range(2)]
        params = torch.stack(starts).requires_grad_()
        vector = torch.randn(params.shape, generator=torch_generator(9), dtype=torch.float64)
        assert batch.loss_and_grad is not None
        losses, grads = batch.loss_and_grad(params, rows)
        (got,) = torch.autograd.grad((grads * vector).sum() + losses.sum(), params)
        for p in range(2):
            for t in range(batch.n_tasks):
                own = {name: value[t] for name, value in rows.items()}
                point, direction = params[p, t].detach(), vector[p, t]
                slope = grad(batch.loss)(point, own)
                curved = jacrev(grad(batch.loss))(point, own) @ direction
                torch.testing.assert_close(got[p, t], slope + curved, rtol=1e-8, atol=1e-10)

"""A mixed generation: 32 candidates of many structures, in one run of the executor and part by part."""

from __future__ import annotations

from benchmarks.workload import Spec

_LOG_SIGN_AND_MOMENTA = ("log_sign", "log_sign_average_0.5", "log_sign_average_0.9")
_ROOTS = ("rms_gradient", "rms_average_0.9")


def _recurrent(cell: str, layers: int, hidden: int, **genes: object) -> Spec:
    return Spec("recurrent", {"cell": cell, "layers": layers, "hidden": hidden, **genes})  # type: ignore[dict-item]


def _mlp(layers: int, hidden: int, **genes: object) -> Spec:
    return Spec("mlp", {"layers": layers, "hidden": hidden, **genes})  # type: ignore[dict-item]


#: 32 candidates of 24 structures; what differs between candidates of one structure are weights and numbers.
MIXED: tuple[Spec, ...] = (
    _recurrent("lstm", 2, 20),
    _recurrent("lstm", 2, 20, lr=0.03),
    _recurrent("lstm", 1, 20, features=_LOG_SIGN_AND_MOMENTA),
    _recurrent("lstm", 1, 32, nominal="adam", nominal_lr=3e-3),
    _recurrent("lstm", 1, 11, features=("log_sign", *_ROOTS)),
    _recurrent("lstm", 2, 8, shared_features=("time",)),
    _recurrent("gru", 1, 16),
    _recurrent("gru", 1, 16, lr=0.05),
    _recurrent("gru", 1, 16, lr=0.02),
    _recurrent("gru", 2, 12, features=_LOG_SIGN_AND_MOMENTA, output="direction_magnitude", lr=1e-2),
    _recurrent("gru", 1, 27, features=_ROOTS, nominal="sgd", combine="scale", nominal_lr=0.1),
    _recurrent("gru", 1, 6, shared_features=("loss", "progress")),
    _recurrent("vanilla", 1, 24),
    _recurrent("vanilla", 2, 10, features=("log_sign", "parameter"), output="rms_normalised", lr=3e-3),
    _recurrent("vanilla", 1, 4, features=_ROOTS),
    _recurrent("vanilla", 1, 4, features=_ROOTS, lr=0.02),
    _mlp(2, 4),
    _mlp(2, 4, lr=3e-3),
    _mlp(2, 4, magnitude_scale=3e-3),
    _mlp(1, 16),
    _mlp(2, 8, features=("gradient", "average_0.9", "rms_average_0.9"), shared_features=()),
    _mlp(3, 6, features=("log_sign", "row_0.9", "column_0.9", "factored_gradient_0.99")),
    _mlp(1, 32, nominal="adam", combine="scale", nominal_lr=3e-3),
    Spec("adam"),
    Spec("adam", {"lr": 1e-2}),
    Spec("adamw", {"schedule": "cosine"}),
    Spec("nadam"),
    Spec("lion"),
    Spec("lion", {"lr": 3e-4}),
    Spec("rmsprop", {"schedule": "exponential"}),
    Spec("momentum"),
    Spec("nesterov", {"schedule": "cosine"}),
)

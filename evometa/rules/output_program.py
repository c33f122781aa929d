"""The output stage of a learned rule as the kernels of ``evometa/native`` read it."""

from __future__ import annotations

from evometa.rules.output import Output

#: ``Parametrisation``, ``Nominal`` and ``Combine`` of output.h, in their order
PARAMETRISATIONS = ("direct", "direction_magnitude", "rms_normalised")
NOMINALS = ("none", "sgd", "adam")
COMBINATIONS = ("add", "scale")


def output_spec(output: Output) -> list[int]:
    """The three numbers that ``OutputStage::read`` in C++ takes."""
    return [
        PARAMETRISATIONS.index(output.parametrisation),
        NOMINALS.index(output.nominal),
        COMBINATIONS.index(output.combine),
    ]

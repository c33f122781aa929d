"""Hand-designed update rules in words and as formulas."""

from __future__ import annotations

from evometa.genome.space import Genes
from evometa.rules.hand_designed_table import WARM_UP_BASE, Row


def _numbers(row: Row, genes: Genes) -> dict[str, str]:
    """The row's genes as short text; each ``one_minus_x`` also as ``x``, the coefficient people know."""
    text: dict[str, str] = {}
    for name in row.space.names():
        value = float(genes[name])  # type: ignore[arg-type]
        text[name] = f"{value:.4g}"
        if name.startswith("one_minus_"):
            text[name.removeprefix("one_minus_")] = f"{1 - value:.6g}"
    return text


def _rest(genes: Genes) -> str:
    """What the gradient leaves of a blend; of no use for other rules."""
    return f"{1 - float(genes.get('gradient_share', 0.0)):.4g}"  # type: ignore[arg-type]


def described(row: Row, genes: Genes) -> str:
    """What the rule of a row does, in one or two sentences of plain words."""
    n = _numbers(row, genes)
    corrected = "bias-corrected " if row.bias_corrected else ""
    follows = {
        ("gradient", "none"): "the gradient",
        ("moment", "sum"): f"a decaying sum of the gradients (momentum {n.get('momentum')})",
        ("moment", "average"): f"a {corrected}moving average of the gradients (β₁ = {n.get('beta1')})",
        (
            "lookahead",
            "sum",
        ): f"a decaying sum of the gradients (momentum {n.get('momentum')}), one step ahead",
        (
            "lookahead",
            "average",
        ): f"a moving average of the gradients (β₁ = {n.get('beta1')}), one step ahead, "
        f"its momentum warmed up (decay {n.get('momentum_decay')})",
        (
            "blend",
            "average",
        ): f"{n.get('gradient_share')} of the gradient and {_rest(genes)} of its {corrected}moving average "
        f"(β₁ = {n.get('beta1')})",
        (
            "mixture",
            "average",
        ): f"a mixture of the gradient and a moving average of past ones (β₁ = {n.get('beta1')}, "
        f"β₂ = {n.get('moment_decay')})",
    }[row.direction, row.first]
    divided = {
        "none": "",
        "average": f", divided by the root of a {corrected}moving average of their squares "
        f"(β₂ = {n.get('beta2')}, eps {n.get('eps')})",
        "total": f", divided by the root of the sum of all squared gradients so far (eps {n.get('eps')})",
    }[row.second]
    sign = "the signs of " if row.sign else ""
    sentence = f"Steps against {sign}{follows}{divided}, with learning rate {n['lr']}."
    if row.decays_weights:
        sentence += f" Every step also shrinks the parameters by {n['lr']}·{n['weight_decay']} of themselves."
    return sentence


def equations(row: Row, genes: Genes) -> list[str]:
    """The update as formulas in Unicode text."""
    n = _numbers(row, genes)
    lines = ["g = ∇L(θ)"]
    if row.first == "sum":
        lines.append(f"m ← {n['momentum']}·m + g")
    if row.schedules_momentum:
        lines.append(f"μₖ = {n['beta1']}·(1 − ½·{WARM_UP_BASE}^({n['momentum_decay']}·(k+1)))")
        lines.append("π ← π·μₖ,  π₀ = 1")
    if row.direction == "mixture":
        lines.append(f"u = {n['beta1']}·m + {n['one_minus_beta1']}·g")
    if row.first == "average":
        decay = row.first_decay
        lines.append(f"m ← {n[decay.removeprefix('one_minus_')]}·m + {n[decay]}·g")
    if row.second == "average":
        lines.append(f"v ← {n['beta2']}·v + {n['one_minus_beta2']}·g²")
    if row.second == "total":
        lines.append("v ← v + g²")
    top = {
        ("gradient", False): "g",
        ("moment", False): "m",
        ("moment", True): f"m/(1 − {n.get('beta1')}^(k+1))",
        ("lookahead", False): f"(g + {n.get('momentum')}·m)",
        ("lookahead", True): "[(1 − μₖ)/(1 − π)·g + μₖ₊₁/(1 − π·μₖ₊₁)·m]",
        ("mixture", False): "u",
        ("blend", True): f"[{n.get('gradient_share')}·g + {_rest(genes)}·m/(1 − {n.get('beta1')}^(k+1))]",
    }[row.direction, row.bias_corrected]
    if row.sign:
        top = f"sign({top})"
    if row.second != "none":
        v = f"v/(1 − {n['beta2']}^(k+1))" if row.bias_corrected else "v"
        top += f" / (√({v}) + {n['eps']})" if row.bias_corrected else f" / (√v + {n['eps']})"
    if row.decays_weights:
        top = f"[{top} + {n['weight_decay']}·θ]"
    return [*lines, f"Δ = −{n['lr']}·{top}"]

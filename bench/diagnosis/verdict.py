"""A diagnosis in words, each with the number behind it."""

import math

from odegrad.diagnosis.outcomes import Growth
from odegrad.diagnosis.prediction import Diagnosis

NEUTRAL = 0.5
"""Integrals of logarithmic norms within this of zero: differences change by less than exp(0.5) = 1.65 times."""
STIFF_SHARE = 0.5
"""Stiff: the stability region alone asks for more than this share of the steps taken."""
BLIND_SENSITIVITY = 0.1
"""From this sensitivity error on a solver's steps are too coarse for the gradient, whatever they are for the state."""
MIN_STEPS = 5.0
"""A problem with less than so many steps for stability is not stiff, however few it takes."""


def nature(growth: Growth) -> str:
    """Return ``contracting``, ``expanding``, ``neutral`` or ``mixed``.

    Contracting: differences between solutions shrink in every direction, for every sample; expanding: they grow in
    every direction; neutral: neither by more than a factor of exp(0.5); mixed: they grow in some and shrink in others.
    """
    if growth.forward[1] < -NEUTRAL:
        return "contracting"
    if growth.backward[1] < -NEUTRAL:
        return "expanding"
    if max(growth.forward[1], growth.backward[1]) <= NEUTRAL:
        return "neutral"
    return "mixed"


def is_stiff(diagnosis: Diagnosis) -> bool:
    """Return whether the step size of an explicit method is set by stability rather than by accuracy.

    By the steps that were looked at, where these decide it; else by how many steps stability asks for.
    """
    if diagnosis.choice is not None and diagnosis.choice.by_stability is not None:
        return diagnosis.choice.by_stability
    wanted = diagnosis.steps_for_stability
    return wanted >= MIN_STEPS and wanted > STIFF_SHARE * diagnosis.steps


def of_the_dynamics(diagnosis: Diagnosis) -> list[str]:
    """Return what the dynamics are like, whether they are stiff, and whether the step control sees the gradient."""
    growth = diagnosis.growth
    forward, backward = _times(growth.forward[1]), _times(growth.backward[1])
    kinds = {
        "contracting": "differences between solutions shrink in every direction",
        "expanding": "differences between solutions grow in every direction",
        "neutral": "differences between solutions hardly change",
        "mixed": "differences between solutions grow in some directions and shrink in others",
    }
    found = nature(growth)
    out = [
        f"The dynamics are {found}: {kinds[found]}; forward in time they grow at most {forward}, backward at most "
        f"{backward} (int mu_2(J) {growth.forward[1]:.3g}, int mu_2(-J) {growth.backward[1]:.3g})."
    ]
    stiff = "stiff" if is_stiff(diagnosis) else "not stiff"
    asked = max(1, math.ceil(diagnosis.steps_for_stability))
    out.append(
        f"They are {stiff} for an explicit method: stability alone asks for {asked} steps of dopri5, "
        f"{diagnosis.steps} are taken at rtol {diagnosis.rtol:g}."
    )
    if diagnosis.choice is not None:
        out.append(diagnosis.choice.sentence())
    if diagnosis.sensitivity_error > BLIND_SENSITIVITY:
        out.append(
            "The step control is blind to the gradient: the state hardly moves, and halving every step changes naive's "
            f"gradient by {diagnosis.sensitivity_error:.0%}; take adjoint or interpolation_dense, or bound the steps."
        )
    return out


def sentences(diagnosis: Diagnosis) -> list[str]:
    """Return the verdict: what the dynamics are like, whether they are stiff, and which gradient methods are safe."""
    out = of_the_dynamics(diagnosis)
    if diagnosis.reference_failure:
        out.append(f"No gradient is known to hold the methods against: {diagnosis.reference_failure}.")
    safe = [o.gradient for o in diagnosis.outcomes if o.verdict.startswith("safe")]
    other = [f"{o.gradient} ({o.verdict})" for o in diagnosis.outcomes if not o.verdict.startswith("safe")]
    out.append(
        f"Safe at rtol {diagnosis.rtol:g} for a gradient error of {diagnosis.wanted:g}: {', '.join(safe) or 'none'}."
    )
    if other:
        out.append(f"Not safe: {'; '.join(other)}.")
    broken = sorted({b.letter for b in diagnosis.bounds if not b.holds})
    out.append(
        f"Bounds {', '.join(broken)} do not hold: the times do not resolve the trajectory, or the field is not smooth."
        if broken
        else f"All {len(diagnosis.bounds)} bounds hold."
    )
    return [*out, *diagnosis.notes]


def _times(exponent: float) -> str:
    """Return ``exp(exponent)`` times, in words."""
    return f"{math.exp(exponent):.3g} times" if exponent < 700 else f"e^{exponent:.0f} times"

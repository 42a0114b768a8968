"""The law of Celledoni, Owren, Ruthotto and Yang, "Mixed Precision Training of Neural ODEs" (arXiv 2510.23498, 2025).

With the field alone in a low type, of unit roundoff u_L, and the solver's own arithmetic in a high one, the errors of
solution and gradient are O(u_L) + O(u_H / h), flat in the number of steps; with all in the low type they are
O(u_L / h), growing like it.
"""

from functools import partial

from odegrad.reports.papers.claim import Arm, Claim, Direction, Statistic

PRECISION = "precision"
PRECISION_TASKS = ("digits_mlp",)

FLAT = 0.1
"""An exponent below it is a change by less than a third over 16 times the steps; our choice."""
GROWS = 0.5
"""An exponent above it is at least the growth of independent roundings, which add like the root of their number."""

_of_paper = partial(
    Claim, paper=PRECISION, tasks=PRECISION_TASKS, baseline=None, quantity="gradient_relative_error",
    statistic=Statistic.EXPONENT,
)  # fmt: skip

PRECISION_CLAIMS = tuple(
    claim
    for low in ("bfloat16", "float16")
    for claim in (
        _of_paper(
            identifier=f"precision-1-{low}",
            sentence=f"With the field alone in {low} the gradient's error does not grow with the number of steps.",
            method=Arm("naive", dtype="float32", precision=low),
            margin=FLAT,
        ),
        _of_paper(
            identifier=f"precision-2-{low}",
            sentence=f"With all in {low} the gradient's error grows with the number of steps.",
            method=Arm("naive", dtype=low),
            margin=GROWS,
            direction=Direction.ABOVE,
        ),
    )
)

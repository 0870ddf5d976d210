"""The confidence interval of a proportion: Clopper–Pearson."""

from __future__ import annotations

CONFIDENCE = 0.95  # of the bounds on a proportion


def clopper_pearson(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The exact two-sided confidence interval of a proportion after `successes` out of n.

    lower = Beta^{-1}(α/2; k, n−k+1), upper = Beta^{-1}(1−α/2; k+1, n−k), α = 1 − confidence. Source: Clopper and
    Pearson, Biometrika 26 (1934). Raises ValueError unless 0 ≤ successes ≤ n and n ≥ 1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"expected 0 <= successes <= n and n >= 1, got {successes} of {n}")
    from scipy.special import betaincinv  # late: it takes a third of a second to load

    alpha = 1 - confidence
    lower = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, alpha / 2))
    upper = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - alpha / 2))
    return lower, upper

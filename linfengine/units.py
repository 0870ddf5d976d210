"""Radii as people write them, read as exact fractions, in pixel units or gray levels.

In pixel units black is 0 and white is 1. There are 255 gray levels from black to white: 8 of them are ε = 8/255.
"""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from .errors import UserError

WHITE = 255  # the largest gray level
MOST_DIGITS = 60  # of the numerator and of the denominator of a radius

Radius: TypeAlias = str | int | float | Fraction | Decimal | np.floating[Any] | np.integer[Any]


def parse_eps(eps: Radius) -> Fraction:
    """A radius ε in pixel units, 0 ≤ ε ≤ 1, as an exact fraction: "0.3" is 3/10, "8/255" is 8/255.

    A float is read as k/255 if that is within two units in its last place; else as a decimal number of at most 12
    digits (6 for float32) if that is; else as its exact value. Raises UserError for anything else, including booleans,
    and for a fraction of more than 60 digits.
    """
    expected = "a radius in pixel units from 0 to 1"
    return parse_radius(eps, "eps", most=Fraction(1), parts=WHITE, expected=expected, such_as="0.3 or 8/255")


def parse_gray_levels(levels: Radius) -> Fraction:
    """A radius in gray levels, 0 to 255, as an exact ε in pixel units: "76.5" is 3/10. Otherwise as `parse_eps`."""
    expected = "a radius in gray levels from 0 to 255"
    most, such_as = Fraction(WHITE), "8 or 76.5"
    return parse_radius(levels, "gray levels", most=most, parts=1, expected=expected, such_as=such_as) / WHITE


def parse_radius(
    given: Radius,
    name: str = "eps",
    *,
    most: Fraction | None = None,
    parts: int = 1,
    expected: str = "a radius of at least 0",
    such_as: str = "0.3 or 1/4",
) -> Fraction:
    """A radius from 0 to `most` (None: no limit) as an exact fraction. A float may be read as a multiple of 1/`parts`.

    `name`, `expected` and `such_as` are words of the error message. Raises UserError as `parse_eps`.
    """
    try:
        if isinstance(given, str):
            radius = _fraction_in(given)
        elif isinstance(given, float | np.floating):
            radius = _meant_by(given, parts)
        elif isinstance(given, int | Fraction | Decimal | np.integer) and not isinstance(given, bool):
            radius = Fraction(int(given) if isinstance(given, np.integer) else given)
        else:
            raise TypeError
    except (ValueError, ArithmeticError, TypeError):
        raise UserError(f"{name}: expected a number or a fraction such as {such_as}, got {given!r:.80}") from None
    if radius < 0 or (most is not None and radius > most):
        raise UserError(f"{name}: expected {expected}, got {str(given):.80}")
    if max(radius.numerator, radius.denominator) >= 10**MOST_DIGITS:
        raise UserError(f"{name}: expected a fraction of at most {MOST_DIGITS} digits, got {str(given):.80}")
    return radius


def _fraction_in(text: str) -> Fraction:
    """A decimal number or a fraction in ASCII; its exponent has two digits at most."""
    number = r"[+-]?(\d+(\.\d*)?|\.\d+)"
    if not re.fullmatch(rf"\s*({number}(e[+-]?\d{{1,2}})?|[+-]?\d+/\d+)\s*", text[:200], re.ASCII | re.IGNORECASE):
        raise ValueError
    return Fraction(text)


def _meant_by(number: float | np.floating[Any], parts: int) -> Fraction:
    """k/parts or a short decimal, if within two units in the last place of the float; else its exact value."""
    number = np.float64(number) if isinstance(number, float) else number
    exact = Fraction(*number.as_integer_ratio())
    slack = 2 * Fraction(*np.spacing(abs(number)).as_integer_ratio())
    digits = 12 if np.finfo(number.dtype).nmant > 40 else 6
    near = Fraction(round(exact * parts), parts), Fraction(f"{float(number):.{digits}g}")
    return next((each for each in near if abs(each - exact) <= slack), exact)

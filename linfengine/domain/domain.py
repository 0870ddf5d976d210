"""Domain: what one input of a net is, and what a radius means there.

A domain states the shape of an input, the bounds of its numbers, the size of a radius of 1 for each number (the scale),
and the grid on which the numbers lie. Nets, certificates, attacks, audits and quantization take all of this from the
domain. No other module distinguishes images from points, or exact nets from others.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from ..backends import Array, backend_of, device_of
from ..errors import UserError
from ..interval import Interval
from ..tensor import Tensor
from ..units import WHITE, Radius, parse_eps, parse_radius
from .box import Box, Numbers, Shape, check_fraction_bits


@dataclass(frozen=True)
class Domain(Box):
    """A `Box` of inputs, with its description in words and in files.

    For images use `Domain.pixels` or `Domain.gray_levels`. Then `white` is the value of a white pixel, uint8 images are
    accepted as well, and ε is in pixel units. With `window`, images may also come cropped to that size. `shape` is None
    if the net takes images of any size.
    """

    white: int | None = None
    window: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape is None and not self.white:
            raise ValueError("a Domain of numbers needs the shape of an input, got None")
        if self.white is not None:
            bits = None if self.white == 1 else self.fraction_bits
            white = float(self.white)
            fits = (self.lower, self.upper, self.scale, self.fraction_bits) == (0.0, white, white, bits)
            if self.white not in (1, WHITE) or not fits or (self.white == WHITE and bits is None):
                raise ValueError("the domain of images is made by Domain.pixels or Domain.gray_levels, got others")
        if self.white and self.shape is not None and len(self.shape) != 3:
            raise ValueError(f"images have the shape (channels, height, width), got {self.shape}")
        if not 0 <= operator.index(self.window) <= (min(self.shape[1:]) if self.white and self.shape else 0):
            raise ValueError(f"a window has a size from 0 (none) to that of the images, got {self.window}")

    @classmethod
    def pixels(cls, shape: Shape | None = None, *, window: int = 0) -> Domain:
        """Images (channels, height, width) of pixels in [0, 1], also accepted as uint8 gray levels."""
        return cls(shape, 0.0, 1.0, white=1, window=window)

    @classmethod
    def gray_levels(cls, fraction_bits: int, shape: Shape | None = None) -> Domain:
        """Images of gray levels in [0, 255], multiples of 2^-fraction_bits; a radius of 1 is 255 gray levels."""
        return cls(shape, 0.0, float(WHITE), float(WHITE), check_fraction_bits(fraction_bits), white=WHITE)

    def refined(self, fraction_bits: int) -> Domain:
        """The same inputs on a grid, for an exact net: pixels become gray levels, other numbers stay in their unit.

        Bounds move outward to the grid. Raises UserError for more fraction bits than `MOST_FRACTION_BITS`, for a domain
        that has a grid already, has a scale for each coordinate, or has an infinite bound.
        """
        check_fraction_bits(fraction_bits)
        if self.fraction_bits is not None:
            raise UserError(f"the domain is on a grid of {self.fraction_bits} fraction bits already")
        if self.white:
            return Domain.gray_levels(fraction_bits, self.shape)
        if isinstance(self.scale, tuple):
            raise UserError(
                "inputs with a scale for each coordinate have no common grid: bring them to one scale first"
            )
        lower, upper = self._array(self.lower), self._array(self.upper)
        if not (np.isfinite(lower) & np.isfinite(upper)).all():
            raise UserError("inputs without a lower or an upper bound have no exact net: its values have no bound")
        grid = 1 << fraction_bits
        lower, upper = np.floor(lower * grid) / grid, np.ceil(upper * grid) / grid
        return Domain(self.shape, lower, upper, self.scale, fraction_bits)

    @property
    def levels(self) -> int:
        """The factor of inputs and weights in an exact net: 255 for pixels, which become gray levels, else 1."""
        return WHITE if self.white == 1 else 1

    # ---- Words and files -----------------------------------------------------------------------------------------

    @property
    def words(self) -> str:
        """What the net takes, for a message."""
        if self.white:
            kind = "gray levels in [0, 255]" if self.white == WHITE else "pixels in [0, 1]"
        elif isinstance(self.lower, tuple) or isinstance(self.upper, tuple):
            kind = "numbers within the bounds of their coordinates"
        else:
            kind = f"numbers in [{self.lower:g}, {self.upper:g}]"
        if self.fraction_bits == 0:
            kind = f"whole {kind}"
        elif self.fraction_bits is not None:
            kind += f" that are multiples of 2^-{self.fraction_bits}"
        return f"uint8 images, or float32 {kind}" if self.white else f"float32 {kind}"

    @property
    def axes(self) -> str:
        """The axes of a batch, for a message."""
        if self.shape is None or self.white:
            return "pixels (n, c, h, w)"
        return f"inputs ({', '.join(map(str, ('n', *self.shape)))})"

    @property
    def logit_unit(self) -> int:
        """The factor between the logits of a net over this domain and those of the net it was made from."""
        return self.white or 1

    @property
    def unit(self) -> str:
        """The unit of exact logits and margins, for a message."""
        return "gray levels" if self.white == WHITE else "units of the input"

    def config(self) -> dict[str, Any]:
        """The domain for a file, as JSON holds it: an infinite bound is null. `domain_from` is the inverse."""
        shape = None if self.shape is None else list(self.shape)
        if self.white == 1:
            return {"inputs": "pixels", "shape": shape, "window": self.window}
        if self.white:
            return {"inputs": "gray levels", "shape": shape, "fraction_bits": self.fraction_bits}
        ends = {name: _json(getattr(self, name)) for name in ("lower", "upper", "scale")}
        return {"inputs": "numbers", "shape": shape, **ends, "fraction_bits": self.fraction_bits}

    # ---- Inputs --------------------------------------------------------------------------------------------------

    def take(self, x: Any, net: Any) -> Tensor | Interval:
        """x as the input of the first layer, on the device of the net.

        uint8 gray levels become the net's numbers, and lists become float32. Of an Interval only the shape is checked.
        Raises ValueError for another shape and for numbers outside the domain, TypeError for integers or booleans that
        are not uint8 images.
        """
        if not hasattr(x, "shape"):
            x = np.asarray(x)
            x = x.astype(np.float32) if x.dtype.kind == "f" else x
        self.check_shape(x)
        if isinstance(x, Interval):
            return x
        if not isinstance(x, Tensor):
            if x.dtype.kind != "f":
                if x.dtype != np.uint8 or not self.white:
                    raise TypeError(f"the net takes {self.words}, got {x.dtype}")
                x = self.numbers(x)
            x = Tensor(x, device=None if device_of(x) == "cuda" else net.device)
        self.check_grid(x.data)
        return x

    def check_shape(self, x: Any) -> None:
        """Raises ValueError unless x is a batch of inputs."""
        allowed = [self.shape]
        if self.shape is not None and self.window:
            allowed.append((self.shape[0], self.window, self.window))
        if self.shape is not None and tuple(x.shape[1:]) not in allowed:
            expected = f"images ({', '.join(map(str, ('n', *self.shape)))})" if self.white else self.axes
            raise ValueError(f"the net takes {expected}, got shape {tuple(x.shape)}")

    def numbers(self, stored: Array) -> Array:
        """Stored inputs as the net's float32 numbers. A gray level p becomes p/255, correctly rounded, for pixels."""
        numbers = stored.astype(np.float32)
        return numbers / np.float32(WHITE) if self.white == 1 and stored.dtype == np.uint8 else numbers

    def check_grid(self, numbers: Array) -> None:
        """Raises ValueError for numbers that are not on the grid or within the bounds: others are not exact.

        Without a grid nothing is refused.
        """
        if self.fraction_bits is None or not numbers.size:
            return
        self.check_range(numbers)
        if not bool((numbers == self.snap(numbers)).all()):
            hint = ": are these pixels in [0, 1]?" if self.white and float(numbers.max()) <= 1 else ""
            raise ValueError(f"the net takes {self.words}, got numbers between these{hint}")

    def check_range(self, numbers: Array) -> None:
        """Raises ValueError for numbers beyond the bounds, and for NaN and infinity."""
        lower, upper = self._bounds
        if lower.ndim or upper.ndim:
            xp = backend_of(numbers).xp
            within = (xp.asarray(lower) <= numbers) & (numbers <= xp.asarray(upper)) & xp.isfinite(numbers)
            if not bool(within.all()):
                raise ValueError(f"the net takes {self.words}, got numbers beyond these")
            return
        low, high = float(numbers.min()), float(numbers.max())
        if not (low >= lower and high <= upper and -math.inf < low and high < math.inf):  # false for NaN as well
            raise ValueError(f"the net takes {self.words}, got numbers from {low:g} to {high:g}")

    def samples(self, inputs: Array) -> Array:
        """Inputs (n, ...) for a certificate, as the net takes them: float32, or uint8 for an exact net on images.

        Raises UserError for inputs of another shape or type, and for numbers outside the domain.
        """
        if self.white:
            return self._images(inputs)
        try:
            self.check_shape(inputs)
            if inputs.dtype != np.float32:
                raise ValueError(f"the net takes {self.words}, got {inputs.dtype}")
            self.check_range(inputs)
            self.check_grid(inputs)
        except ValueError as error:
            raise UserError(
                f"{error}{'' if self.fraction_bits is None else ' (Domain.snap moves inputs to the grid)'}"
            ) from None
        return inputs

    def _images(self, pixels: Array) -> Array:
        if pixels.dtype not in (np.float32, np.uint8):
            raise UserError(f"expected uint8 images, or float32 pixels in [0, 1], got {pixels.dtype}")
        if pixels.dtype == np.uint8:
            return pixels if self.fraction_bits is not None else self.numbers(pixels)
        if not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN as well
            raise UserError("pixels must lie in [0, 1]: a certificate speaks of valid images only")
        if self.fraction_bits is None:
            return pixels
        levels = np.rint(pixels * np.float32(WHITE)).astype(np.uint8)
        for index in np.argwhere(levels.astype(np.float32) / np.float32(WHITE) != pixels):
            raise UserError(
                "an exact net takes whole gray levels, uint8 or float32 pixels k/255 as data.to_pixels makes them: "
                f"pixel {tuple(index.tolist())} is {pixels[tuple(index)]!r}"
            )
        return levels

    def radius(self, eps: Radius) -> Fraction:
        """ε as an exact fraction, at most the width of the domain. Raises UserError as `units.parse_eps`."""
        if self.white:
            return parse_eps(eps)
        most = self.widest
        if most is None:  # no length of the ball may overflow float32
            most = Fraction(2**120) / max(Fraction(float(scale)) for scale in np.ravel(self.scale))
        return parse_radius(eps, most=most, expected=f"a radius from 0 to {float(most):g}, in units of the scale")


def domain_of(net: Any) -> Domain:
    """The net's domain; images of pixels of any size if it states none."""
    return getattr(net, "domain", None) or Domain.pixels()


def domain_from(config: dict[str, Any]) -> Domain:
    """The domain that `Domain.config` described. Raises ValueError, TypeError or KeyError for another description."""
    arguments = dict(config)
    kind, shape = arguments.pop("inputs"), arguments.pop("shape")
    shape = None if shape is None else tuple(shape)
    match kind:
        case "pixels":
            return Domain.pixels(shape, **arguments)
        case "gray levels":
            return Domain.gray_levels(arguments.pop("fraction_bits"), shape, **arguments)
        case "numbers":
            ends = {"lower": -math.inf, "upper": math.inf, "scale": None}
            numbers = {name: _numbers(arguments.pop(name), end) for name, end in ends.items()}
            return Domain(shape, **numbers, **arguments)
    raise ValueError(f"inputs must be pixels, gray levels or numbers, got {kind!r:.40}")


def _json(numbers: Numbers) -> Any:
    if isinstance(numbers, tuple):
        return [_json(each) for each in numbers]
    return numbers if math.isfinite(numbers) else None


def _numbers(value: Any, end: float | None) -> Any:
    if isinstance(value, list):
        return tuple(_numbers(each, end) for each in value)
    if value is None and end is not None:
        return end
    if type(value) not in (int, float):
        raise ValueError(f"bounds and scales must be numbers, got {value!r:.40}")
    return float(value)

"""Re-derive a certificate file, trusting nothing of the engine that wrote it.

    python verify.py CERTIFICATE MODEL DATA [--samples N]

This file imports the standard library, and NumPy to read arrays. Every number of the net is an integer here: over 2^f
for an exact net with f fraction bits, over 2^149 for a float32 net, since every float32 number is a multiple of 2^-149.
Python's integers have no size and never round. Where the float32 program rounds, `nearest` does the same to the bit:
rounding is monotone, so the maximum of rounded numbers is the rounded maximum, and one rounding a neuron is enough.

What is checked, in this order; the first disagreement is reported:

    the seal        the last line is the SHA-256 of all bytes above it
    the model       the file is a whole safetensors file; its description fits its arrays and the images
    the header      format, digest of the model file, eps, and the threshold: margin > threshold must imply the claim,
                    and no value of the net may overflow float32 inside the largest ball
    every sample    digest of its pixels and label against DATA; prediction, margin, verdict and radius follow from its
                    logits by the rules of its method
    N samples       (all by default, else drawn at random) the logits themselves, and where the claim rests on the
                    clipped box, the bounds over it
    the totals      counts, and their Clopper-Pearson bounds against the binomial distribution

The three files may come from an adversary. Sizes are compared with what a file holds before memory is asked for, and
text of a file is printed escaped and shortened (`shown`).

DATA is an .npz file with `images` (n, c, h, w) uint8, or `inputs` (n, ...) float32 of a net on other inputs, and
`labels` (n,); or a folder with the official MNIST-like or binary CIFAR-10 test files. Exit status: 0 verified, 2 not.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import lzma
import math
import random
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from operator import sub
from pathlib import Path
from typing import Any

import numpy as np

Numbers = list[int]
Layer = dict[str, Any]
Shape = tuple[int, ...]

FORMAT, MODEL_FORMATS = "linfengine-certificate-1", ("linfengine-1", "linfengine-2")
WHITE = 255
UNIT = Fraction(1, 2**24)  # a float32 result is off by at most this fraction of itself,
TINY = Fraction(1, 2**126)  # or, near zero, by less than this
LARGEST = 2**128 - 2**104  # the largest float32 number
MOST_FRACTION_BITS = 15
MOST_HEADER = 100_000_000  # bytes of a safetensors header
MOST_UNPACKED = 2**28  # bytes of data that are read from a smaller, compressed file

# What reading a file in another form may raise.
FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError, MemoryError)


class Disagreement(Exception):
    """One sentence: what the certificate says, and what was found."""


def shown(value: Any) -> str:
    """A value of a file as it is printed: ASCII without control characters, at most 80 characters."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def agree(what: str, said: Any, found: Any) -> None:
    if type(said) is not type(found) or said != found:
        raise Disagreement(f"{what}: the certificate says {shown(said)}, and {shown(found)} was found")


def check_keys(what: str, value: Any, keys: Iterable[str]) -> None:
    """Raises Disagreement unless a JSON value is an object with these keys and no others."""
    if not isinstance(value, dict):
        raise Disagreement(f"{what}: expected a JSON object, got {shown(value)}")
    if odd := value.keys() ^ set(keys):
        raise Disagreement(f"{what} {'has the unknown' if min(odd) in value else 'lacks the'} key {shown(min(odd))}")


SIZE, COUNT, NUMBER = "a whole number from 0 on", "a whole number from 1 on", "a floating-point number"
FLAG, LIST, NUMBERS = "true or false", "a list", "a list of floating-point numbers"
DOMAIN = "a JSON object"
IMAGE, SHARE = "channels, height and width", "a number from 0 to 1"
SHAPE, MAYBE_IMAGE, BITS = "a list of sizes", "channels, height and width, or null", "a number of bits, or null"
STDS, BOUNDS = "a floating-point number, or a list of these", "a number or null, or a list of these"
RULES: dict[str, Callable[[Any], bool]] = {
    SIZE: lambda value: type(value) is int and value >= 0,
    COUNT: lambda value: type(value) is int and value >= 1,
    NUMBER: lambda value: type(value) is float,
    FLAG: lambda value: type(value) is bool,
    LIST: lambda value: type(value) is list,
    DOMAIN: lambda value: type(value) is dict,
    NUMBERS: lambda value: type(value) is list and len(value) > 0 and all(type(each) is float for each in value),
    IMAGE: lambda value: type(value) is list and len(value) == 3 and all(type(c) is int and c >= 1 for c in value),
    SHARE: lambda value: type(value) in (int, float) and 0 <= value <= 1,
    SHAPE: lambda value: type(value) is list and len(value) > 0 and all(type(c) is int and c >= 1 for c in value),
    MAYBE_IMAGE: lambda value: value is None or RULES[IMAGE](value),
    BITS: lambda value: value is None or RULES[SIZE](value),
    STDS: lambda value: RULES[NUMBER](value) or RULES[NUMBERS](value),
    BOUNDS: lambda value: all(each is None or type(each) is float for each in listed(value)) and value != [],
}


def listed(value: Any) -> list[Any]:
    return value if type(value) is list else [value]


def check_value(what: str, value: Any, expected: str) -> None:
    """Raises Disagreement unless a JSON value follows one of the RULES."""
    if not RULES[expected](value):
        raise Disagreement(f"{what}: expected {expected}, got {shown(value)}")


# ---- JSON --------------------------------------------------------------------------------------------------------


def parsed(text: str) -> Any:
    """A JSON value in which no name stands twice in one object and all numbers are finite and short."""
    return json.loads(text, object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite, parse_constant=_finite)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; of a name that stands twice, another reader might see the other value."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Disagreement(f"the name {shown(name)} stands twice in one object")
        found[name] = value
    return found


def _whole(text: str) -> int:
    if len(text) > 20 or text == "-0":  # int() takes quadratic time
        raise Disagreement(f"no whole number of at most 20 digits: {shown(text)}")
    return int(text)


def _finite(text: str) -> float:
    if len(text) > 40 or not math.isfinite(number := float(text)):
        raise Disagreement(f"no finite number of at most 40 characters: {shown(text)}")
    return number


# ---- The model file ----------------------------------------------------------------------------------------------


def read_safetensors(content: bytes) -> tuple[dict[str, str], dict[str, tuple[list[int], memoryview]]]:
    """(metadata, shape and bytes of each array) of a safetensors file of float32 arrays with one or two axes.

    Every byte belongs to the header or to exactly one array. Raises Disagreement otherwise.
    """
    length = int.from_bytes(content[:8], "little")
    if not 2 <= length <= min(len(content) - 8, MOST_HEADER):
        raise Disagreement(f"the model file of {len(content)} bytes cannot have a header of {length} bytes")
    if content[8:9] != b"{":
        raise Disagreement("the header of the model file does not begin with '{'")
    header = parsed(content[8 : 8 + length].decode())
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Disagreement("the model file has no metadata, or metadata that are not text")
    "".join([*metadata, *metadata.values()]).encode()  # fails for half a surrogate pair, which is no text
    for name, entry in header.items():
        what = f"{shown(name)} of the model"
        check_keys(what, entry, {"dtype", "shape", "data_offsets"})
        if entry["dtype"] != "F32":
            raise Disagreement(f"{what} is {shown(entry['dtype'])}, not F32")
        for key, axes in (("shape", (1, 2)), ("data_offsets", (2,))):
            check_value(f"the {key} of {what}", entry[key], LIST)
            if len(entry[key]) not in axes:
                raise Disagreement(f"{what} has the {key} {shown(entry[key])}")
            for number in entry[key]:
                check_value(f"the {key} of {what}", number, SIZE)
    data, end = memoryview(content)[8 + length :], 0
    arrays = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if begin != end or stop - begin != 4 * math.prod(entry["shape"]):
            raise Disagreement(
                f"{shown(name)} of the model, of shape {shown(entry['shape'])}, cannot lie in bytes {begin} to {stop} "
                f"after {end} bytes of other arrays"
            )
        arrays[name], end = (entry["shape"], data[begin:stop]), stop
    if end != len(data):
        raise Disagreement(f"the model's arrays have {end} bytes, and its file has {len(data)} bytes for them")
    return metadata, arrays


Keys = dict[str, str]  # of a description, each with the rule that its value follows
NORMALIZE: Keys = {"mean": NUMBERS, "std": STDS}
NEURONS: Keys = {"bias": FLAG, "groups": COUNT}
LAYERS: dict[str, Keys] = {
    "Normalize": NORMALIZE,
    "CenterCrop": {"size": COUNT},
    "MeanShift": {"channels": COUNT, "momentum": SHARE},
    "Flatten": {},
    "ReLU": {},
    "Negate": {},
    "LinfDistDense": NEURONS | {"in_features": COUNT, "out_features": COUNT},
    "LinfDistConv2d": NEURONS
    | {"in_channels": COUNT, "out_channels": COUNT, "kernel_size": COUNT, "stride": COUNT, "padding": SIZE},
}
NET: Keys = {"mean": NUMBERS, "std": NUMBER, "shape": IMAGE, "crop": SIZE, "head": SIZE}
NET |= {"width": COUNT, "classes": COUNT, "mean_shift": FLAG}
OLD_NETS: dict[str, Keys] = {  # of format 1, which named nets
    "Sequential": {"layers": LIST},
    "ExactNet": {"layers": LIST, "fraction_bits": SIZE},
    "LinfDistNet": NET | {"depth": COUNT},
    "LinfDistConvNet": NET | {"channels": COUNT},
}
NETS: dict[str, Keys] = {"Sequential": {"layers": LIST}}  # of format 2: a list of layers, and perhaps a domain
DOMAINS: dict[str, Keys] = {
    "pixels": {"shape": MAYBE_IMAGE, "window": SIZE},
    "gray levels": {"shape": MAYBE_IMAGE, "fraction_bits": SIZE},
    "numbers": {"shape": SHAPE, "lower": BOUNDS, "upper": BOUNDS, "scale": STDS, "fraction_bits": BITS},
}


def described(config: Any, kinds: dict[str, Keys]) -> dict[str, Any]:
    """The description of a net or layer of one of these kinds; raises Disagreement where it is none."""
    kind = config.get("layer") if isinstance(config, dict) else config
    if not isinstance(kind, str) or kind not in kinds:
        raise Disagreement(f"this checker has no rule for a {shown(kind)} {'layer' if kinds is LAYERS else 'net'}")
    if kinds is OLD_NETS and "shape" in kinds[kind]:
        config = {"crop": 0, "head": 0} | config  # which older files lack
    rules = kinds[kind]
    if kind == "ExactNet" and "shape" in config:  # which older files lack
        rules = rules | {"shape": IMAGE}
    if kinds is NETS and "domain" in config:
        rules = rules | {"domain": DOMAIN}
    check_keys(f"the model's {kind}", config, {"layer", *rules})
    for key, rule in rules.items():
        check_value(f"the {key} of the model's {kind}", config[key], rule)
    return config


def expanded(config: dict[str, Any], arrays: int) -> list[Layer]:
    """The layers of a net's description of format 1, which has so many arrays."""
    if config["layer"] in ("Sequential", "ExactNet"):
        return config["layers"]
    if config["head"]:
        raise Disagreement(f"this checker has no rule for a {config['layer']} with a head")
    channels, height, width = config["shape"]
    layers: list[Layer] = [{"layer": "Normalize", "mean": config["mean"], "std": config["std"]}]
    if config["crop"]:
        height = width = config["crop"]
        layers.append({"layer": "CenterCrop", "size": config["crop"]})

    def hidden(layer: Layer, outputs: int) -> list[Layer]:
        shift = {"layer": "MeanShift", "channels": outputs, "momentum": 0}
        return [layer, shift] if config["mean_shift"] else [layer]

    def dense(inputs: int, outputs: int, bias: bool) -> Layer:
        return {"layer": "LinfDistDense", "in_features": inputs, "out_features": outputs, "bias": bias, "groups": 1}

    if config["layer"] == "LinfDistNet":
        if config["depth"] > arrays:
            raise Disagreement(f"the model has {config['depth']} layers with weights, and {arrays} arrays")
        wide = config["depth"] - 1
    else:
        conv = {"layer": "LinfDistConv2d", "kernel_size": 3, "padding": 1, "groups": 1, "bias": False}
        for stride, times in ((1, 1), (1, 1), (2, 2), (1, 2), (1, 2)):
            outputs = times * config["channels"]
            layers += hidden(conv | {"in_channels": channels, "out_channels": outputs, "stride": stride}, outputs)
            channels, height, width = outputs, (height - 1) // stride + 1, (width - 1) // stride + 1
        wide = 1
    layers.append({"layer": "Flatten"})
    features = channels * height * width
    for _ in range(wide):
        layers += hidden(dense(features, config["width"], bias=False), config["width"])
        features = config["width"]
    return [*layers, dense(features, config["classes"], bias=True), {"layer": "Negate"}]


def arrays_of(layer: Layer) -> dict[str, list[int]]:
    """Names and shapes of a layer's arrays in the model file; raises Disagreement where no layer is like that."""
    match layer["layer"]:
        case "MeanShift":
            return {"running_mean": [layer["channels"]]}
        case "LinfDistDense":
            inputs, outputs, taps = layer["in_features"], layer["out_features"], 1
        case "LinfDistConv2d":
            inputs, outputs, taps = layer["in_channels"], layer["out_channels"], layer["kernel_size"] ** 2
        case _:
            return {}
    groups, padding = layer["groups"], layer.get("padding", 0)
    if padding and padding >= layer["kernel_size"]:  # it would make images of any size, of zeros alone
        raise Disagreement(f"a padding of {padding} is not smaller than the kernel, of size {layer['kernel_size']}")
    if inputs % groups or outputs % groups:
        raise Disagreement(f"{inputs} inputs and {outputs} outputs cannot be divided into {groups} groups")
    return {"weight": [outputs, inputs // groups * taps]} | ({"bias": [outputs]} if layer["bias"] else {})


def output_shape(layer: Layer, shape: Shape) -> Shape | None:
    """The shape of a layer's output for one input of this shape, None where it takes no such input."""
    image = len(shape) == 3
    match layer["layer"]:
        case "Normalize":
            channels = max(len(layer["mean"]), len(layer["std"]))
            fits = len(layer["mean"]) in (1, channels) and len(layer["std"]) in (1, channels)
            return shape if fits and channels in (1, shape[0]) else None
        case "MeanShift":
            return shape if layer["channels"] == shape[0] else None
        case "Flatten":
            return (math.prod(shape),)
        case "CenterCrop":
            size = layer["size"]
            return (shape[0], size, size) if image and size <= min(shape[1:]) else None
        case "LinfDistDense":
            return (layer["out_features"],) if shape == (layer["in_features"],) else None
        case "LinfDistConv2d":
            size, stride, pad = layer["kernel_size"], layer["stride"], layer["padding"]
            if not image or shape[0] != layer["in_channels"] or min(shape[1:]) + 2 * pad < size:
                return None
            height, width = ((side + 2 * pad - size) // stride + 1 for side in shape[1:])
            return layer["out_channels"], height, width
    return shape


# ---- The net -----------------------------------------------------------------------------------------------------


def nearest(numerator: int, denominator: int = 1) -> int:
    """numerator/denominator, in units of 2^-149, rounded to the nearest float32, ties to even."""
    size = abs(numerator)
    bits = max((size // denominator).bit_length() - 24, 0)  # float32 keeps 24 bits, and none below 2^-149
    denominator <<= bits
    quotient, rest = divmod(size, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and quotient & 1):
        quotient += 1
    if quotient << bits >= 1 << (149 + 128):
        raise Disagreement("the model's values overflow float32, so nothing can be certified")
    return (quotient if numerator > 0 else -quotient) << bits


def from_bits(bits: int) -> int:
    """The finite float32 number of these 32 bits, in units of 2^-149."""
    exponent, significand = bits >> 23 & 255, bits & 0x7FFFFF
    size = (significand | 0x800000) << exponent - 1 if exponent else significand
    return -size if bits >> 31 else size


class Domain:
    """What an input of a net is. Bounds and scale are Fractions, one for all coordinates or one for each in a list.

    No bound is None. `images` says whether inputs are uint8 images: pixels level/255, or gray levels in an exact net. A
    ball of radius eps holds the x' with |x'_k - x_k| <= eps*scale_k that lie within the bounds.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        kind = config.get("inputs")
        if not isinstance(kind, str) or kind not in DOMAINS:
            raise Disagreement(f"this checker has no rule for inputs that are {shown(kind)}")
        check_keys("the model's domain", config, {"inputs", *DOMAINS[kind]})
        for key, rule in DOMAINS[kind].items():
            check_value(f"the {key} of the model's domain", config[key], rule)
        self.images = kind != "numbers"
        self.shape: Shape | None = None if config["shape"] is None else tuple(config["shape"])
        self.fraction_bits: int | None = config.get("fraction_bits")
        window = config.get("window", 0)  # images may be cropped already to that size
        self.cropped = (self.shape[0], window, window) if self.shape and window else self.shape
        if window and window > (min(self.shape[1:]) if self.shape else 0):
            raise Disagreement(f"the model's domain has a window of {window}, larger than its images")
        white = 1.0 if kind == "pixels" else float(WHITE)
        self.lower, self.upper = (
            [None if number is None else Fraction(number) for number in listed(config.get(key, default))]
            for key, default in (("lower", 0.0), ("upper", white))
        )
        self.scale = [Fraction(number) for number in listed(config.get("scale", white))]
        if self.fraction_bits is not None and self.fraction_bits > MOST_FRACTION_BITS:
            raise Disagreement(f"the model has {self.fraction_bits} fraction bits, which float32 has no room for")
        sizes = {len(each) for each in (self.lower, self.upper, self.scale)} - {1}
        if self.shape is not None and not self.images and sizes - {math.prod(self.shape)}:
            raise Disagreement(f"the model's domain has {max(sizes)} bounds or scales for inputs of shape {self.shape}")
        if min(self.scale) <= 0:
            raise Disagreement("the scale of the model's domain has to be above 0")
        ends = [*self.lower, *self.upper]
        count = max(len(self.lower), len(self.upper))
        for low, high in zip(self.each(self.lower, count), self.each(self.upper, count), strict=True):
            if low is not None and high is not None and low > high:
                raise Disagreement("the model's domain has a lower bound above the upper one")
        for number in filter(None, [*ends, *self.scale]):
            if nearest(number.numerator << 149, number.denominator) != number * 2**149:
                raise Disagreement(f"the model's domain has the number {float(number)}, which is no float32 number")
        if self.fraction_bits is not None:
            if len(self.scale) > 1 or None in ends:
                raise Disagreement("a domain with a grid has one scale, and both bounds")
            if any(end is None or (end * 2**self.fraction_bits).denominator > 1 for end in ends):
                raise Disagreement("the bounds of the model's domain are not on its grid")

    def each(self, numbers: list[Any], count: int) -> list[Any]:
        return numbers * count if len(numbers) == 1 else numbers

    def extent(self, inputs: list[Any]) -> tuple[list[Fraction], list[Fraction]]:
        """Bounds of the coordinates, those of the inputs (float32 arrays) where the domain has none."""
        least, largest = ([end for end in side if end is not None] for side in (self.lower, self.upper))
        if len(least) == len(self.lower) and len(largest) == len(self.upper):
            return least, largest
        flat = np.stack([x.reshape(-1) for x in inputs])
        lower, upper = self.each(self.lower, flat.shape[1]), self.each(self.upper, flat.shape[1])
        return (
            [Fraction(float(x)) if end is None else end for end, x in zip(lower, flat.min(axis=0), strict=True)],
            [Fraction(float(x)) if end is None else end for end, x in zip(upper, flat.max(axis=0), strict=True)],
        )

    def reach(self, inputs: list[Any], eps: Fraction) -> tuple[Fraction, list[Fraction]]:
        """(R, M): the largest radius R >= eps that may be claimed of the inputs, and what |x'_k| may be then."""
        lower, upper = self.extent(inputs)
        count = max(map(len, (lower, upper, self.scale)))
        sides = list(zip(*(self.each(side, count) for side in (lower, upper, self.scale)), strict=True))
        most = max(eps, *((high - low) / scale for low, high, scale in sides))
        return most, [max(abs(low), abs(high)) + most * scale for low, high, scale in sides]


class Net:
    """A model file as integers over 2^grain, evaluated as its layers say.

    Raises Disagreement for a file that the checker has no rules for, or whose description does not fit its arrays.
    """

    def __init__(self, content: bytes) -> None:
        metadata, arrays = read_safetensors(content)
        if metadata.get("format") not in MODEL_FORMATS:
            expected = " or ".join(map(repr, MODEL_FORMATS))
            raise Disagreement(f"the model is of format {shown(metadata.get('format'))}, not {expected}")
        if metadata.get("p") != "inf":
            raise Disagreement(f"the model is at p = {shown(metadata.get('p'))}: only p = inf can be certified")
        config = parsed(metadata["config"])
        if metadata["format"] == MODEL_FORMATS[0]:
            config = described(config, OLD_NETS)
            layers = expanded(config, len(arrays))
            domain: dict[str, Any] = {"shape": config.get("shape")}
            if config["layer"] == "ExactNet":
                domain |= {"inputs": "gray levels", "fraction_bits": config["fraction_bits"]}
            else:
                domain |= {"inputs": "pixels", "window": config.get("crop", 0)}
        else:
            config = described(config, NETS)
            layers = config["layers"]
            domain = config.get("domain", {"inputs": "pixels", "shape": None, "window": 0})
        self.domain = Domain(domain)
        self.fraction_bits = self.domain.fraction_bits
        self.exact = self.fraction_bits is not None
        self.grain: int = 149 if self.fraction_bits is None else self.fraction_bits
        self.round: Callable[..., int] = (lambda number, divisor=1: number // divisor) if self.exact else nearest
        self.layers = [described(layer, LAYERS) for layer in layers]
        for i, layer in enumerate(self.layers):
            for part, shape in arrays_of(layer).items():
                layer[part] = self.array(f"{i}.{part}", arrays.pop(f"{i}.{part}", None), shape)
            if layer["layer"] == "Normalize":
                layer["mean"] = [self.float32(number) for number in layer["mean"]]
                layer["std"] = [self.float32(number) for number in listed(layer["std"])]
                for number in layer["std"]:
                    if number <= 0 or (self.exact and number != 1 << self.grain):
                        std, kind = Fraction(number, 1 << self.grain), "exact" if self.exact else "certified"
                        raise Disagreement(f"the model divides by {float(std)}, which no {kind} net does")
        if arrays:
            raise Disagreement(f"the model holds {shown([*arrays])}, which its description does not name")

    def array(self, name: str, found: tuple[list[int], memoryview] | None, shape: list[int]) -> list[Any]:
        """An array of the file as integers, nested as its shape says."""
        if found is None:
            raise Disagreement(f"the model lacks its array {name}")
        if found[0] != shape:
            raise Disagreement(f"{name} of the model has the shape {found[0]}, and its description says {shape}")
        bits = np.frombuffer(found[1], "<u4")
        if (bits >> 23 & 255 == 255).any():
            raise Disagreement(f"{name} of the model holds values that are not finite")
        numbers = [self.on_grid(from_bits(each)) for each in bits.tolist()]
        step = shape[-1]
        return numbers if len(shape) == 1 else [numbers[i : i + step] for i in range(0, len(numbers), step)]

    def float32(self, number: float) -> int:
        """The float32 number nearest to a float64 one, as an integer over 2^grain."""
        numerator, denominator = number.as_integer_ratio()
        return self.on_grid(nearest(numerator << 149, denominator))

    def on_grid(self, number: int) -> int:
        """An integer over 2^149 as one over 2^grain."""
        bits = 149 - self.grain
        if number & ((1 << bits) - 1):
            value = float(Fraction(number, 1 << 149))
            raise Disagreement(f"{value} is no multiple of 2^-{self.grain}, as all numbers of the model have to be")
        return number >> bits

    def pixel(self, level: int) -> int:
        """A gray level 0..255 as the net takes it: itself, or level/255 in float32."""
        return level << self.grain if self.exact else nearest(level << self.grain, WHITE)

    def numbers(self, sample: Any) -> Numbers:
        """One input as the net takes it, flat; `sample` is an array of gray levels, or of float32 numbers."""
        if self.domain.images:
            return [self.pixel(level) for level in sample.ravel().tolist()]
        numbers = [self.on_grid(from_bits(bits)) for bits in sample.ravel().view("<u4").tolist()]
        unit, count = 1 << self.grain, sample.size
        for number, low, high in zip(numbers, *self.ends(unit, count), strict=True):
            if (low is not None and number < low) or (high is not None and number > high):
                raise Disagreement(f"the data have the number {number / unit}, which lies beyond the model's domain")
        return numbers

    def ends(self, unit: int, count: int) -> Iterator[list[Any]]:
        """The bounds of `count` coordinates, in units of 1/unit; None where there is none."""
        for side in (self.domain.lower, self.domain.upper):
            yield self.domain.each([None if end is None else int(end * unit) for end in side], count)

    def shapes(self, shape: Shape) -> list[Shape]:
        """The shape of one input of each layer, and of the logits, for images of this shape (c, h, w).

        Raises Disagreement where the net does not take such images or does not give logits of two classes at least.
        """
        if self.domain.shape not in (None, shape) and self.domain.cropped != shape:
            kind = "images" if self.domain.images else "inputs"
            raise Disagreement(f"the model takes {kind} of shape {self.domain.shape}, and the data have {shape}")
        found = [shape]
        for i, layer in enumerate(self.layers):
            if (given := output_shape(layer, found[-1])) is None:
                raise Disagreement(f"layer {i} of the model, {layer['layer']}, takes no input of shape {found[-1]}")
            found.append(given)
        if len(found[-1]) != 1 or found[-1][0] < 2:
            raise Disagreement(f"the model's output has the shape {found[-1]}, expected two classes or more")
        return found

    def __call__(self, ends: list[Numbers], shape: Shape) -> list[Numbers]:
        """Logits of a point, ends = [x]; or their bounds over a box, ends = [lower, upper]; x flat, of that shape."""
        for layer, given in zip(self.layers, self.shapes(shape)[:-1], strict=True):
            match layer["layer"]:
                case "Normalize":
                    ends = [self.shifted(end, layer["mean"]) for end in ends]
                    ends = [self.divided(end, layer["std"]) for end in ends]
                case "MeanShift":
                    ends = [self.shifted(end, layer["running_mean"]) for end in ends]
                case "CenterCrop":
                    chosen = middle(layer["size"], given)
                    ends = [[end[i] for i in chosen] for end in ends]
                case "ReLU":
                    ends = [[max(v, 0) for v in end] for end in ends]
                case "Negate":
                    ends = [[-v for v in end] for end in reversed(ends)]
                case "LinfDistDense":
                    ends = self.neurons(layer, [ends])
                case "LinfDistConv2d":
                    padded = [[*end, 0] for end in ends]  # where the index -1 of the padding points to
                    ends = self.neurons(
                        layer, ([list(map(end.__getitem__, at)) for end in padded] for at in patches(layer, given))
                    )
        return ends

    def shifted(self, numbers: Numbers, means: Numbers) -> Numbers:
        """Each number less the mean of its channel."""
        size = len(numbers) // len(means)
        return [self.round(v - m) for c, m in enumerate(means) for v in numbers[c * size : (c + 1) * size]]

    def divided(self, numbers: Numbers, stds: Numbers) -> Numbers:
        """Each number divided by the std of its channel."""
        size = len(numbers) // len(stds)
        return [self.round(v << self.grain, s) for c, s in enumerate(stds) for v in numbers[c * size : (c + 1) * size]]

    def neurons(self, layer: Layer, places: Iterable[list[Numbers]]) -> list[Numbers]:
        """max_k |x_k - w_k| + b of every output at every place, output by output; a place has one x of each end."""
        weights, bias = layer["weight"], layer["bias"] or None
        k, outputs = len(weights[0]), len(weights) // layer["groups"]
        found = []
        for place in places:
            results: list[Numbers] = [[] for _ in place]
            for o, w in enumerate(weights):
                begin = o // outputs * k
                inputs = [x[begin : begin + k] for x in place] if layer["groups"] > 1 else place
                if len(inputs) == 1:
                    values = [max(map(abs, map(sub, inputs[0], w)))]
                else:  # for l <= x <= u: x - w >= l - w, w - x >= w - u, |x - w| <= max(u - w, w - l)
                    low, high = inputs
                    values = [
                        max(0, max(map(sub, low, w)), max(map(sub, w, high))),
                        max(max(map(sub, high, w)), max(map(sub, w, low))),
                    ]
                for result, y in zip(results, values, strict=True):
                    y = self.round(y)
                    result.append(self.round(y + bias[o]) if bias else y)
            found.append(results)
        return [[y for outputs in zip(*end, strict=True) for y in outputs] for end in zip(*found, strict=True)]

    def slack(self, magnitude: list[Fraction]) -> tuple[Fraction, Fraction]:
        """(L, E), Fractions: a logit moves by at most L*eps in a ball, and is computed within E of its exact value.

        `magnitude` is what |x_k| may be, one number for all or one for each.

        A rounded result is off by UNIT of itself, and one that a GPU may take for 0 by TINY; an error passes a distance
        layer at its own size and adds to the next one's. An exact net has no error as long as float32 holds its
        values, multiples of 2^-f below 2^(24-f). L, E and the sizes of values are rounded up to multiples of 2^-300, so
        that many layers do not make long fractions.

        Raises Disagreement where a value may be too large for float32: nothing is proved then.
        """
        unit, tiny = (Fraction(0), Fraction(0)) if self.exact else (UNIT, TINY)
        limit = 2 ** (24 - self.grain) if self.exact else LARGEST
        lipschitz, error, size = max(self.domain.scale), Fraction(0), max(magnitude)
        for i, layer in enumerate(self.layers):
            size, own = size + error, Fraction(0)
            match layer["layer"]:
                case "Normalize" if i == 0:
                    lipschitz, size = self.normalized(layer, magnitude, limit)
                    own = 3 * unit * size + tiny
                case "Normalize":
                    std = Fraction(min(layer["std"]), 2**self.grain)
                    lipschitz, error = lipschitz / std, error / std
                    _, size = self.normalized(layer, [size], limit)
                    own = 3 * unit * size + tiny
                case "MeanShift":
                    size += self.largest(layer["running_mean"])
                    own = unit * size + tiny
                case "Negate" | "ReLU":
                    own = tiny
                case "LinfDistDense" | "LinfDistConv2d":
                    size += max(map(self.largest, layer["weight"]))
                    own = unit * size
                    if layer["bias"]:
                        size += self.largest(layer["bias"])
                        own += unit * size * (1 + unit) + tiny
            lipschitz, error, size = upward(lipschitz), upward(error + own), upward(size + own)
            self.check_size(size, limit)
        return lipschitz, error

    def normalized(self, layer: Layer, magnitude: list[Fraction], limit: int) -> tuple[Fraction, Fraction]:
        """(L, size) after the first layer, coordinate by coordinate where they differ."""
        scale = self.domain.scale if len(magnitude) > 1 or layer is self.layers[0] else [Fraction(1)]
        channels = [[Fraction(number, 2**self.grain) for number in layer[key]] for key in ("mean", "std")]
        count = max(map(len, (magnitude, scale)))
        if count > 1 and self.domain.shape is not None:
            per_channel = count // self.domain.shape[0]
            channels = [
                [number for number in self.domain.each(numbers, self.domain.shape[0]) for _ in range(per_channel)]
                for numbers in channels
            ]
        else:
            count = max(map(len, channels))
        means, stds = (self.domain.each(numbers, count) for numbers in channels)
        sizes = [m + abs(mean) for m, mean in zip(self.domain.each(magnitude, count), means, strict=True)]
        self.check_size(max(sizes), limit)
        return (
            max(s / std for s, std in zip(self.domain.each(scale, count), stds, strict=True)),
            max(size / std for size, std in zip(sizes, stds, strict=True)),
        )

    def largest(self, numbers: Numbers) -> Fraction:
        return Fraction(max(map(abs, numbers)), 2**self.grain)

    def check_size(self, size: Fraction, limit: int) -> None:
        if size >= limit:
            fault = "cannot hold those exactly" if self.exact else "may overflow there"
            raise Disagreement(f"the model's values may reach {float(size):.9g}, and float32 {fault}")


def upward(number: Fraction) -> Fraction:
    return Fraction(math.ceil(number * 2**300), 2**300)


def middle(size: int, shape: Shape) -> list[int]:
    """The places of the middle size x size window of flat images (channels, height, width)."""
    channels, height, width = shape
    top, left = (height - size) // 2, (width - size) // 2
    rows, columns = range(top, top + size), range(left, left + size)
    return [(c * height + i) * width + j for c in range(channels) for i in rows for j in columns]


def patches(layer: Layer, shape: Shape) -> Iterator[list[int]]:
    """The indices into a flat image (channels, height, width) of each patch, -1 in the padding."""
    channels, height, width = shape
    size, stride, pad = layer["kernel_size"], layer["stride"], layer["padding"]
    for top in range(-pad, height + pad - size + 1, stride):
        for left in range(-pad, width + pad - size + 1, stride):
            yield [
                (c * height + i) * width + j if 0 <= i < height and 0 <= j < width else -1
                for c in range(channels)
                for i in range(top, top + size)
                for j in range(left, left + size)
            ]


# ---- The claims --------------------------------------------------------------------------------------------------

WORDS = ("linfengine", "arithmetic", "rests_on", "dataset", "split")  # for people: not checked, and never printed
TOTALS = ("clean", "certified")
HEADER = {"format", "model", "method", "fraction_bits", "eps", "gray_levels", "threshold", "n", "classes", "confidence"}
SAMPLE = {"index", "pixels", "label", "prediction", "logits", "margin", "radius", "certified"}


def read_certificate(content: bytes) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(header, samples) of a certificate file with its seal, each with its keys and no others."""
    body, _, _ = content.removesuffix(b"\n").rpartition(b"\n")
    digest = hashlib.sha256(body + b"\n").hexdigest()
    if content != body + b"\n" + json.dumps({"sha256": digest}).encode() + b"\n":
        raise Disagreement("the certificate is cut short or edited: its last line is not the SHA-256 of all above it")
    header, *records = map(parsed, body.decode().split("\n"))
    if not records:
        raise Disagreement("the certificate speaks of no samples")
    agree("format", header["format"], FORMAT)
    check_keys("the header", dict.fromkeys(WORDS) | header, {*WORDS, *HEADER, *TOTALS})
    if not all(isinstance(header.get(word), str | None) for word in WORDS):
        raise Disagreement(f"the header: {', '.join(WORDS)} have to be text or null")
    for name in TOTALS:
        check_keys(name, header[name], {"count", "of", "bounds"})
    for i, line in enumerate(records):
        check_keys(f"sample {i}", line, SAMPLE)
    return header, records


class Claims:
    """The rules of a certificate, from its header, its net and the inputs that it speaks of."""

    def __init__(self, header: dict[str, Any], net: Net, inputs: list[Any]) -> None:
        method, eps, threshold = header["method"], header["eps"], header["threshold"]
        if method not in ("margin", "interval", "exact") or (method == "exact" and not net.exact):
            raise Disagreement(f"method {shown(method)} does not fit the model")
        agree("fraction_bits", header["fraction_bits"], net.fraction_bits)
        if not isinstance(eps, str) or not re.fullmatch("[0-9]{1,70}(/[0-9]{1,70})?", eps):
            raise Disagreement(
                f"eps: {shown(eps)} is no radius, which has to be a fraction of at most 70 digits a part"
            )
        self.net, self.method, self.eps, self.threshold = net, method, Fraction(eps), threshold
        domain = net.domain
        if domain.images and not 0 <= self.eps <= 1:
            raise Disagreement(f"eps: {self.eps} is no radius in pixel units from 0 to 1")
        agree("eps", eps, str(self.eps))  # in lowest terms
        agree("gray_levels", header["gray_levels"], str(WHITE * self.eps) if domain.images else None)
        self.most, magnitude = domain.reach(inputs, self.eps)
        if net.exact:  # the values of its inputs are bounded as they are
            magnitude = [max(abs(end) for side in domain.extent(inputs) for end in side)]
        self.lipschitz, self.error = net.slack(magnitude)
        self.reaches = [scale * self.eps * 2**net.grain for scale in domain.scale]
        if net.exact:  # over 2^f: an integer exceeds 2 eps where it exceeds the floor of that
            agree("threshold", threshold, math.floor(2 * self.reaches[0]))
        else:
            least = 2 * self.lipschitz * self.eps + 4 * self.error
            check_value("threshold", threshold, NUMBER)
            if not Fraction(threshold) >= least:
                raise Disagreement(f"threshold: {threshold} is below 2 L eps + 4 E = {float(least)}")

    def check_sample(self, i: int, line: dict[str, Any], levels: Any, label: int, classes: int) -> None:
        """What sample i says agrees with the data and with its logits; its gray levels are an array (c, h, w)."""
        here, exact = f"sample {i}", self.net.exact
        agree("the order of samples", line["index"], i)
        agree(f"{here}, pixels", line["pixels"], hashlib.sha256(levels.tobytes()).hexdigest())
        agree(f"{here}, label", line["label"], label)
        logits, margin, radius = line["logits"], line["margin"], line["radius"]
        if not isinstance(logits, list) or any(type(z) is not (int if exact else float) for z in logits):
            raise Disagreement(f"{here}: its logits {shown(logits)} are no list of {'integers' if exact else 'floats'}")
        agree(f"{here}, number of logits", len(logits), classes)
        if not 0 <= label < classes:
            raise Disagreement(f"{here}: its label {label} is no class of the model's")
        agree(f"{here}, prediction", line["prediction"], logits.index(max(logits)))
        lead = Fraction(logits[label]) - max(Fraction(z) for j, z in enumerate(logits) if j != label)
        agree(f"{here}, margin", margin, int(lead) if exact else float(lead))
        by_box = line["certified"] is True and margin <= self.threshold
        if by_box and (self.method == "margin" or margin <= 0):
            raise Disagreement(f"{here} is said to be certified, and its margin {margin} does not allow it")
        agree(f"{here}, certified", line["certified"], by_box or margin > self.threshold)
        if exact:  # the largest whole r with 2 r < margin, and eps where the box proved that
            found = max((int(lead) - 1) // 2, math.floor(self.reaches[0]) if by_box else 0, 0)
            largest = math.floor(self.most * self.net.domain.scale[0] * 2**self.net.grain)
            agree(f"{here}, radius", radius, min(found, largest))
            return
        check_value(f"{here}, radius", radius, NUMBER)
        proved = 0 < radius <= self.most and 2 * self.lipschitz * Fraction(radius) + 4 * self.error < lead
        if not (radius == 0 or proved or (by_box and 0 < radius <= self.eps)):
            raise Disagreement(f"{here}, radius: {radius} is not proved by a margin of {float(lead)}")

    def derive_sample(self, i: int, line: dict[str, Any], levels: Any) -> None:
        """The logits of sample i, whose line `check_sample` has accepted, and what it claims by the box."""
        here, net, label, margin = f"sample {i}", self.net, line["label"], line["margin"]
        pixels = net.numbers(levels)
        (found,) = net([pixels], levels.shape)
        scale = 1 if net.exact else 2**149
        for j, (a, b) in enumerate(zip(line["logits"], found, strict=True)):
            if Fraction(a) * scale != b:
                raise Disagreement(f"{here}, logit {j}: the certificate says {a}, and {self.show(b)} was found")
        by_box = line["certified"] and margin <= self.threshold
        could_be = net.exact and self.method != "margin" and 0 < margin <= self.threshold
        if by_box or could_be:
            agree(f"{here}, certified by the box", by_box, self.proved_by_box(pixels, levels.shape, label))

    def proved_by_box(self, pixels: Numbers, shape: Shape, label: int) -> bool:
        """Whether the label's lowest logit is above the highest of all others, over all valid inputs of the ball."""
        # of an exact net all real inputs: the ends move outward to the grid; else all float32 inputs: none lies beyond
        # the last multiples of 2^-149
        whole = math.ceil if self.net.exact else math.floor
        reaches = self.net.domain.each([whole(reach) for reach in self.reaches], len(pixels))
        least, largest = self.net.ends(1 << self.net.grain, len(pixels))
        low = [x - r if end is None else max(x - r, end) for x, r, end in zip(pixels, reaches, least, strict=True)]
        high = [x + r if end is None else min(x + r, end) for x, r, end in zip(pixels, reaches, largest, strict=True)]
        lower, upper = self.net([low, high], shape)
        return all(lower[label] > z for j, z in enumerate(upper) if j != label)

    def show(self, integer: int) -> float:
        return integer if self.net.exact else float(Fraction(integer, 2**149))


def check_totals(header: dict[str, Any], counts: dict[str, int]) -> None:
    n, confidence = header["n"], header["confidence"]
    check_value("confidence", confidence, NUMBER)
    tail = (1 - confidence) / 2
    if not 0 < tail < 0.5:
        raise Disagreement(f"confidence: {confidence} is none, it has to lie between 0 and 1")
    for name, count in counts.items():
        agree(name, header[name]["count"], count)
        agree(f"{name}, of", header[name]["of"], n)
        check_value(f"{name}, bounds", header[name]["bounds"], NUMBERS)
        lower, upper = header[name]["bounds"]
        # Clopper and Pearson: so many or more have that probability at the lower bound, so many or fewer at the upper
        right = lower == 0 if count == 0 else abs(binomial(n, range(count, n + 1), lower) / tail - 1) < 1e-6
        right &= upper == 1 if count == n else abs(binomial(n, range(count + 1), upper) / tail - 1) < 1e-6
        if not right:
            raise Disagreement(f"{name}: [{lower}, {upper}] are not the Clopper-Pearson bounds of {count} in {n}")


def binomial(n: int, ks: Iterable[int], p: float) -> float:
    if not 0 < p < 1:
        return math.nan
    chosen = math.lgamma(n + 1)
    return math.fsum(
        math.exp(chosen - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p))
        for k in ks
    )


def verify(
    certificate: str | Path,
    model: str | Path,
    images: Any,
    labels: Any,
    samples: int | None = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Check the certificate file against the model file and the data.

    images (n, c, h, w) uint8, or float32 inputs (n, ...) of a net on numbers; labels (n,) integers; `samples`: how many
    to re-derive, None for all; the operating system draws them, so that nobody can foresee which. `progress` is called
    with how many are re-derived, and of how many.

    Returns the header and two counts: `data_n`, the samples in the data, of which the certificate speaks of the first
    `n`; and `rederived`, how many of these were re-derived. Raises Disagreement where something is false, ValueError
    for `samples` below 1, OSError for files that cannot be read.
    """
    if samples is not None and not RULES[COUNT](samples):
        raise ValueError(f"samples: expected a whole number from 1 on, or None for all, got {shown(samples)}")
    images, labels = np.asarray(images), np.asarray(labels)
    try:
        header, records = read_certificate(Path(certificate).read_bytes())
        content = Path(model).read_bytes()
        agree("model", header["model"], hashlib.sha256(content).hexdigest())
        net = Net(content)
        check_data(net.domain, images, labels)
        *_, (classes,) = net.shapes(images.shape[1:])
        agree("classes", header["classes"], classes)
        n = len(records)
        agree("n", header["n"], n)
        if n > len(images):
            raise Disagreement(f"the certificate speaks of {n} samples, and the data have {len(images)}")
        claims = Claims(header, net, images[:n])
        for i, line in enumerate(records):
            claims.check_sample(i, line, images[i], int(labels[i]), classes)
        wanted = n if samples is None else min(samples, n)
        for done, i in enumerate(sorted(random.SystemRandom().sample(range(n), wanted)), 1):
            claims.derive_sample(i, records[i], images[i])
            progress(done, wanted)
        clean = sum(line["prediction"] == line["label"] for line in records)
        check_totals(header, {"clean": clean, "certified": sum(line["certified"] for line in records)})
    except FAULTS as error:
        raise Disagreement(f"the certificate or the model is not in the form described ({told(error)})") from error
    return header | {"data_n": len(images), "rederived": wanted}


def check_data(domain: Domain, inputs: Any, labels: Any) -> None:
    """Raises Disagreement unless the data are inputs of the domain's kind with a label each, all numbers finite."""
    kind, axes, dtype = ("images (n, c, h, w)", 4, np.uint8) if domain.images else ("inputs", inputs.ndim, np.float32)
    fits = inputs.dtype == dtype and labels.dtype.kind in "iu"
    if not fits or inputs.ndim != axes or axes < 2 or labels.shape != inputs.shape[:1]:
        raise Disagreement(f"the data are not {np.dtype(dtype)} {kind} with an integer label each")
    if domain.images:
        return
    if not np.isfinite(inputs).all():
        raise Disagreement("the data hold numbers that are not finite")
    for side, beyond in ((domain.lower, np.less), (domain.upper, np.greater)):
        for k, end in enumerate(side):  # bounds are float32 numbers
            numbers = inputs if len(side) == 1 else inputs.reshape(len(inputs), -1)[:, k]
            if end is not None and beyond(numbers, np.float32(float(end))).any():
                raise Disagreement("the data hold numbers that lie beyond the model's domain")


def told(error: BaseException) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or f"{type(error).__name__}: {shown(str(error))}"


# ---- The data ----------------------------------------------------------------------------------------------------


def read_data(path: str | Path) -> tuple[Any, Any]:
    """(images, labels) of an .npz file, or of a folder with official test files, plain, .gz or .xz.

    Raises Disagreement for anything else, and for more than MOST_UNPACKED bytes in a smaller, compressed file.
    """
    path = Path(path)
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                name = "images" if "images.npy" in archive.namelist() else "inputs"
                return archived(archive, name), archived(archive, "labels")
        for images, labels in MNIST:
            if (packed := find(path, images)) is not None:
                return idx(packed, 3)[:, None], idx(find(path, labels), 1)
        if (packed := find(path, "test_batch.bin")) is not None:
            records = np.frombuffer(unpacked(packed), np.uint8).reshape(-1, 3073)
            return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
    except (*FAULTS, OSError, EOFError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        raise Disagreement(f"the data are no images and labels that can be read ({told(error)})") from error
    raise Disagreement(f"{shown(str(path))}: expected an .npz file, or a folder with t10k-*-ubyte or test_batch.bin")


MNIST = [(f"t10k-images{dot}idx3-ubyte", f"t10k-labels{dot}idx1-ubyte") for dot in "-."]
OPENERS: dict[str, Callable[..., Any]] = {"": open, ".gz": gzip.open, ".xz": lzma.open}


def find(folder: Path, name: str) -> tuple[Path, Callable[..., Any]] | None:
    """The file of that name in the folder, plain or compressed, and what opens it."""
    for ending, opener in OPENERS.items():
        if (path := folder / f"{name}{ending}").is_file():
            return path, opener
    return None


def room(path: Path) -> int:
    return max(MOST_UNPACKED, path.stat().st_size)


def unpacked(packed: tuple[Path, Callable[..., Any]]) -> bytes:
    """The content of a file; no more than there is room for is ever in memory."""
    path, opener = packed
    with opener(path, "rb") as file:
        content = bytes(file.read(room(path) + 1))
    if len(content) > room(path):
        raise ValueError(f"it unpacks to more than {room(path)} bytes")
    return content


def idx(packed: tuple[Path, Callable[..., Any]] | None, axes: int) -> Any:
    """The uint8 array of an idx file: big-endian 32-bit 0x800 + axes and sizes, then one byte an element."""
    if packed is None:
        raise ValueError("there is no file of labels beside the images")
    content, begin = unpacked(packed), 4 + 4 * axes
    magic, *shape = np.frombuffer(content[:begin], ">u4").tolist()
    if magic != 0x800 + axes or len(shape) != axes or begin + math.prod(shape) != len(content):
        raise ValueError(f"an idx file of {len(content)} bytes has the header {[magic, *shape]}")
    return np.frombuffer(content, np.uint8, offset=begin).reshape(shape)


def archived(archive: zipfile.ZipFile, name: str) -> Any:
    """The array of that name in an .npz file."""
    member = archive.getinfo(f"{name}.npy")
    most = room(Path(str(archive.filename)))
    if member.file_size > most:
        raise ValueError(f"{name} unpack to {member.file_size} bytes, more than {most}")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # which unpack without bound
        raise ValueError(f"{name} are compressed in an unusual way")
    with archive.open(member) as file:
        content = io.BytesIO(file.read(member.file_size + 1))  # read() would unpack more than is declared
    version = np.lib.format.read_magic(content)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read_header(content)
    data = content.getbuffer()[content.tell() :]
    if math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"{name} of shape {shown(shape)} have {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if by_columns else "C")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("certificate")
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--samples", type=int, help="how many to re-derive, drawn at random (default: all)")
    options = parser.parse_args()
    if options.samples is not None and options.samples < 1:
        parser.error("--samples: expected at least 1")
    line_is_open = False

    def tell(done: int, of: int) -> None:
        nonlocal line_is_open
        if sys.stderr.isatty():
            line_is_open = done < of
            print(f"\r{done} of {of} samples re-derived", end="" if line_is_open else "\n", file=sys.stderr)

    try:
        images, labels = read_data(options.data)
        header = verify(options.certificate, options.model, images, labels, options.samples, tell)
    except (Disagreement, OSError) as error:
        reason = str(error)
        if isinstance(error, OSError) and error.filename:
            reason = f"{ascii(str(error.filename))[1:-1]}: {told(error)}"
        if line_is_open:
            print(file=sys.stderr)
        print(f"Not verified: {reason}.", file=sys.stderr)
        return 2
    n, data_n, eps = header["n"], header["data_n"], Fraction(header["eps"])
    print(f"Verified: {header['certified']['count']} of {n} samples certified at eps = {eps}.")
    if header["rederived"] < n:
        print(f"Only {header['rederived']} of them were re-derived; of the others, logits and boxes are believed.")
    if n < data_n:
        print(f"The certificate speaks of the first {n} of the {data_n} samples in the data.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

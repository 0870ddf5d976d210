"""Re-derive a certificate file, trusting nothing of the engine that wrote it.

    python verify.py CERTIFICATE MODEL DATA [--samples N]

This file imports the standard library, and NumPy to read arrays.  Every number of the net is an integer here: over 2^f
for an exact net with f fraction bits, over 2^149 for a float32 net, since every float32 number is a multiple of 2^-149.
Python's integers have no size and never round.  Where the float32 program rounds, `nearest` does the same to the bit:
rounding is monotone, so the maximum of rounded numbers is the rounded maximum, and one rounding a neuron is enough.

What is checked, the first disagreement being reported:

    the seal        the last line is the SHA-256 of all bytes above it
    the header      format, digest of the model file, ε, and the threshold: margin > threshold must imply the claim
    every sample    digest of its pixels and label against DATA; prediction, margin, verdict and radius follow from its
                    logits by the rules of its method
    N samples       (all, if not told otherwise; drawn at random if so) the logits themselves, and where the claim
                    rests on the clipped box, the bounds over it
    the totals      counts, and their Clopper–Pearson bounds against the binomial distribution

DATA is an .npz file with `images` (n, c, h, w) uint8 and `labels` (n,), or a folder with the official MNIST-like or
binary CIFAR-10 test files.  Exit status: 0 verified, 2 not.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import lzma
import math
import random
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable
from fractions import Fraction
from operator import sub
from pathlib import Path
from typing import Any

import numpy as np

Numbers = list[int]
Layer = dict[str, Any]

FORMAT, MODEL_FORMAT = "linfengine-certificate-1", "linfengine-1"
KINDS = {"Normalize", "CenterCrop", "MeanShift", "Flatten", "ReLU", "Negate", "LinfDistDense", "LinfDistConv2d"}
KEYS = {"index", "pixels", "label", "prediction", "logits", "margin", "radius", "certified"}
WHITE = 255
UNIT = Fraction(1, 2**24)  # a float32 result is off by at most this fraction of itself,
TINY = Fraction(1, 2**126)  # or, near zero, by less than this


FAULTS = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError, RecursionError, MemoryError)


class Disagreement(Exception):
    """One sentence: what the certificate says, and what was found."""


def agree(what: str, said: Any, found: Any) -> None:
    if type(said) is not type(found) or said != found:
        raise Disagreement(f"{what}: the certificate says {said}, and {found} was found")


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
        raise Disagreement("the net's values overflow float32: nothing can be certified")
    return (quotient if numerator > 0 else -quotient) << bits


class Net:
    """A model file as integers over 2^grain, evaluated as its layers say."""

    def __init__(self, content: bytes) -> None:
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        metadata = header.pop("__metadata__")
        if metadata["format"] != MODEL_FORMAT:
            raise Disagreement(f"the model is of format {metadata['format']!r}, this checker knows {MODEL_FORMAT}")
        if metadata["p"] != "inf":
            raise Disagreement(f"the model is at p = {metadata['p']}: only p = inf can be certified")
        tensors = {}
        for name, entry in header.items():
            if entry["dtype"] != "F32":
                raise Disagreement(f"{name} of the model is {entry['dtype']}, not F32")
            begin, end = entry["data_offsets"]
            array = np.frombuffer(content[8 + length + begin : 8 + length + end], "<f4")
            tensors[name] = array.reshape(entry["shape"]).tolist()
        config = json.loads(metadata["config"])
        self.exact = config["layer"] == "ExactNet"
        self.fraction_bits = config["fraction_bits"] if self.exact else None
        if self.exact and self.fraction_bits not in range(24):
            raise Disagreement(f"the model has {self.fraction_bits} fraction bits, which float32 has no room for")
        self.grain: int = config["fraction_bits"] if self.exact else 149
        self.round: Callable[..., int] = (lambda number, divisor=1: number // divisor) if self.exact else nearest
        self.layers: list[Layer] = []
        for i, layer in enumerate(expanded(config)):
            if layer["layer"] not in KINDS:
                raise Disagreement(f"this checker has no rule for a {layer['layer']} layer")
            for part in parts_of(layer):
                layer[part] = self.integers(tensors.pop(f"{i}.{part}"))
            if layer["layer"] == "Normalize":
                layer["mean"], layer["std"] = (
                    self.integers(np.float32(layer[part]).tolist()) for part in ("mean", "std")
                )
                if layer["std"] <= 0 or (self.exact and layer["std"] != 1 << self.grain):
                    std, kind = Fraction(layer["std"], 1 << self.grain), "exact" if self.exact else "certified"
                    raise Disagreement(f"the model divides by {std}, which no {kind} net does")
            self.layers.append(layer)
        if tensors:
            raise Disagreement(f"the model holds {', '.join(tensors)}, which its description does not name")

    def integers(self, numbers: Any) -> Any:
        if isinstance(numbers, list):
            return [self.integers(each) for each in numbers]
        numerator, denominator = numbers.as_integer_ratio()  # refuses NaN and infinity
        integer, rest = divmod(numerator << self.grain, denominator)
        if rest:
            raise Disagreement(f"{numbers} is no multiple of 2^-{self.grain}, as all numbers of the model have to be")
        return integer

    def pixel(self, level: int) -> int:
        """A gray level 0..255 as the net takes it: itself, or level/255 in float32."""
        return level << self.grain if self.exact else nearest(level << self.grain, WHITE)

    def __call__(self, ends: list[Numbers], shape: tuple[int, ...]) -> list[Numbers]:
        """Logits of a point, ends = [x]; or their bounds over a box, ends = [lower, upper]; x flat, of that shape."""
        for layer in self.layers:
            kind = layer["layer"]
            if kind == "Normalize":
                means = spread(layer["mean"], len(ends[0]))
                ends = [[self.round(v - m) for v, m in zip(end, means, strict=True)] for end in ends]
                std = layer["std"]
                ends = [[self.round(v << self.grain, std) for v in end] for end in ends]
            elif kind == "MeanShift":
                means = spread(layer["running_mean"], len(ends[0]))
                ends = [[self.round(v - m) for v, m in zip(end, means, strict=True)] for end in ends]
            elif kind == "CenterCrop":
                chosen, shape = middle(layer["size"], shape)
                ends = [[end[i] for i in chosen] for end in ends]
            elif kind == "ReLU":
                ends = [[max(v, 0) for v in end] for end in ends]
            elif kind == "Negate":
                ends = [[-v for v in end] for end in reversed(ends)]
            elif kind == "LinfDistDense":
                ends = self.neurons(layer, [[end] for end in ends])
                shape = (len(ends[0]),)
            elif kind == "LinfDistConv2d":
                where, height, width = patches(layer, shape)
                ends = self.neurons(layer, [[[end[i] if i >= 0 else 0 for i in at] for at in where] for end in ends])
                shape = (len(layer["weight"]), height, width)
        return ends

    def neurons(self, layer: Layer, ends: list[list[Numbers]]) -> list[Numbers]:
        """max_k |x_k - w_k| + b of every output at every position, output by output; ends of inputs per position."""
        weights, groups = layer["weight"], layer["groups"]
        k, outputs = len(weights[0]), len(weights)
        if any(len(x) != groups * k for end in ends for x in end) or outputs % groups:
            raise Disagreement(f"a layer of {groups} groups with {k} inputs each does not fit what it is given")
        if isinstance(layer["bias"], list) and len(layer["bias"]) != outputs:
            raise Disagreement(f"a layer of {outputs} outputs has {len(layer['bias'])} biases")
        results: list[Numbers] = [[] for _ in ends]
        for o, w in enumerate(weights):
            begin = o * groups // outputs * k
            for place in zip(*ends, strict=True):
                inputs = [x[begin : begin + k] if groups > 1 else x for x in place]
                if len(inputs) == 1:
                    found = [max(map(abs, map(sub, inputs[0], w)))]
                else:  # for l <= x <= u: x - w >= l - w, w - x >= w - u, |x - w| <= max(u - w, w - l)
                    low, high = inputs
                    found = [
                        max(0, max(map(sub, low, w)), max(map(sub, w, high))),
                        max(max(map(sub, high, w)), max(map(sub, w, low))),
                    ]
                for result, y in zip(results, found, strict=True):
                    y = self.round(y)
                    result.append(self.round(y + layer["bias"][o]) if isinstance(layer["bias"], list) else y)
        return results

    def slack(self) -> tuple[Fraction, Fraction]:
        """(L, E): every logit is L-Lipschitz in the pixels, and computed within E of its exact value, as Fractions.

        A rounded result is off by UNIT of itself, and one that a GPU may take for 0 by TINY; an error passes a distance
        layer at its own size and adds to the next one's.  An exact net has no error as long as float32 holds its
        values, multiples of 2^-f below 2^(24-f).
        """
        unit, tiny = (Fraction(0), Fraction(0)) if self.exact else (UNIT, TINY)
        lipschitz, error, own = Fraction(1), Fraction(0), Fraction(0)
        size = Fraction(WHITE if self.exact else 2)  # pixels up to 1 or 255; a float32 ball may reach to 2
        for layer in self.layers:
            size += error
            own = Fraction(0)
            if layer["layer"] == "Normalize":
                std = Fraction(layer["std"], 2**self.grain)
                size = (size + self.largest(layer["mean"])) / std
                own, lipschitz, error = 3 * unit * size + tiny, lipschitz / std, error / std
            elif layer["layer"] == "MeanShift":
                size += self.largest(layer["running_mean"])
                own = unit * size + tiny
            elif layer["layer"] in ("Negate", "ReLU"):
                own = tiny
            elif "weight" in layer:
                size += self.largest(layer["weight"])
                own = unit * size
                if isinstance(layer["bias"], list):
                    size += self.largest(layer["bias"])
                    own += unit * size * (1 + unit) + tiny
            error, size = error + own, size + own
        if self.exact and size >= Fraction(2) ** (24 - self.grain):
            raise Disagreement(f"the model's values may reach {float(size)}, and float32 cannot hold those exactly")
        return lipschitz, error

    def largest(self, numbers: Any) -> Fraction:
        if isinstance(numbers, list):
            return max(map(self.largest, numbers))
        return Fraction(abs(numbers), 2**self.grain)


def middle(size: int, shape: tuple[int, ...]) -> tuple[list[int], tuple[int, ...]]:
    """The places of the middle size x size window of flat images (channels, height, width), and its shape."""
    channels, height, width = shape
    if not 1 <= size <= min(height, width):
        raise Disagreement(f"a window of {size} x {size} does not fit images of {height} x {width}")
    top, left = (height - size) // 2, (width - size) // 2
    rows, columns = range(top, top + size), range(left, left + size)
    places = [(c * height + i) * width + j for c in range(channels) for i in rows for j in columns]
    return places, (channels, size, size)


def expanded(config: dict[str, Any]) -> list[Layer]:
    """The layers of a net's description."""
    if config["layer"] in ("Sequential", "ExactNet"):
        return config["layers"]
    if config["layer"] not in ("LinfDistNet", "LinfDistConvNet") or config.get("head"):
        raise Disagreement(
            f"this checker has no rule for a {config['layer']}{' with a head' * bool(config.get('head'))}"
        )
    layers: list[Layer] = [{"layer": "Normalize", "mean": config["mean"], "std": config["std"]}]
    if config.get("crop"):
        layers.append({"layer": "CenterCrop", "size": config["crop"]})
    shift = [{"layer": "MeanShift"}] * config["mean_shift"]
    dense = {"layer": "LinfDistDense", "groups": 1, "bias": False}
    if config["layer"] == "LinfDistNet":
        layers.append({"layer": "Flatten"})
        for _ in range(config["depth"] - 1):
            layers += [dense, *shift]
    else:
        conv = {"layer": "LinfDistConv2d", "kernel_size": 3, "padding": 1, "groups": 1, "bias": False}
        for stride in (1, 1, 2, 1, 1):
            layers += [conv | {"stride": stride}, *shift]
        layers += [{"layer": "Flatten"}, dense, *shift]
    return [*map(dict, layers), dense | {"bias": True}, {"layer": "Negate"}]


def parts_of(layer: Layer) -> list[str]:
    """The names of a layer's arrays in the model file."""
    if layer["layer"] == "MeanShift":
        return ["running_mean"]
    if layer["layer"] not in ("LinfDistDense", "LinfDistConv2d"):
        return []
    return ["weight", "bias"] if layer["bias"] else ["weight"]


def spread(channels: Numbers, count: int) -> Numbers:
    """One number a channel, repeated for each of its pixels."""
    return [number for number in channels for _ in range(count // len(channels))]


def patches(layer: Layer, shape: tuple[int, ...]) -> tuple[list[Numbers], int, int]:
    """(indices into the flat image of each patch, -1 in the padding; height; width)."""
    channels, rows, columns = shape
    size, stride, pad = layer["kernel_size"], layer["stride"], layer["padding"]
    height, width = (rows + 2 * pad - size) // stride + 1, (columns + 2 * pad - size) // stride + 1

    def index(c: int, i: int, j: int) -> int:
        return (c * rows + i) * columns + j if 0 <= i < rows and 0 <= j < columns else -1

    square = [(c, i, j) for c in range(channels) for i in range(size) for j in range(size)]
    places = [(i * stride - pad, j * stride - pad) for i in range(height) for j in range(width)]
    return [[index(c, top + i, left + j) for c, i, j in square] for top, left in places], height, width


# ---- The claims --------------------------------------------------------------------------------------------------


class Claims:
    """The rules of a certificate, from its header and its net."""

    def __init__(self, header: dict[str, Any], net: Net) -> None:
        agree("format", header["format"], FORMAT)
        if header["method"] not in ("margin", "interval", "exact") or (header["method"] == "exact" and not net.exact):
            raise Disagreement(f"method {header['method']!r} does not fit the model")
        agree("fraction_bits", header["fraction_bits"], net.fraction_bits)
        for name in ("eps", "gray_levels"):
            if not re.fullmatch(r"\d{1,70}(/\d{1,70})?", header[name]):
                raise Disagreement(f"{name}: {header[name]} is no radius, which has to be a fraction")
        self.header, self.net, self.eps = header, net, Fraction(header["eps"])
        if not 0 <= self.eps <= 1:
            raise Disagreement(f"eps: {self.eps} is no radius in pixel units from 0 to 1")
        agree("gray_levels", header["gray_levels"], str(WHITE * self.eps))
        self.threshold = header["threshold"]
        self.lipschitz, self.error = net.slack()
        if net.exact:  # over 2^f: an integer exceeds 2 eps where it exceeds the floor of that
            self.reach = WHITE * self.eps * 2**net.grain
            agree("threshold", self.threshold, math.floor(2 * self.reach))
        else:
            self.reach = self.eps * 2**net.grain
            least = 2 * self.lipschitz * self.eps + 4 * self.error
            if type(self.threshold) is not float or not Fraction(self.threshold) >= least:
                raise Disagreement(f"threshold: {self.threshold} is below 2 L eps + 4 E = {float(least)}")

    def sample(self, line: dict[str, Any], levels: Any, label: int, rederive: bool) -> None:
        """Check the claims on one sample, whose gray levels are an array (c, h, w)."""
        here = f"sample {line['index']}"
        agree(f"{here}, what it says", sorted(line), sorted(KEYS))
        agree(f"{here}, pixels", line["pixels"], hashlib.sha256(levels.tobytes()).hexdigest())
        agree(f"{here}, label", line["label"], int(label))
        logits, margin, radius = line["logits"], line["margin"], line["radius"]
        agree(f"{here}, number of logits", len(logits), self.header["classes"])
        if not 0 <= label < len(logits):
            raise Disagreement(f"{here}: its label {label} is no class of the model's")
        agree(f"{here}, prediction", line["prediction"], logits.index(max(logits)))
        lead = Fraction(logits[label]) - max(Fraction(z) for j, z in enumerate(logits) if j != label)
        agree(f"{here}, margin", margin, int(lead) if self.net.exact else float(lead))
        by_margin = margin > self.threshold
        by_box = line["certified"] is True and not by_margin
        if by_box and (self.header["method"] == "margin" or margin <= 0):
            raise Disagreement(f"{here} is said to be certified, and its margin {margin} does not allow it")
        agree(f"{here}, certified", line["certified"], by_margin or by_box)
        self.check_radius(here, lead, radius, by_box)
        if not rederive:
            return
        pixels = [self.net.pixel(level) for level in levels.ravel().tolist()]
        found = self.net([pixels], levels.shape)[0]
        said = logits if self.net.exact else self.net.integers(logits)
        for j, (a, b) in enumerate(zip(said, found, strict=True)):
            if a != b:
                raise Disagreement(f"{here}, logit {j}: the certificate says {logits[j]}, and {self.show(b)} was found")
        if self.header["method"] != "margin" and not by_margin and margin > 0 and (by_box or self.net.exact):
            agree(f"{here}, certified by the box", by_box, self.proved_by_box(pixels, levels.shape, label))

    def check_radius(self, here: str, lead: Fraction, radius: float, by_box: bool) -> None:
        if self.net.exact:  # the largest whole r with 2 r < margin, and eps where the box proved that
            found = (int(lead) - 1) // 2 if lead > 0 else 0
            found = max(found, math.floor(self.reach)) if by_box else found
            agree(f"{here}, radius", radius, min(found, WHITE << self.net.grain))
            return
        proved = 0 < radius <= 1 and 2 * self.lipschitz * Fraction(radius) + 4 * self.error < lead
        if not (radius == 0 or proved or (by_box and 0 < radius <= self.eps)):
            raise Disagreement(f"{here}, radius: {radius} is not proved by a margin of {float(lead)}")

    def proved_by_box(self, pixels: Numbers, shape: tuple[int, ...], label: int) -> bool:
        """Whether the label's lowest logit is above the highest of all others, over all valid images of the ball."""
        white = self.net.pixel(WHITE)
        if self.net.exact:  # all real images: the ends move outward to the grid
            low, high = -math.ceil(self.reach), math.ceil(self.reach)
        else:  # all float32 images: none lies beyond the last multiples of 2^-149
            low, high = math.ceil(-self.reach), math.floor(self.reach)
        lower, upper = self.net([[max(x + low, 0) for x in pixels], [min(x + high, white) for x in pixels]], shape)
        return all(lower[label] > z for j, z in enumerate(upper) if j != label)

    def show(self, integer: int) -> float:
        return integer if self.net.exact else float(Fraction(integer, 2**149))


def check_totals(header: dict[str, Any], counts: dict[str, int]) -> None:
    n, tail = header["n"], (1 - header["confidence"]) / 2
    if not 0 < tail < 0.5:
        raise Disagreement(f"confidence: {header['confidence']} is none, it has to lie between 0 and 1")
    for name, count in counts.items():
        agree(name, header[name]["count"], count)
        agree(f"{name}, of", header[name]["of"], n)
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
    """Check the certificate file against the model file and the data; returns its header.

    images (n, c, h, w) uint8; `samples`: how many to re-derive, None for all; the operating system draws them, so that
    nobody can foresee which.  Raises Disagreement.
    """
    content = Path(certificate).read_bytes()
    body, _, seal = content.removesuffix(b"\n").rpartition(b"\n")
    digest = hashlib.sha256(body + b"\n").hexdigest()
    if content != body + b"\n" + json.dumps({"sha256": digest}).encode() + b"\n":
        raise Disagreement(f"{certificate}: cut short or edited, for its last line is not the SHA-256 of all above it")
    try:
        header, *records = (json.loads(line, object_pairs_hook=unique) for line in body.decode().split("\n"))
        agree("format", header["format"], FORMAT)
        raw = Path(model).read_bytes()
        agree("model", header["model"], hashlib.sha256(raw).hexdigest())
        claims = Claims(header, Net(raw))
        agree("n", header["n"], len(records))
        if images.dtype != np.uint8 or images.ndim != 4 or len(labels) != len(images):
            raise Disagreement("the data are not uint8 images (n, c, h, w) with their labels")
        if not records or (samples is not None and samples < 1):
            raise Disagreement(f"there is nothing to re-derive among {len(records)} samples ({samples} asked for)")
        wanted = len(records) if samples is None else min(samples, len(records))
        chosen, done = set(random.SystemRandom().sample(range(len(records)), wanted)), 0
        for i, line in enumerate(records):
            agree("the order of samples", line["index"], i)
            if i >= len(images):
                raise Disagreement(f"sample {i} is not in the data, which have {len(images)}")
            claims.sample(line, images[i], labels[i], rederive=i in chosen)
            if i in chosen:
                done += 1
                progress(done, wanted)
        clean = sum(line["prediction"] == line["label"] for line in records)
        check_totals(header, {"clean": clean, "certified": sum(line["certified"] for line in records)})
    except FAULTS as error:
        found = f"{type(error).__name__} {error}".rstrip(".")
        raise Disagreement(f"{certificate} or {model} is not in the form described: {found}") from error
    return header


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which another reader cannot see another value under the same name."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return dict(pairs)


def read_data(path: str | Path) -> tuple[Any, Any]:
    """(images, labels) of an .npz file, or of a folder with official test files, plain, .gz or .xz."""
    try:
        return opened_data(Path(path))
    except (*FAULTS, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
        found = f"{type(error).__name__} {error}".rstrip(".")
        raise Disagreement(f"{path}: expected images and labels, which could not be read ({found})") from error


def opened_data(path: Path) -> tuple[Any, Any]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return arrays["images"], arrays["labels"]

    def content(name: str) -> Any:
        for ending, opened in (("", open), (".gz", gzip.open), (".xz", lzma.open)):
            if (path / (name + ending)).is_file():
                with opened(path / (name + ending), "rb") as file:
                    return np.frombuffer(file.read(), np.uint8)
        return None

    if (images := content("t10k-images-idx3-ubyte")) is not None:
        n, rows, columns = images[4:16].view(">u4").tolist()
        return images[16:].reshape(n, 1, rows, columns), content("t10k-labels-idx1-ubyte")[8:]
    if (records := content("test_batch.bin")) is not None:
        records = records.reshape(-1, 3073)
        return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]
    raise Disagreement(f"{path}: expected an .npz file, or a folder with t10k-*-ubyte or test_batch.bin files")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("certificate")
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--samples", type=int, help="how many to re-derive, drawn at random (default: all)")
    options = parser.parse_args()
    try:
        images, labels = read_data(options.data)
        header = verify(
            options.certificate, options.model, images, labels, options.samples,
            lambda done, of: print(f"\r{done} of {of} samples re-derived", end="", file=sys.stderr),
        )  # fmt: skip
    except (Disagreement, OSError) as error:
        print(f"\nNot verified: {error}.", file=sys.stderr)
        return 2
    print(f"\nVerified: {header['certified']['count']} of {header['n']} samples certified at eps = {header['eps']}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

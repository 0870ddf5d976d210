"""Read model files of format 1, which named a net and its settings, as format 2, a flat list of layers.

LinfDistNet, LinfDistConvNet   the nets of `layers.linf_net` and `layers.conv_net`
ExactNet                       a list of layers with fraction_bits, over gray levels
Sequential                     a list of layers
"""

from __future__ import annotations

from typing import Any

from .layers.module import size_in

FORMAT_1 = "linfengine-1"


def upgraded(config: dict[str, Any], arrays: int) -> dict[str, Any]:
    """The description of the same net in format 2; `arrays` is the number of arrays in the file.

    Raises ValueError for invalid sizes or more layers than arrays; KeyError for a missing setting.
    """
    match config["layer"]:
        case "LinfDistNet" | "LinfDistConvNet":
            return _flat(config, arrays)
        case "ExactNet":
            domain = {"inputs": "gray levels", "shape": config.get("shape"), "fraction_bits": config["fraction_bits"]}
            return {"layer": "Sequential", "domain": domain, "layers": config["layers"]}
    return config


def _flat(config: dict[str, Any], arrays: int) -> dict[str, Any]:
    known = {"layer", "shape", "classes", "crop", "head", "width", "mean_shift", "mean", "std"}
    known |= {"depth"} if config["layer"] == "LinfDistNet" else {"channels"}
    if odd := config.keys() - known:
        raise ValueError(f"the description of a {config['layer']} layer does not fit: it has the key {min(odd)!r}")
    shape, crop, head, width = config["shape"], size_in(config, "crop", 0), size_in(config, "head", 0), config["width"]
    if not isinstance(shape, list) or len(shape) != 3 or any(type(each) is not int or each < 1 for each in shape):
        raise ValueError(f"shape must be three positive numbers, got {shape!r:.40}")
    if len(config["mean"]) not in (1, shape[0]):
        raise ValueError(f"expected a mean for each of {shape[0]} channels, got {len(config['mean'])}")
    layers: list[dict[str, Any]] = [{"layer": "Normalize", "mean": config["mean"], "std": config["std"]}]
    if crop:
        layers.append({"layer": "CenterCrop", "size": crop})
    channels, rows, columns = (shape[0], crop, crop) if crop else shape

    def hidden(layer: dict[str, Any], outputs: int) -> list[dict[str, Any]]:
        return [layer, {"layer": "MeanShift", "channels": outputs}] if config.get("mean_shift", True) else [layer]

    if config["layer"] == "LinfDistNet":
        depth = size_in(config, "depth")
        if depth > arrays:
            raise ValueError(f"depth {depth:.4g} is more than the {arrays} tensors in the file")
        dense_layers = depth if head else depth - 1
    else:
        for stride, times in ((1, 1), (1, 1), (2, 2), (1, 2), (1, 2)):
            outputs = times * size_in(config, "channels")
            conv = {"in_channels": channels, "out_channels": outputs, "kernel_size": 3, "stride": stride, "padding": 1}
            layers += hidden({"layer": "LinfDistConv2d", **conv}, outputs)
            channels, rows, columns = outputs, (rows - 1) // stride + 1, (columns - 1) // stride + 1
        dense_layers = 1
    layers.append({"layer": "Flatten"})
    features = channels * rows * columns
    for _ in range(dense_layers):
        layers += hidden({"layer": "LinfDistDense", "in_features": features, "out_features": width}, width)
        features = width
    layers += _end(features, head, config["classes"])
    return {
        "layer": "Sequential",
        "domain": {"inputs": "pixels", "shape": shape, "window": crop},
        "layers": layers,
    }


def _end(features: int, head: int, classes: int) -> list[dict[str, Any]]:
    if head:
        first = {"layer": "Dense", "in_features": features, "out_features": head}
        return [first, {"layer": "Tanh"}, {"layer": "Dense", "in_features": head, "out_features": classes}]
    last = {"layer": "LinfDistDense", "in_features": features, "out_features": classes, "bias": True}
    return [last, {"layer": "Negate"}]

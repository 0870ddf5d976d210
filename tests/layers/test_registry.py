"""The registry of layer kinds: what is true of a class is told by the class, and holds."""

from collections.abc import Callable

import numpy as np
import pytest
from support.op_cases import Array

from linfengine import verify
from linfengine.domain import Domain
from linfengine.errors import UserError
from linfengine.exact import ExactNet
from linfengine.layers import (
    KINDS,
    CenterCrop,
    Dense,
    DistanceLayer,
    Flatten,
    LinfDistConv2d,
    LinfDistDense,
    MeanShift,
    Module,
    Negate,
    Normalize,
    ReLU,
    Sequential,
    Tanh,
    build,
    kind_of,
)

ONE_OF_EACH: dict[str, Callable[[], Module]] = {
    "Normalize": lambda: Normalize((0.5,), 1.0),
    "CenterCrop": lambda: CenterCrop(2),
    "Flatten": Flatten,
    "Negate": Negate,
    "ReLU": ReLU,
    "Tanh": Tanh,
    "MeanShift": lambda: MeanShift(2),
    "Dense": lambda: Dense(3, 2),
    "LinfDistDense": lambda: LinfDistDense(3, 2),
    "LinfDistConv2d": lambda: LinfDistConv2d(2, 2, 2),
    "Sequential": lambda: Sequential(Negate()),
}


def names(key: str) -> set[str]:
    return {name for name, kind in KINDS.items() if getattr(kind, key)}


def test_every_kind_is_here() -> None:
    assert KINDS.keys() == ONE_OF_EACH.keys()
    assert all(kind_of(make()) is KINDS[name] for name, make in ONE_OF_EACH.items())


def test_checkable_layers_are_those_that_the_checker_has_rules_for() -> None:
    assert names("checkable") == verify.LAYERS.keys()


def test_prunable_layers_are_those_that_take_a_maximum() -> None:
    assert names("prunable") == {name for name, kind in KINDS.items() if issubclass(kind.layer, DistanceLayer)}


def test_all_layers_can_be_exported() -> None:
    assert names("exportable") == KINDS.keys()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_exact_layer_never_leaves_the_grid(name: str) -> None:
    """Of numbers on the grid 2^-6 and below 2^8 it makes numbers on that grid; other layers leave it."""
    rng, layer = np.random.default_rng(0), ONE_OF_EACH[name]()

    def on_grid(shape: tuple[int, ...]) -> Array:
        return np.rint(rng.uniform(-255, 255, shape) * 64).astype(np.float32) / np.float32(64)

    for array in layer.state().values():
        array[...] = on_grid(array.shape)
    x = on_grid((4, 3) if isinstance(layer, Dense | LinfDistDense) else (4, 2, 3, 3))
    y = layer.eval()(x).numpy().astype(np.float64)
    stays = bool((y * 64 == np.rint(y * 64)).all())
    assert stays == (KINDS[name].exact or name == "Sequential")


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_what_is_true_of_a_class_is_not_of_its_subclasses(name: str) -> None:
    layer = ONE_OF_EACH[name]()
    layer.__class__ = type(name, (type(layer),), {})  # even of one that has its name
    kind = kind_of(layer)
    assert not any((kind.exact, kind.checkable, kind.prunable, kind.exportable))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_exact_net_is_made_of_exact_layers(name: str) -> None:
    layer = ONE_OF_EACH[name]()
    for array in layer.state().values():
        array[...] = 0
    net = ExactNet(layer, domain=Domain.gray_levels(4))
    if KINDS[name].exact:
        net.check()
    else:
        with pytest.raises(UserError, match="may round"):
            net.check()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_kind_comes_back_from_its_description(name: str) -> None:
    layer = ONE_OF_EACH[name]()
    assert type(build(layer.config())) is type(layer)
    assert KINDS[name].layer.numbers_in(layer.config()) == sum(
        array.size for key, array in layer.state().items() if not key.endswith("bias")
    )

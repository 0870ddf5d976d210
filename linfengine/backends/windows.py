"""Sliding windows over images, as views: what crops and patches are cut from."""

from __future__ import annotations

from typing import cast

from . import Array, backend_of


def windows_of(images: Array, size: tuple[int, int]) -> Array:
    """Every window of images (n, c, h, w), as a view: y[n, c, i, j, a, b] = images[n, c, i + a, j + b].

    NumPy has sliding_window_view for it; CuPy's function of that name waits for the GPU.
    """
    (n, c, h, w), (height, width) = images.shape, size
    shape = n, c, h - height + 1, w - width + 1, height, width
    strides = *images.strides, *images.strides[2:]
    return cast(Array, backend_of(images).xp.lib.stride_tricks.as_strided(images, shape=shape, strides=strides))

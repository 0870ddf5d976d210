"""Data sets, held-out splits, augmentation, minibatches and toy problems.

Images are uint8 (n, channels, height, width) with values 0..255, labels int64 (n,). A pixel p enters a net as p / 255
(`to_pixels`); means, standard deviations and radii are in these units. A new data set is one entry in `DATASETS`.
"""

from .arrays import Contents, Floats, Images, Labels
from .augment import Augment, batches, random_crop, random_flip, to_pixels
from .load import Dataset, load_dataset
from .pickles import read_cifar_pickle
from .readers import read_cifar_binary, read_idx, read_idx_pair, read_jpegs, read_tiny_imagenet
from .sources import DATASETS, Layout, Source
from .splits import split_holdout
from .toy import toy_checkerboard, toy_moons

__all__ = [
    "DATASETS",
    "Augment",
    "Contents",
    "Dataset",
    "Floats",
    "Images",
    "Labels",
    "Layout",
    "Source",
    "batches",
    "load_dataset",
    "random_crop",
    "random_flip",
    "read_cifar_binary",
    "read_cifar_pickle",
    "read_idx",
    "read_idx_pair",
    "read_jpegs",
    "read_tiny_imagenet",
    "split_holdout",
    "to_pixels",
    "toy_checkerboard",
    "toy_moons",
]

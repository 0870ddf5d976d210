"""What is known of each data set before it is read: sizes, names, folders, addresses."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .pickles import read_cifar_pickle
from .readers import read_cifar_binary, read_idx_pair, read_tiny_imagenet


class Layout(NamedTuple):
    """One published form: the reader, and the groups of files it takes, one a call; the last group is the test set.

    After the files, the reader is given the shape (n, channels, height, width) of the images it must find in them. The
    reader of a single group reads the whole data set, and is given the `Source`, before the files, instead.
    """

    read: Callable[..., Any]
    groups: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read.

    `classes` is their number, `names` are theirs unless a file tells them; `shape` is one image's, `sizes` the
    numbers of train and test images; `folders` are searched under each root; `url` and a key of `sha256` make the
    address of a published file. Without layouts, it comes with the package.
    """

    classes: int
    shape: tuple[int, int, int]
    sizes: tuple[int, int]
    mean: tuple[float, ...]
    std: float
    url: str
    names: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    layouts: tuple[Layout, ...] = ()
    sha256: dict[str, str] = field(default_factory=dict)


_DIGITS = tuple("0123456789")
_CLOTHES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
_THINGS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_IDX = Layout(read_idx_pair, tuple((f"{s}-images-idx3-ubyte", f"{s}-labels-idx1-ubyte") for s in ("train", "t10k")))
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_CIFAR_BINARY = Layout(read_cifar_binary, tuple((f"{batch}.bin",) for batch in _BATCHES))
_CIFAR_PICKLE = Layout(read_cifar_pickle, tuple((batch,) for batch in _BATCHES))
_TINY_IMAGENET = Layout(read_tiny_imagenet, (("wnids.txt", "words.txt", "val/val_annotations.txt"),))

# Mean and scalar standard deviation are those of the published ℓ∞-dist recipes; for digits, of the train pixels.
DATASETS = {
    "digits": Source(
        classes=10,
        shape=(1, 8, 8),
        sizes=(1437, 360),
        mean=(0.3053,),
        std=0.3757,
        url="https://archive.ics.uci.edu/dataset/80",
        names=_DIGITS,
    ),
    "mnist": Source(
        classes=10,
        shape=(1, 28, 28),
        sizes=(60_000, 10_000),
        mean=(0.1307,),
        std=0.3081,
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        names=_DIGITS,
        folders=("mnist", "MNIST/raw"),
        layouts=(_IDX,),
        sha256={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion-mnist": Source(
        classes=10,
        shape=(1, 28, 28),
        sizes=(60_000, 10_000),
        mean=(0.2860,),
        std=0.3520,
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        names=_CLOTHES,
        folders=("fashion-mnist", "FashionMNIST/raw"),
        layouts=(_IDX,),
        sha256={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "cifar-10": Source(
        classes=10,
        shape=(3, 32, 32),
        sizes=(50_000, 10_000),
        mean=(0.4914, 0.4822, 0.4465),
        std=0.2009,
        url="https://www.cs.toronto.edu/~kriz/",
        names=_THINGS,
        folders=tuple(
            top + sub for top in ("cifar-10/", "") for sub in ("", "cifar-10-batches-bin", "cifar-10-batches-py")
        ),
        layouts=(_CIFAR_BINARY, _CIFAR_PICKLE),
        sha256={"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
    ),
    "tiny-imagenet": Source(
        classes=200,
        shape=(3, 64, 64),
        sizes=(100_000, 10_000),
        mean=(0.4802, 0.4481, 0.3975),
        std=0.2276,
        url="http://cs231n.stanford.edu/",
        folders=("tiny-imagenet", "tiny-imagenet/tiny-imagenet-200", "tiny-imagenet-200", ""),
        layouts=(_TINY_IMAGENET,),
        sha256={"tiny-imagenet-200.zip": "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821"},
    ),
}

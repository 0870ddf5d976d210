"""What the package promises about itself: one version, no deep-learning framework, flags that keep IEEE arithmetic."""

import ast
import configparser
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import linfengine

ROOT = Path(__file__).parents[1]
FRAMEWORKS = (
    "autograd|chainer|flax|jax|jaxlib|keras|lightning|mindspore|mlx|mxnet|onnxruntime|paddle|tensorflow|theano|tinygrad|"
    "torch|torchvision|transformers"
)
SOURCES = [path for suffix in ("py", "pyi", "pyx", "pxd") for path in ROOT.glob(f"linfengine/**/*.{suffix}")]


def setup_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    return config


def test_the_version_stands_in_one_place() -> None:
    assert version("linfengine") == linfengine.__version__
    assert setup_cfg()["metadata"]["version"] == "attr: linfengine._version.__version__"
    quoted = f'"{linfengine.__version__}"'
    owners = [path.name for path in [ROOT / "setup.py", *SOURCES] if quoted in path.read_text()]
    assert owners == ["_version.py"]


def test_the_newest_change_is_of_this_version() -> None:
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == linfengine.__version__


def test_no_framework_is_imported() -> None:
    # The witness sees every attempt, also one that fails because the framework is not installed here.
    program = """
import sys

class Witness:
    tried = set()
    def find_spec(self, name, path=None, target=None):
        self.tried.add(name.partition(".")[0])

sys.meta_path.insert(0, Witness())
import linfengine.cli
print(*Witness.tried)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    tried = result.stdout.split()
    assert {"linfengine", "numpy"} <= set(tried)
    assert [name for name in tried if re.fullmatch(FRAMEWORKS, name)] == []


def test_no_framework_is_named_by_an_import() -> None:
    statement = re.compile(rf"^\s*(?:from|c?import)\s+(?:{FRAMEWORKS})\b", re.MULTILINE)
    assert statement.search("    import torch.nn")
    assert [path.name for path in SOURCES if statement.search(path.read_text())] == []


def test_no_framework_is_required() -> None:
    config = setup_cfg()
    lists = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    names = [re.split(r"[^\w-]", line)[0] for text in lists for line in text.splitlines()]
    assert {"numpy", "pytest"} <= set(names)
    assert [name for name in names if re.fullmatch(FRAMEWORKS, name)] == []


def test_flags_suit_every_machine_and_keep_ieee_arithmetic() -> None:
    tree = ast.parse((ROOT / "setup.py").read_text())
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    flags = {word for string in strings if isinstance(string, str) for word in string.split() if word.startswith("-")}
    assert {"-O3", "-std=c++17", "-mavx2", "-mavx512f"} <= flags
    native = r"-march=.*|-mtune=.*"
    loose = r"-Ofast|-ffast-math|-funsafe-.*|-ffinite-.*|-fassociative-.*|-freciprocal-.*|-fno-signed-zeros"
    assert [flag for flag in flags if re.fullmatch(f"{native}|{loose}", flag)] == []

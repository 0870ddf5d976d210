"""The Python of the README and of the docs runs; commands name what exists."""

import re
from pathlib import Path

import pytest

from linfengine.cli import main
from linfengine.recipes import load_recipe
from linfengine.train.ablate import parts_of

ROOT = Path(__file__).parents[2]
ALONE = ("README.md", "docs/python.md")  # each block of these pages runs alone
WALKS = ("docs/believe.md", "docs/domains.md")  # the blocks of these pages run one after the other
ON_A_GPU = ("docs/gpu.md",)  # the blocks of this page need one


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize(("page", "block"), [(page, block) for page in ALONE for block in python_blocks(page)])
def test_each_python_block_runs_alone(page: str, block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, page, "exec"), {})


@pytest.mark.parametrize("page", WALKS)
def test_the_python_of_a_walk_runs_from_top_to_bottom(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile("\n".join(python_blocks(page)), page, "exec"), {})


def test_no_python_block_is_left_out() -> None:
    pages = {str(page.relative_to(ROOT)) for page in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
    assert {page for page in pages if python_blocks(page)} == {*ALONE, *WALKS, *ON_A_GPU}


def test_the_commands_of_the_docs_exist() -> None:
    text = "\n".join(page.read_text() for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")))
    shell = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL))
    commands = re.findall(r"^linfengine (\w+)(?: ([\w.-]+))?(.*)$", shell, flags=re.MULTILINE)
    assert {name for name, _, _ in commands} == set(main.commands)
    for name, argument, options in commands:
        if name in ("train", "ablate"):
            epochs = re.search(r"--epochs (\d+)", options)
            settings = re.findall(r"--set (\S+)", options)
            recipe = load_recipe(argument, settings, epochs=int(epochs[1]) if epochs else None)
            for parts in re.findall(r"--drop (\S+)", options):
                assert set(parts.split(",")) <= set(parts_of(recipe))


def test_links_point_at_files() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("*/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points at {target}"

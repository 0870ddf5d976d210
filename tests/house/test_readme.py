"""The Python of the README and of the docs runs; commands name what exists."""

import re
from pathlib import Path

import pytest

from linfengine.cli import main
from linfengine.recipes import load_recipe
from linfengine.train.ablate import parts_of

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("block", python_blocks("README.md"), ids=range(3))
def test_each_python_block_of_the_readme_runs_alone(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {})


def test_the_python_of_a_walk_runs_from_top_to_bottom() -> None:
    blocks = python_blocks("docs/believe.md")
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "docs/believe.md", "exec"), {})


def test_the_commands_of_the_readme_exist() -> None:
    commands = re.findall(r"^linfengine (\w+)(?: ([\w.-]+))?(.*)$", README, flags=re.MULTILINE)
    assert {name for name, _, _ in commands} == {
        "demo", "train", "plot", "ablate", "certify", "quantize", "verify", "audit",
    }  # fmt: skip
    for name, argument, options in commands:
        assert name in main.commands
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

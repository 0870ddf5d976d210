"""The Python of the README and of the docs runs, top to bottom, as one program a page; commands name what exists."""

import re
from pathlib import Path

import pytest

from linfengine.ablate import parts_of
from linfengine.cli import main
from linfengine.recipes import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(("page", "blocks"), [("README.md", 4), ("docs/believe.md", 2)])
def test_the_python_of_a_page_runs(page: str, blocks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert len(found) == blocks
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in found:
        exec(compile(block, page, "exec"), names)


def test_the_commands_of_the_readme_exist() -> None:
    commands = re.findall(r"^linfengine (\w+)(?: ([\w.-]+))?(.*)$", README, flags=re.MULTILINE)
    assert {name for name, _, _ in commands} == {
        "demo", "train", "plot", "ablate", "certify", "quantize", "verify", "audit",
    }  # fmt: skip
    for name, argument, options in commands:
        assert name in main.commands
        if name in ("train", "ablate"):
            recipe = load_recipe(argument, re.findall(r"--set (\S+)", options))
            for parts in re.findall(r"--drop (\S+)", options):
                assert set(parts.split(",")) <= set(parts_of(recipe))


def test_links_point_at_files() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("*/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points at {target}"

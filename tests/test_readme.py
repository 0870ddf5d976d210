"""The README's Python runs, top to bottom, as one program; its commands name what exists."""

import re
from pathlib import Path

import pytest

from linfengine.cli import main
from linfengine.recipes import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 3
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "runs/readme/model.safetensors").exists()


def test_the_commands_of_the_readme_exist() -> None:
    commands = re.findall(r"^linfengine (\w+)(?: ([\w.-]+))?(.*)$", README, flags=re.MULTILINE)
    assert {name for name, _, _ in commands} == {"demo", "train", "certify"}
    for name, argument, options in commands:
        assert name in main.commands
        if name == "train":
            load_recipe(argument, re.findall(r"--set (\S+)", options))


def test_links_point_at_files() -> None:
    for page in [ROOT / "README.md", *ROOT.glob("*/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} points at {target}"

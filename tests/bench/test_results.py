"""The results table: page, LaTeX and record agree, and a row says what the run did."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.results import command, table
from linfengine.certify import certify
from linfengine.checkpoint import load_model
from linfengine.data import load_dataset
from linfengine.recipes import load_recipe

pytestmark = pytest.mark.usefixtures("one_thread")
MINE = (
    'dataset = "digits"\nepochs = 6\nramp_start = 1\nramp_end = 5\neps_train = 0.05\nlr = 0.05\nwidth = 32\ndepth = 2\n'
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is written there instead of the repository."""
    for name in ("JSON_FILE", "TEX_FILE", "PAGE"):
        monkeypatch.setattr(command, name, tmp_path / getattr(command, name).name)
    return tmp_path


def test_the_figures_are_those_of_the_table() -> None:
    rows = json.loads(command.JSON_FILE.read_text(encoding="utf-8"))
    assert set(command.BUDGET_RECIPES) <= set(rows)
    shown = command.PAGE.read_text(encoding="utf-8").partition(command.BEGIN)[2].partition(command.END)[0]
    assert shown == table.results(rows) + "\n"
    assert command.TEX_FILE.read_text(encoding="utf-8") == table.results(rows, latex=True)
    for name in command.BUDGET_RECIPES:
        shipped, own = load_recipe(name).to_dict(), rows[name]["recipe"]
        assert own == shipped
        assert rows[name]["certified"] <= rows[name]["attacked"] <= rows[name]["clean"]


def test_a_row_is_what_the_run_says(folder: Path) -> None:
    recipe = folder / "mine.toml"
    recipe.write_text(MINE + 'eps_test = "8/255"\npublished = { certified = 50 }\n')
    command.PAGE.write_text(f"Before\n{command.BEGIN}old\n{command.END}after\n", encoding="utf-8")
    words = ["results", str(recipe), "--runs", str(folder / "runs"), "--device", "cpu", "--write"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(command.JSON_FILE.read_text()).values()
    digits, (net, _) = load_dataset("digits"), load_model(folder / "runs/mine/model.safetensors")
    proof = certify(net, digits.test_images, digits.test_labels, "8/255")
    assert row["clean"] == proof.correct.mean()
    assert row["certified"] == (proof.certified & proof.correct).mean() > 0
    assert row["exact"]["re-derived"] == 200
    page = command.PAGE.read_text(encoding="utf-8")
    assert page.startswith(f"Before\n{command.BEGIN}| recipe |")
    assert page.endswith(f"{command.END}after\n")
    assert f"| mine | 8/255 | 2 × 32 | 6 | 0 | {100 * row['clean']:.2f} | " in page
    assert f"mine: trained on {row['trained']['machine']}, {row['trained']['date']}." in page
    # without the run's note of where it was trained, the earlier row tells it
    (folder / "runs/mine/trained.json").unlink()
    assert CliRunner().invoke(main, words[:-1]).exit_code == 0
    assert json.loads(command.JSON_FILE.read_text())["mine"]["trained"] == row["trained"]
    # a recipe that has changed: the run of the old one gets a row of its own
    recipe.write_text(MINE.replace("lr = 0.05", "lr = 0.04") + 'eps_test = "8/255"\n')
    assert CliRunner().invoke(main, words[:-1]).exit_code == 0
    assert list(json.loads(command.JSON_FILE.read_text())) == ["mine", "mine with other lr"]


@pytest.mark.parametrize(
    ("content", "words", "message"),
    [
        ('{"mnist-small": {', [], "reproduced.json is damaged"),
        ('{"mnist-small": {}}', [], "reproduced.json is damaged"),
        ("[1]", [], "reproduced.json is damaged"),
        ("{}", ["--write"], "the lines that the table goes between are missing"),
        ("{}", ["mnist-smal"], "there is no recipe 'mnist-smal'"),
        ("{}", ["digits.toml"], "digits.toml: a recipe that is shipped has this name"),
        ("{}", ["MINE"], "eps_test must be the radius to certify at, got 0.0"),
    ],
)
def test_a_mistake_is_a_sentence(content: str, words: list[str], message: str, folder: Path) -> None:
    command.JSON_FILE.write_text(content)
    command.PAGE.write_text("no table\n")
    (folder / "mine.toml").write_text(MINE)
    words = [str(folder / "mine.toml") if word == "MINE" else word for word in words]
    result = CliRunner().invoke(main, ["results", *words, "--runs", str(folder / "runs"), "--device", "cpu"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1

"""The results table: README, LaTeX and figures say the same, and a row is what the run says."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import report, reproduce
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
    """Where everything is written in place of the repository."""
    for name in ("JSON_FILE", "TEX_FILE", "README"):
        monkeypatch.setattr(reproduce, name, tmp_path / getattr(reproduce, name).name)
    return tmp_path


def test_the_figures_are_those_of_the_table() -> None:
    rows = json.loads(reproduce.JSON_FILE.read_text(encoding="utf-8"))
    assert set(reproduce.BUDGET_RECIPES) <= set(rows)
    table = reproduce.README.read_text(encoding="utf-8").partition(reproduce.BEGIN)[2].partition(reproduce.END)[0]
    assert table == report.results(rows) + "\n"
    assert reproduce.TEX_FILE.read_text(encoding="utf-8") == report.results(rows, latex=True)
    for name in reproduce.BUDGET_RECIPES:
        shipped, own = load_recipe(name).to_dict(), rows[name]["recipe"]
        assert own == shipped
        assert rows[name]["certified"] <= rows[name]["attacked"] <= rows[name]["clean"]


def test_a_row_is_what_the_run_says(folder: Path) -> None:
    recipe = folder / "mine.toml"
    recipe.write_text(MINE + 'eps_test = "8/255"\npublished = { certified = 50 }\n')
    reproduce.README.write_text(f"Before\n{reproduce.BEGIN}old\n{reproduce.END}after\n", encoding="utf-8")
    words = [str(recipe), "--runs", str(folder / "runs"), "--device", "cpu", "--write"]
    result = CliRunner().invoke(reproduce.main, words)
    assert result.exit_code == 0, result.output
    (row,) = json.loads(reproduce.JSON_FILE.read_text()).values()
    digits, (net, _) = load_dataset("digits"), load_model(folder / "runs/mine/model.safetensors")
    proof = certify(net, digits.test_images, digits.test_labels, "8/255")
    assert row["clean"] == proof.correct.mean()
    assert row["certified"] == (proof.certified & proof.correct).mean() > 0
    assert row["exact"]["re-derived"] == 200
    readme = reproduce.README.read_text(encoding="utf-8")
    assert readme.startswith(f"Before\n{reproduce.BEGIN}| recipe |")
    assert readme.endswith(f"{reproduce.END}after\n")
    assert f"| mine | 8/255 | 2 × 32 | 6 | 0 | {100 * row['clean']:.2f} | " in readme
    assert f"mine: trained on {row['trained']['machine']}, {row['trained']['date']}." in readme
    # where it was trained is not forgotten
    (folder / "runs/mine/trained.json").unlink()
    assert CliRunner().invoke(reproduce.main, words[:-1]).exit_code == 0
    assert json.loads(reproduce.JSON_FILE.read_text())["mine"]["trained"] == row["trained"]
    # the recipe is another one now: the run that is there gets a row of its own
    recipe.write_text(MINE.replace("lr = 0.05", "lr = 0.04") + 'eps_test = "8/255"\n')
    assert CliRunner().invoke(reproduce.main, words[:-1]).exit_code == 0
    assert list(json.loads(reproduce.JSON_FILE.read_text())) == ["mine", "mine with other lr"]


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
    reproduce.JSON_FILE.write_text(content)
    reproduce.README.write_text("no table\n")
    (folder / "mine.toml").write_text(MINE)
    words = [str(folder / "mine.toml") if word == "MINE" else word for word in words]
    result = CliRunner().invoke(reproduce.main, [*words, "--runs", str(folder / "runs"), "--device", "cpu"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1

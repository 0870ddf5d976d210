"""The committed records say what the documents say."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from benchmarks import output
from benchmarks.cpu import report
from benchmarks.cpu.timing import Timing
from benchmarks.gpu.compile import LOOPS, _too_many

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")


def record(name: str) -> dict[str, Any]:
    text = (ROOT / "benchmarks" / name).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def test_the_tables_of_the_cpu() -> None:
    found = record("results.json")
    timings = {part: [Timing(**each) for each in found[part]] for part in ("kernels", "shapes", "ramp")}
    shapes = report.shapes(timings["shapes"]).partition("\n\n")[0]
    others = report.kernels(timings["kernels"]), report.steps(found["training"]), report.ramp(timings["ramp"])
    for table in (shapes, *others):
        assert f"\n\n{table}\n\n" in PAGE
    assert f"takes {found['epoch']:.1f} s." in PAGE
    assert set(found["kernels"][0]) == {field.name for field in fields(Timing)}


def test_the_instructions_of_the_gpu_kernels() -> None:
    found = record("gpu-kernels.json")
    assert list(found["inner loops"]) == list(LOOPS)
    assert _too_many(found["inner loops"]) == []
    page = (ROOT / "docs/gpu.md").read_text(encoding="utf-8")
    capabilities = ["8.0", "9.0", "10.0", "12.0"]
    assert f"| instructions a term, in the inner loop | {' | '.join(capabilities)} |" in page
    for name, loop in found["inner loops"].items():
        counts = [f"{loop['instructions'][each] / loop['terms']:.2f}" for each in capabilities]
        assert f"\n| {name.replace('inf', '∞')} | {' | '.join(counts)} |\n" in page


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_a_record_is_read_as_it_was_written(record: dict[str, Any]) -> None:
    assert json.loads(output.json_text(record)) == record


def test_a_record_has_a_line_for_each_innermost_object() -> None:
    record = {"rows": [{"a": 1, "b": "  ,\n"}, {"a": 2}]}
    assert output.json_text(record) == '{\n "rows": [\n  {"a": 1, "b": "  ,\\n"},\n  {"a": 2}\n ]\n}\n'


@given(st.text(alphabet="aε×–_%&#$ ", max_size=20))
def test_latex_is_ascii_and_escaped(text: str) -> None:
    found = output.latex_text(text)
    assert found.isascii()
    assert not re.search(r"(?<!\\)[_%&#]", found)

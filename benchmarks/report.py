"""The figures as Markdown tables and as a picture."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.kernels import BATCHES, CEILINGS, INPUTS, OURS, OUTPUTS
from benchmarks.peers import PEERS
from benchmarks.timing import Timing
from linfengine.recipes import PUBLISHED
from linfengine.train.budget import FITTED

# Vector instructions a term of the kernels with a measured ceiling (AVX-512), of as many lanes as float32 has.
INSTRUCTIONS = {"bytes": 1.0, "p = ∞ forward": 2.0, "p = 8 forward": 4.0, "interval bounds": 6.0}
BASELINE = "torch.cdist"


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def kernels(timings: list[Timing]) -> str:
    """One line for each computation; a column for each contender that was there."""
    rates = {(t.what, t.who): t for t in timings}
    whats = list(dict.fromkeys(t.what for t in timings))
    extra = [who for who in dict.fromkeys(t.who for t in timings) if who not in (OURS, "ceiling")]
    peers = any(who == BASELINE for who in extra)
    header = ["G terms/s", OURS, "ms (quartiles)", "of the ceiling", *extra, *([f"× {BASELINE}"] if peers else [])]
    rows = []
    for what in whats:
        ours = rates[what, OURS]
        ceiling, baseline = rates.get((what, "ceiling")), rates.get((what, BASELINE))
        row = [what, f"**{ours.rate:.3g}**", f"{1e3 * ours.median:.1f} ({1e3 * ours.low:.1f}–{1e3 * ours.high:.1f})"]
        row.append(f"{100 * ours.rate / ceiling.rate:.0f}% of {ceiling.rate:.0f}" if ceiling else "")
        row += [f"{rates[what, who].rate:.2g}" if (what, who) in rates else "" for who in extra]
        if peers:
            row.append(f"{ours.rate / baseline.rate:.0f}" if baseline else "")
        rows.append(row)
    return table(header, rows)


def shapes(timings: list[Timing]) -> str:
    rates = {(t.what, t.who): t for t in timings}
    rows = []
    for n in BATCHES:
        for o in OUTPUTS:
            cells = []
            for k in INPUTS:
                rate = f"{rates[f'{n} {o} {k}', OURS].rate:.3g}"
                cells.append(f"**{rate}**" if n * o * k >= 1e8 else rate)
            rows.append([f"B = {n}, O = {o}", *cells])
    one, floor = (rates["one sample, 784 to 1024", who] for who in (OURS, "reading w"))
    return (
        table(["p = ∞ forward, G terms/s", *(f"K = {k}" for k in INPUTS)], rows)
        + f"\n\nOne sample, 784 to 1024: {1e6 * one.median:.0f} µs, {one.median / floor.median:.2f} times as long as "
        f"reading w ({1e6 * floor.median:.0f} µs). Bold: at least 1e8 terms."
    )


def steps(figures: list[dict[str, float]]) -> str:
    rows = [[f"{f['p']:g}", f"{1e3 * f['seconds']:.0f}", f"{100 * f['share']:.0f}%"] for f in figures]
    return table(["p", "ms a step", "inside the distance kernels"], rows)


def ramp(timings: list[Timing]) -> str:
    first = timings[0].rate
    rows = [[t.what, f"{t.rate:.3g}", f"{100 * t.rate / first:.0f}%"] for t in timings]
    return table(["forward + backward", "G terms/s", "of the rate at p = 8"], rows)


def certificates(timings: list[Timing]) -> str:
    first = timings[0].median
    rows = [[t.who, f"{1e3 * t.median:.0f}", f"{t.median / first:.2f}"] for t in timings]
    return table([f"all test images, {timings[0].what}", "ms", "× float32 forward"], rows)


def chart(timings: list[Timing], title: str) -> Any:
    """On the left the roofline: instructions a term against terms a second; on the right everybody, on a log scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    figure.suptitle(title, fontsize=9)
    roof, bars = figure.subplots(1, 2, width_ratios=(1, 1.4))
    rates = {(t.what, t.who): t.rate for t in timings}
    peers = [who for who in dict.fromkeys(t.who for t in timings) if who not in (OURS, "ceiling")]
    for i, what in enumerate(sorted(CEILINGS, key=INSTRUCTIONS.__getitem__)):
        x, ceiling = INSTRUCTIONS[what], rates[what, "ceiling"]
        roof.plot([x / 1.25, x * 1.25], [ceiling, ceiling], color="black", label="registers alone" if i == 0 else None)
        roof.plot(x, rates[what, OURS], "o", color="C0", markersize=9, label=OURS if i == 0 else None)
        roof.annotate(what, (x, ceiling), (0, 6), textcoords="offset points", ha="center", fontsize=8)
        others = [rates[what, who] for who in peers if (what, who) in rates and who in PEERS]
        roof.plot([x] * len(others), others, "_", color="C3", label="other libraries" if others and i == 1 else None)
    roof.set(xscale="log", yscale="log", xlabel="vector instructions a term (AVX-512)", ylabel="G terms/s")
    roof.set_xticks(list(INSTRUCTIONS.values()), [f"{x:g}" for x in INSTRUCTIONS.values()], minor=False)
    roof.minorticks_off()
    roof.legend(loc="lower left", fontsize=8)

    whats = [what for what in dict.fromkeys(t.what for t in timings) if what.startswith("p = ") and "," not in what]
    everybody = [OURS, *(who for who in peers if who in PEERS)]
    for i, who in enumerate(everybody):
        heights = [rates.get((what, who), math.nan) for what in whats]
        places = [j + (i - len(everybody) / 2) * 0.8 / len(everybody) for j in range(len(whats))]
        bars.bar(places, heights, 0.8 / len(everybody), label=who, align="edge")
    bars.set_yscale("log")
    bars.set_xticks(
        range(len(whats)), [what.replace(" forward", "\nforward").replace(" + ", "\n+ ") for what in whats], fontsize=8
    )
    bars.set_ylabel("G terms/s")
    bars.legend(fontsize=8, ncols=2)
    return figure


def label(name: str, row: dict[str, Any]) -> str:
    """What a row is called: the recipe's name, and how the run differs from it."""
    if not row["changed"]:
        return name
    fitted = set(row["changed"]) <= set(FITTED)
    return f"{name}, fitted to a budget" if fitted else f"{name} with other {', '.join(row['changed'])}"


def results(rows: dict[str, Any], *, latex: bool = False) -> str:
    """The results of `benchmarks.reproduce` beside the published ones, in Markdown or in LaTeX (booktabs).

    Below, where and when the runs were trained.
    """
    header = [
        "recipe",
        "ε",
        "net",
        "epochs",
        "minutes",
        "clean",
        f"PGD-{_steps(rows)}",
        "certified",
        "exact",
        "published",
    ]
    lines = []
    for name, row in rows.items():
        recipe, bounds = row["recipe"], row["bounds"]["certified"]
        size = f"{recipe['depth']} × {recipe['width']}" if recipe["net"] == "dense" else f"conv {recipe['channels']}"
        published = [f"{recipe['published'][key]:.2f}" if key in recipe["published"] else "–" for key in PUBLISHED]
        lines.append([
            name,
            row["eps"],
            size + (f" + {recipe['head']}" if recipe["head"] else ""),
            str(recipe["epochs"]),
            f"{row['seconds'] / 60:.0f}",
            f"{100 * row['clean']:.2f}",
            f"{100 * row['attacked']:.2f}",
            f"{100 * row['certified']:.2f} ({100 * bounds[0]:.1f}–{100 * bounds[1]:.1f})",
            f"{100 * row['exact']['certified']:.2f}" if "exact" in row else "–",
            " / ".join(published),
        ])  # fmt: skip
    places = [row["trained"] or {"machine": "a machine that was not recorded", "date": "–"} for row in rows.values()]
    where: dict[str, list[str]] = {}
    for name, place in zip(rows, places, strict=True):
        where.setdefault(f"{place['machine']}, {place['date']}", []).append(name)
    notes = [f"{', '.join(names)}: trained on {place}." for place, names in where.items()]
    if latex:
        return "".join(f"% {_latex(note)}\n" for note in notes) + latex_table(header, lines)
    return table(header, lines) + "\n\n" + "\n".join(notes)


def _steps(rows: dict[str, Any]) -> str:
    return ", ".join(sorted({str(row["pgd_steps"]) for row in rows.values()}))


def latex_table(header: list[str], rows: list[list[str]]) -> str:
    body = [" & ".join(map(_latex, line)) + r" \\" for line in (header, *rows)]
    columns = "l" + "r" * (len(header) - 1)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"]) + "\n"


def _latex(text: str) -> str:
    for letter, command in {
        "_": r"\_",
        "%": r"\%",
        "&": r"\&",
        "#": r"\#",
        "$": r"\$",
        "ε": r"$\varepsilon$",
        "×": r"$\times$",
        "–": "--",
    }.items():
        text = text.replace(letter, command)
    return text

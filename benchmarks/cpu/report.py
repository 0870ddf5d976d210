"""The CPU's figures as Markdown tables and as a picture."""

from __future__ import annotations

import math
from typing import Any

from benchmarks.cpu.kernels import BATCHES, CEILINGS, INPUTS, OURS, OUTPUTS
from benchmarks.cpu.peers import PEERS
from benchmarks.cpu.timing import Timing
from benchmarks.output import markdown

# AVX-512 instructions a term of the kernels with a measured ceiling, for vectors of as many lanes as float32 has.
INSTRUCTIONS = {"bytes": 1.0, "p = ∞ forward": 2.0, "p = 8 forward": 4.0, "interval bounds": 6.0}
BASELINE = "torch.cdist"


def kernels(timings: list[Timing]) -> str:
    """One row for each computation, one column for each contender."""
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
    return markdown(header, rows)


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
        markdown(["p = ∞ forward, G terms/s", *(f"K = {k}" for k in INPUTS)], rows)
        + f"\n\nOne sample, 784 to 1024: {1e6 * one.median:.0f} µs, {one.median / floor.median:.2f} times as long as "
        f"reading w ({1e6 * floor.median:.0f} µs). Bold: at least 1e8 terms."
    )


def steps(figures: list[dict[str, Any]]) -> str:
    rows = [[f["p"], f"{1e3 * f['seconds']:.0f}", f"{100 * f['share']:.0f}%"] for f in figures]
    return markdown(["p", "ms a step", "inside the distance kernels"], rows)


def ramp(timings: list[Timing]) -> str:
    first = timings[0].rate
    rows = [[t.what, f"{t.rate:.3g}", f"{100 * t.rate / first:.0f}%"] for t in timings]
    return markdown(["forward + backward", "G terms/s", "of the rate at p = 8"], rows)


def certificates(timings: list[Timing]) -> str:
    first = timings[0].median
    rows = [[t.who, f"{1e3 * t.median:.0f}", f"{t.median / first:.2f}"] for t in timings]
    return markdown([f"all test images, {timings[0].what}", "ms", "× float32 forward"], rows)


def chart(timings: list[Timing], title: str) -> Any:
    """Left: instructions a term against terms a second. Right: the rates of all contenders, on a log scale."""
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

"""Traces of the Hessian and of its Gauss-Newton part, and what they are made of."""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..figures import add_legend
from ._measure import Column, Measure, Picture
from ._picture import band, line, style_of

if TYPE_CHECKING:
    from ..sharpness import Measured, OutputTraces, Target, Task

# More parameter arrays than that have no room for their names.
_MOST_LAYERS = 15


def _compute(task: "Task") -> "Measured":
    from ..sharpness import Measured, hessian_trace

    result = hessian_trace(
        task.network,
        task.examples,
        task.loss,
        probes=task.probes,
        residual_probes=max(task.probes, 2),
        rtol=task.rtol,
        target=task.target,
        memory=task.memory,
        key=task.key,
        outputs=None if task.network.batch_statistics else task.outputs(),
    )
    values = {"tr_hess": result.hess, "tr_ggn": result.ggn, "tr_resid": result.resid}
    tables: dict[str, Any] = {
        "path": {"method": result.method, "curved": list(result.curved)}
    }
    if result.outputs is not None:
        for scaled in ("theta", "filter"):
            estimate = result.outputs.estimate(scaled, target=task.target)
            values[f"tr_ggn_{scaled}"] = estimate
        tables |= _attribution(result.outputs, task.target)
    return Measured(values, {}, tables)


def _attribution(outputs: "OutputTraces", target: "Target") -> dict[str, Any]:
    import numpy as np

    from ..sharpness import Estimate, estimate_mean

    table, size = outputs.table(), int(outputs.label_counts.sum())
    counts = np.unique(np.geomspace(2, len(table), 40).astype(int))
    sofar = [
        estimate_mean(table[:n], exact=outputs.exact, population=size) for n in counts
    ]

    def record(name: Any, e: Estimate) -> dict[str, Any]:
        half = e.half_width()
        return {"name": name, "value": e.value, "error": e.standard_error, "half": half}

    shares = outputs.shares(target=target)

    def share(name: str) -> dict[str, float]:
        return {"share": shares[name].value, "share_half": shares[name].half_width()}

    layers = outputs.per_leaf(target=target).items()
    classes = outputs.per_label(target=target).items()
    return {
        "convergence": [
            record(int(n), e) for n, e in zip(counts, sofar, strict=True) if n > 1
        ],
        "layers": [record(name, e) | share(name) for name, e in layers],
        "classes": [record(label, e) for label, e in classes],
        "examples": [list(row) for row in outputs.sharpest(len(table))],
    }


def _convergence(figure: Any, tables: Mapping[str, Any], loss: str, found: Any):
    import numpy as np

    axes = figure.add_subplot()
    for split, rows in tables.items():
        n, value, half = (
            np.array([row[key] for row in rows], dtype=float)
            for key in ("name", "value", "half")
        )
        axes.plot(n, value, **line(split, marker=None))
        band(axes, split, n, value - half, value + half)
    # The first intervals, of two or three images, would hide all the others.
    last = [rows[-1]["value"] for rows in tables.values()]
    shown = [r for rows in tables.values() for r in rows if r["name"] >= 10]
    ends = [r["value"] + sign * r["half"] for r in shown for sign in (-1, 1)]
    axes.set_ylim(max(0.95 * min(ends + last), 0), 1.05 * max(ends + last) or 1.0)
    axes.set(
        xlim=(0, None),
        xlabel="images",
        ylabel=f"tr_ggn, 95 % band\n({loss} / parameter²)",
    )
    add_legend(figure)


def _layers(figure: Any, tables: Mapping[str, Any], loss: str, found: Any):
    import numpy as np

    axes = figure.add_subplot()
    height = 0.8 / len(tables)
    shares = {s: {r["name"]: r for r in rows} for s, rows in tables.items()}
    all_names = list(next(iter(shares.values())))

    def largest(name: str) -> float:
        values = [rows[name]["share"] for rows in shares.values() if name in rows]
        return max(np.nan_to_num(values))

    chosen = set(sorted(all_names, key=largest, reverse=True)[:_MOST_LAYERS])
    # In the order of the network.
    names = [name for name in all_names if name in chosen]
    for index, (split, rows) in enumerate(shares.items()):
        half = np.array([rows[name]["share_half"] for name in names])
        axes.barh(
            np.arange(len(names)) + index * height,
            [rows[name]["share"] for name in names],
            height,
            # Of a vanished trace there are no shares.
            xerr=np.where(np.isfinite(half), half, 0.0),
            color=style_of(split)["color"],
            hatch="" if index == 0 else "//",
            edgecolor="white",
            error_kw={"elinewidth": 1, "capsize": 2},
            label=split,
        )
    axes.set_yticks(
        np.arange(len(names)) + 0.4 - height / 2,
        [name.lstrip(".") for name in names],
        fontsize=8,
    )
    figure.set_size_inches(4.6, max(3.8, 0.26 * len(names) + 1.6))
    axes.invert_yaxis()
    left = len(all_names) - len(names)
    others = f" (the {left} smallest of {len(all_names)} not shown)" if left else ""
    axes.set(
        xlim=(0, None),
        xlabel=textwrap.fill(
            f"share of tr_ggn, all sum to 1, 95 % intervals{others}", 46
        ),
    )
    add_legend(figure)


_UNIT = "{loss} / parameter²"
TRACE = Measure(
    "trace",
    {
        "tr_hess": Column("trace of the Hessian of the mean {loss} loss", _UNIT),
        "tr_ggn": Column("its Gauss-Newton part, J' (d2 {loss}/df2) J", _UNIT),
        "tr_resid": Column("the rest, tr_hess - tr_ggn ({loss})", _UNIT),
        "tr_ggn_theta": Column(
            "tr_ggn ({loss}) times theta^2: no change when layers are rescaled",
            "{loss}",
        ),
        "tr_ggn_filter": Column(
            "tr_ggn ({loss}) times the filters' mean squares", "{loss}"
        ),
    },
    _compute,
    {"convergence": Picture(_convergence), "layers": Picture(_layers)},
    output="loss",
    usual=True,
)

"""Renew the tables of docs/sharpness_results.md from the stored results.

python -m benchmarks.sharpness_tables
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

from eqcifar.measures import meaning
from eqcifar.sharpness import Estimate, ratio

from .records import read, renew
from .sharpness_measures import BY_PRODUCTS

PAGE = Path(__file__).parent.parent / "docs" / "sharpness_results.md"

MEANING = {
    "tr_hess": "tr H",
    "tr_ggn": "tr GGN",
    "tr_resid": "tr H - tr GGN",
    "tr_ggn_theta": "tr GGN, times theta^2",
    "tr_ggn_filter": "tr GGN, filter-wise",
    "tr_ntk_unit": "tr NTK, logits of unit deviation",
    "tr_ctk_unit": "the same, times theta^2",
    "lmax_ntk": "largest eigenvalue of the NTK, J J' / n",
    "rank_ntk": "its effective rank",
    "loss": "loss",
    "accuracy": "accuracy",
    "sam": "worst-case rise at radius 0.05 (SAM)",
    "average": "mean rise at radius 0.05",
    "sam_adaptive": "worst-case rise, adaptive, radius 0.5",
    "average_adaptive": "mean rise, adaptive, radius 0.5",
    **{
        f"tr_{kind}_{name}": f"tr {label} of these images by {title}"
        for kind, label in (("hess", "H"), ("ggn", "GGN"))
        for name, title in (
            ("hutch++", "Hutch++"),
            ("xtrace", "XTrace"),
            ("xnystrace", "XNysTrace"),
        )
    },
    "frobenius2_hess": "squared Frobenius norm of H",
    "frobenius2_ggn": "squared Frobenius norm of GGN",
}
# Which option gives the number of images of a kind of part.
SIZES: dict[str, str] = dict.fromkeys(("radius", "landscape", "plane"), "radius")
SIZES |= dict.fromkeys((*BY_PRODUCTS, "frobenius"), "products")
NTK = {
    "tr_ggn": "tr NTK = tr GGN (= tr H), summed over classes",
    "tr_ggn_theta": "tr CTK: tr NTK times theta^2",
    "tr_ggn_filter": "tr NTK, filter-wise",
}


def show(row: dict[str, Any], bound: float | None = None) -> str:
    """A value with its 95 % interval, or with a bound."""
    value = f"{row['value']:.4g}"
    if bound is not None:
        return f"{value} ± {bound:.1g} (residual)"
    if "low" not in row or row["low"] == row["high"]:
        return value
    return f"{value} [{row['low']:.4g}, {row['high']:.4g}]"


def as_estimate(row: dict[str, Any]) -> Estimate:
    """The estimate behind a stored row."""
    names = {field.name for field in dataclasses.fields(Estimate)}
    return Estimate(**{k: v for k, v in row.items() if k in names})


def measures(record: dict[str, Any]) -> list[str]:
    """The table of every measure on both splits."""
    lines = [
        "| measure | loss | images a split | train | test | test / train |",
        "|---|---|---|---|---|---|",
    ]
    parts = record["parts"]
    for kind in ("traces", "unit", "gram", *SIZES):
        free = kind in ("unit", "gram")  # of the loss
        for loss in ("-",) if free else ("ce", "mse"):
            infix = "" if free else f" {loss}"
            both = [parts.get(f"{kind}{infix} {split}") for split in ("train", "test")]
            if None in both:
                continue
            train, test = (part["values"] for part in both)
            for name in train:
                words = MEANING.get(name) or meaning(name, loss)
                if found := re.fullmatch(r"lambda(_ggn)?_(\d+)", name):
                    words = f"eigenvalue {found[2]} of {'GGN' if found[1] else 'H'}"
                if kind == "traces" and loss == "mse":
                    words = NTK.get(name)
                if not words:
                    continue
                of_all = ""
                bounds = [
                    v.get(f"{name}_bound", {}).get("value") for v in (train, test)
                ]
                if "probe_error" in train[name] and train[name]["value"] != 0:
                    rows = as_estimate(test[name]), as_estimate(train[name])
                    low, high = ratio(*rows).interval()
                    of_all = f"{ratio(*rows).value:.3g} [{low:.3g}, {high:.3g}]"
                elif train[name]["value"] != 0:
                    of_all = f"{test[name]['value'] / train[name]['value']:.3g}"
                cells = [show(train[name], bounds[0]), show(test[name], bounds[1])]
                asked = record["options"][SIZES.get(kind, "traces")]
                size = train[name].get("examples") or asked
                lines.append(
                    f"| {words} | {loss} | {size:,} | {cells[0]} | {cells[1]} "
                    f"| {of_all} |"
                )
    return lines


def comparison(record: dict[str, Any]) -> list[str]:
    """Cosines across the splits and between halves of one."""
    lines = []
    for loss in ("ce", "mse"):
        part = record["parts"].get(f"compare {loss}")
        if part is None:
            continue
        values, count = part["values"], record["options"]["products"]
        if not lines:
            lines = [
                "| matrix | loss | train against test | half of train against half of "
                "test | two halves of train | two halves of test |",
                "|---|---|---|---|---|---|",
            ]
        for kind, label in (("hess", "H"), ("ggn", "GGN"), ("resid", "residual")):
            cells = [
                show(values[f"cosine_{kind}_{pair}"])
                for pair in ("splits", "across", "first", "second")
            ]
            lines.append(f"| {label} | {loss} | " + " | ".join(cells) + " |")
        ratios = ", ".join(
            f"{k.removeprefix('ratio_')} {show(values[k])}"
            for k in ("ratio_hess", "ratio_ggn")
        )
        lines.append(
            f"| trace ratio, common probes ({count:,} + {count:,} images) | {loss} "
            f"| {ratios} | | | |"
        )
        if "overlap_across" in values:
            pairs = ("across", "first", "second")
            cells = [show(values[f"overlap_{pair}"]) for pair in pairs]
            lines.append(
                f"| overlap of {record['options']['eigenvectors']} eigenvectors of H "
                f"| {loss} | | " + " | ".join(cells) + " |"
            )
    return lines


def needed(record: dict[str, Any]) -> list[str]:
    """How many images the traces take."""
    lines = [
        "| trace | split | wanted | images, one random vector each | images, all C "
        "vectors |",
        "|---|---|---|---|---|",
    ]
    for loss, name in (("ce", "tr H (ce)"), ("mse", "tr NTK")):
        for split in ("train", "test"):
            part = record["parts"].get(f"traces {loss} {split}")
            if part is None:
                continue
            table = part["values"]["table"]
            for rtol in ("0.05", "0.02"):
                drawn, exact = table[f"example {rtol}"], table[f"exact {rtol}"]
                random = f"{drawn['examples']:,}"
                if drawn["probes"] > 1:
                    random += f" ({drawn['probes']} vectors)"
                lines.append(
                    f"| {name} | {split} | ± {100 * float(rtol):.0f} % | {random} "
                    f"| {exact['examples']:,} |"
                )
    return lines


def own_cost(record: dict[str, Any], kept: dict[str, Any]) -> dict[str, dict]:
    """What one random output vector an image costs over the split, and its error.

    Where the whole split was not passed over: from the sample, and from the spread
    within images that the table of measures has.
    """
    found = {}
    for goal, loss in (("tr H", "ce"), ("tr NTK", "mse")):
        whole = record.get("whole split", {}).get(goal)
        part = kept.get("parts", {}).get(f"traces {loss} test")
        if part is None:
            continue
        value = part["values"]["tr_ggn"]
        shrink = math.sqrt(value["probes"] * value["examples"] / record["split"])
        sample = record["a probe on the sample"]["eqcifar exact path, 1 output vector"]
        grow = record["split"] / record["sample"]
        found[goal] = {
            "relative_error": value["probe_error"] * shrink / value["value"],
            "seconds": whole["seconds"] if whole else sample["seconds"] * grow,
            "measured": whole is not None,
        }
    return found


def ratios(record: dict[str, Any], kept: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Time and products of the peers at the standard error that ours had."""
    split, grow = record["split"], record["split"] / record["sample"]
    probe = record["a probe on the sample"]
    found: dict[str, dict[str, float]] = {}
    seconds = {
        "PyHessian": probe["PyHessian, 1 probe"]["seconds"] * grow,
        "hess": probe["curvlinops Hessian, 2 products"]["seconds"] / 2 * grow,
        "ggn": probe["curvlinops GGN (mse), 2 products"]["seconds"] / 2 * grow,
    }

    def add(goal: str, name: str, products: float, each: float) -> None:
        time = products * each
        found[f"{goal}: {name}"] = {
            "products": products,
            "seconds": time,
            "time_ratio": time / own[goal]["seconds"],
        }

    own = own_cost(record, kept)
    for goal, ours in own.items():
        wanted = ours["relative_error"]
        matrix = "hess" if goal == "tr H" else "ntk"
        parts = record["variance of a random direction"][matrix]
        count = (parts["probe"] + parts["mixed"] / split) / wanted**2
        if goal == "tr NTK":
            add(goal, "PyHessian, on the mse loss", count, seconds["PyHessian"])
            add(goal, "curvlinops Hutchinson on the GGN", count, seconds["ggn"])
            continue
        add(goal, "PyHessian", count, seconds["PyHessian"])
        add(goal, "curvlinops Hutchinson", count, seconds["hess"])
        plus = record.get("Hutch++")
        if plus:
            term = plus["standard deviation of a term"] / plus["trace of the sample"]
            count = 2 * plus["columns"] + (term / wanted) ** 2
            add(goal, "curvlinops Hutch++", count, seconds["hess"])
    return found


def cost(record: dict[str, Any], kept: dict[str, Any]) -> list[str]:
    """Ours, the peers, and the ratios."""
    lines = [
        "| | relative standard error | products an image | time, s | times ours |",
        "|---|---|---|---|---|",
    ]
    peers = ratios(record, kept)
    for goal, ours in own_cost(record, kept).items():
        how = "measured" if ours["measured"] else "from the sample"
        lines.append(
            f"| {goal}: eqcifar | {100 * ours['relative_error']:.2f} % | 1 "
            f"| {ours['seconds']:.0f} ({how}) | 1 |"
        )
        lines += [
            f"| {name} | the same | {row['products']:.0f} | {row['seconds']:,.0f} "
            f"(extrapolated) | {row['time_ratio']:.0f} |"
            for name, row in peers.items()
            if name.startswith(goal)
        ]
    return lines


def passes(record: dict[str, Any]) -> list[str]:
    """A jvp of a jvp in gradients, for several networks."""
    rows = record["networks"]
    return [
        f"| {record['batch']} images | gradient, s | jvp of a jvp, s | ratio |",
        "|---|---|---|---|",
        *(
            f"| {name} | {row['gradient']['seconds']:.3f} "
            f"| {row['jvp of jvp']['seconds']:.3f} "
            f"| {row['jvp of jvp']['seconds'] / row['gradient']['seconds']:.2f} |"
            for name, row in rows.items()
        ),
    ]


def agreement(record: dict[str, Any]) -> list[str]:
    """Each comparison's relative difference."""
    lines = ["| network | quantity and peer | relative difference |", "|---|---|---|"]
    for network, rows in record.items():
        if not isinstance(rows, dict) or "parameters" not in rows:
            continue
        for name, found in rows.items():
            if name == "parameters":
                continue
            apart = found["relative"] if isinstance(found, dict) else found
            far = f"{apart:.1e}"
            if isinstance(found, dict) and "standard_errors_apart" in found:
                far += f" ({abs(found['standard_errors_apart']):.1f} standard errors)"
            lines.append(f"| {network} | {name} | {far} |")
    return lines


def tables() -> dict[str, list[str]]:
    """The lines of every table whose results are there."""
    kept, costs = read("sharpness_measures"), read("sharpness_cost")
    kept = kept if "options" in kept else {}  # of an earlier form
    memory = read("sharpness_memory").get("passes", {})
    rows = [f"| {k} | {v['temporary_GB']:.2f} |" for k, v in memory.items()]
    found = {
        "agreement": agreement(read("sharpness_agreement")),
        "memory": ["| pass | temporary memory, GB |", "|---|---|", *rows],
    }
    if kept:
        found |= {
            "measures": measures(kept),
            "comparison": comparison(kept),
            "needed": needed(kept),
        }
    if "passes" in costs:
        found["passes"] = passes(costs["passes"])
    same = costs.get("parameters") == kept.get("parameters")
    if "variance of a random direction" in costs and same:
        found["cost"] = cost(costs, kept)
    return found


def main() -> None:
    """Put each table between its two marks on the page."""
    renew(PAGE, tables())


if __name__ == "__main__":
    main()

"""Renew the tables of docs/speed.md and docs/training.md from the stored results.

python -m benchmarks.speed_tables
"""

import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from eqcifar.config import TrainConfig
from eqcifar.fields import option_words
from eqcifar.recipes import RECIPES, recipe_options

from .compare import OURS
from .records import RESULTS, read, renew

DOCS = Path(__file__).parent.parent / "docs"


def records(prefix: str) -> Iterator[dict[str, Any]]:
    for path in sorted(RESULTS.glob(f"{prefix}*.json")):
        yield read(path.stem)


def processor(record: dict[str, Any]) -> str:
    devices = record["environment"]["devices"]
    name = devices["cpu"] if devices["platform"] == "cpu" else devices["kind"]
    return f"{name}, {devices['cpus']} CPUs"


def machine(record: dict[str, Any]) -> str:
    """Where and with what a result was measured, in a line."""
    versions = record["environment"]["versions"]
    names = "jax", "equinox", "torch"
    libraries = ", ".join(f"{n} {versions[n]}" for n in names if versions.get(n))
    about = [processor(record), libraries]
    if "load_average" in record:
        about.append(f"load {record['load_average']:.1f} after")
    return "; ".join(about) + "."


def rate(found: dict[str, Any]) -> str:
    return f"{found['median']:,.1f}"


def seconds(found: dict[str, Any]) -> str:
    low, high = found["low"], found["high"]
    return f"{found['median']:.2f} ({low:.2f} to {high:.2f})"


def comparison() -> list[str]:
    """Ours beside each peer."""
    lines = []
    for record in records("compare_"):
        rows = record["rows"]
        count = record["arguments"]["rounds"]
        lines += [
            "",
            f"{machine(record)} Median of {count} rounds each, lowest to highest.",
            "",
            "| | batch | eqcifar, images/s | PyTorch | images/s | ratio | |",
            "|---|---|---|---|---|---|---|",
        ]
        for kind, word in (("train", "training"), ("predict", "evaluation")):
            for row in rows:
                rates, ratios = row[kind]["images_per_second"], row[kind]["ratio"]
                for name, ratio in ratios.items():
                    lines.append(
                        f"| {row['arch']} {word}, {row['precision']} | {row['batch']} "
                        f"| {rate(rates[OURS])} | {name} | {rate(rates[name])} "
                        f"| **{ratio['median']:.2f}** "
                        f"| {ratio['low']:.2f} to {ratio['high']:.2f} |"
                    )
        lines += [
            "",
            "First step from the same weights on the same batch, relative difference:",
            "",
            "| | PyTorch | loss | gradient |",
            "|---|---|---|---|",
            *(
                f"| {row['arch']} | {name} | {found['loss']:.0e} "
                f"| {found['gradient']:.0e} |"
                for row in rows
                for name, found in row["differences"].items()
            ),
        ]
    return lines[1:]


def train_step() -> list[str]:
    """Speed, share of the peak and memory."""
    lines = []
    for record in records("train_step_"):
        lines += [
            "",
            machine(record),
            "",
            "| | batch | images/s | share of peak (GFLOP/s) | evaluation, images/s "
            "| trace + compile, s | temporary memory, GB | most in memory, GB |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for row in record["rows"]:
            most = row["device_peak_bytes"] or row["peak_bytes"]
            lines.append(
                f"| {row['arch']}, {row['precision']} | {row['batch']} "
                f"| {rate(row['images_per_second'])} | {row['share_of_peak']:.0%} "
                f"({row['peak_flops'] / 1e9:,.0f}) "
                f"| {rate(row['predict_images_per_second'])} "
                f"| {row['trace_seconds']:.1f} + {row['compile_seconds']:.1f} "
                f"| {row['temporary_bytes'] / 1e9:.2f} | {most / 1e9:.2f} |"
            )
    return lines[1:]


def inputs(record: dict[str, Any]) -> list[str]:
    """Decoding, cache and augmentation."""
    found, path = record["files"], record["pixels"]
    images = " + ".join(f"{count:,}" for count in found["images"].values())
    what = f"of a training step of {path['arch']}, batch {path['batch']}"
    return [
        f"{machine(record)} n = {found['decode_seconds']['n']}.",
        "",
        "| | |",
        "|---|---|",
        f"| {images} images decoded and kept, s | {seconds(found['decode_seconds'])} |",
        f"| read from the cache, s | {seconds(found['cache_seconds'])} |",
        "| gathered, cropped, flipped and normalised, images/s "
        f"| {path['augment_images_per_second']['median']:,.0f} |",
        f"| share {what} | {100 * path['share_of_step']:.1g} % |",
    ]


def startup(record: dict[str, Any]) -> list[str]:
    """What one waits for."""
    commands = record["commands"]
    count = next(iter(commands.values()))["n"]
    together = record["together"]
    lines = [
        f"{machine(record)} n = {count}.",
        "",
        "| | s |",
        "|---|---|",
        *(f"| `{name}` | {seconds(found)} |" for name, found in commands.items()),
        "",
        "| `eqcifar train`, seconds from the start of the process | imported | data "
        "| network | first step starts | first step done |",
        "|---|---|---|---|---|---|",
    ]
    marks = ("imported", "data loaded", "network made")
    marks += ("first step starts", "first step done")
    for arch, starts in record["train"].items():
        for kind in ("cold", "warm"):
            cells = " | ".join(seconds(starts[kind][mark]) for mark in marks)
            lines.append(f"| {arch}, batch {record['batch']}, {kind} | {cells} |")
    lines += [
        "",
        f"{together['processes']} processes started at once on an empty cache: none "
        f"failed, {together['lines_on_stderr']} warnings; the next found "
        f"{together['programs_found_after']} of its "
        f"{together['programs_needed_after']} programs there.",
    ]
    return lines


def convolutions(record: dict[str, Any]) -> list[str]:
    """All convolutions of a step beside PyTorch's, and the bound they set."""
    arguments = record["arguments"]
    return [
        f"{machine(record)} Batch {arguments['batch']}, median of "
        f"{arguments['rounds']} turns each.",
        "",
        "| convolutions of a step, ms | eqcifar | PyTorch | ratio "
        "| PyTorch's whole step | bound of the step's ratio |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row['arch']} | {row['ms'][OURS]:,.0f} "
            f"| {row['ms']['channels_last']:,.0f} "
            f"| {row['ratio']:.2f} | {row['step_ms']['channels_last']:,.0f} "
            f"| **{row['bound']:.2f}** |"
            for row in record["archs"]
        ),
    ]


def profile(record: dict[str, Any]) -> list[str]:
    """Shares of a step by kind."""
    kinds = sorted(record["rows"][0]["ms"])
    return [
        f"{machine(record)} Mean of {record['arguments']['steps']} steps.",
        "",
        f"| ms of a step | {' | '.join(kinds)} |",
        f"|---|{'---|' * len(kinds)}",
        *(
            f"| {row['arch']}, batch {row['batch']} | "
            + " | ".join(f"{row['ms'][k]:,.1f} ({row['share'][k]:.0%})" for k in kinds)
            + " |"
            for row in record["rows"]
        ),
    ]


def ablation(record: dict[str, Any]) -> list[str]:
    """Images a second of each variant."""
    rows = record["rows"]
    names = list(dict.fromkeys(n for row in rows for n in row["images_per_second"]))
    commit = record["before"]
    before = f"; `before` is commit {commit[:7]}" if commit else ""
    lines = [
        f"{machine(record)} Images/s, median of {record['arguments']['rounds']} turns, "
        f"lowest to highest{before}.",
        "",
        f"| | {' | '.join(row['arch'] for row in rows)} |",
        f"|---|{'---|' * len(rows)}",
    ]
    for name in names:
        found = [row["images_per_second"].get(name) for row in rows]
        cells = (
            f"{f['median']:,.1f} ({f['low']:,.1f} to {f['high']:,.1f})" if f else ""
            for f in found
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def recipe_values() -> list[str]:
    """The options in which recipes differ."""
    configs = [TrainConfig.from_dict(recipe_options(name)) for name in RECIPES]
    lines = [f"| {' | '.join(RECIPES)} |", "---".join("|" * (len(RECIPES) + 1))]
    for field in dataclasses.fields(TrainConfig):
        values = [getattr(config, field.name) for config in configs]
        if len(set(values)) > 1:
            words = (" ".join(option_words(field.name, value)) for value in values)
            lines.append(f"| `{'` | `'.join(words)}` |")
    return lines


def fast_recipe(rows: list[dict[str, Any]]) -> list[str]:
    """Accuracy and time of whole runs with the fast recipe of their day."""
    lines = [
        "| network | epochs | seed | test accuracy, 95 % interval | training, minutes "
        "| images/s, median epoch | machine |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        case, config = row["case"], row["case"]["config"]
        value, low, high = (100 * x for x in row["accuracy"])
        timed = row["training_seconds"] is not None
        minutes = f"{row['training_seconds'] / 60:.3g}" if timed else ""
        images = f"{row['images_per_s']:,.0f}" if timed else ""
        by = "Muon" if config.get("muon_lr") else "SGD"
        network = f"{config['arch']}, width {config['width']:g}"
        lines.append(
            f"| {network}, {config['precision']}, {by} "
            f"| {config['epochs']} | {case['seed']} "
            f"| **{value:.2f} %**, {low:.1f} to {high:.1f} "
            f"| {minutes} | {images} | {processor(row)} |"
        )
    return lines


def recipe_search(recipe_name: str, rows: list[dict[str, Any]]) -> list[str]:
    """Validation accuracy of recipes, by the options beside one that has a name."""
    recipe = TrainConfig.from_dict(recipe_options(recipe_name))
    ours = {*recipe.to_dict()} - {"dataset", "val_size", "eval_every", "seed"}
    lines = [
        f"| beside `--recipe {recipe_name}` | seed | validation | training | TFLOP |",
        "|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: -row["accuracy"]):
        config = TrainConfig.from_dict(row["case"]["config"])
        changed = [
            word
            for name in config.to_dict()
            if name in ours and getattr(config, name) != getattr(recipe, name)
            for word in option_words(name, getattr(config, name))
        ]
        words = f"`{' '.join(changed)}`" if changed else "nothing"
        lines.append(
            f"| {words} | {row['case']['seed']} "
            f"| {100 * row['accuracy']:.2f} % | {100 * row['training_accuracy']:.2f} % "
            f"| {row['teraflop']:.0f} |"
        )
    return lines


def recipe_ablation(rows: list[dict[str, Any]]) -> list[str]:
    """Validation accuracy with each trick changed."""
    seeds = sorted({row["case"]["seed"] for row in rows})
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        case = row["case"]
        found.setdefault(case["changed"], {})[case["seed"]] = row["accuracy"]
        for view, accuracy in row.get("views", {}).items():
            found.setdefault(view, {})[case["seed"]] = accuracy
    lines = [
        f"| changed | {' | '.join(f'seed {seed}' for seed in seeds)} |",
        f"|---|{'---|' * len(seeds)}",
    ]
    for changed, by_seed in found.items():
        cells = (
            f"{100 * by_seed[seed]:.2f} %" if seed in by_seed else "" for seed in seeds
        )
        lines.append(f"| {changed} | {' | '.join(cells)} |")
    return lines


def main():
    found = {"comparison": comparison(), "train_step": train_step()}
    by_machine = {
        "input": inputs,
        "startup": startup,
        "convolutions": convolutions,
        "step_profile": profile,
        "step_ablation": ablation,
    }
    for name, table in by_machine.items():
        found[name] = [
            line for record in records(name) for line in ["", *table(record)]
        ][1:]
    renew(DOCS / "speed.md", {name: lines for name, lines in found.items() if lines})
    recipes = {
        "fast_recipe": (fast_recipe, ["fast_recipe_cpu", "fast_recipe_gpu"]),
        "fast_recipe_ablation": (recipe_ablation, ["fast_recipe_ablation_cpu"]),
        "airbench94_ablation": (recipe_ablation, ["airbench94_ablation_cpu"]),
        "fast_recipe_search": (
            partial(recipe_search, "fast"),
            ["fast_recipe_search_cpu"],
        ),
        "fast_recipe_search_gpu": (
            partial(recipe_search, "fast"),
            ["fast_recipe_search_gpu"],
        ),
        "airbench94_search": (
            partial(recipe_search, "airbench94"),
            ["airbench94_search_gpu"],
        ),
    }
    found = {"recipes": recipe_values()}
    for name, (table, files) in recipes.items():
        if rows := [row for file in files for row in read(file).get("rows", [])]:
            found[name] = table(rows)
    renew(DOCS / "training.md", found)


if __name__ == "__main__":
    main()

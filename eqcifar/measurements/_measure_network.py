import math
from collections.abc import Iterable, Mapping
from functools import partial

from ..measures import check_measures
from ..sharpness import Measured
from ._compute_measure import check_mode, measure_examples
from ._measured_network import MeasuredNetwork, SharpnessOptions
from ._row import sharpness_row
from ._sharpness_table import SharpnessTable
from ._work import Show, Warn, Work, silent


def measure_network(
    trained: MeasuredNetwork,
    measures: Iterable[str],
    splits: Iterable[str],
    options: SharpnessOptions,
    *,
    devices: int | None = None,
    report: Show = silent,
    warn: Warn = silent,
) -> dict[str, dict[str, Measured]]:
    """Measure a network on splits, going on where an equal call was interrupted.

    What is done is kept beside the network, every half minute and when `report` raises,
    until `append_measures`.

    **Arguments:**

    - `measures`: names in `eqcifar.measures.MEASURES`, or `all`.
    - `report`: called with split, measure, work done, the whole, and what gives the
        estimate so far. It may raise, to stop.
    - `warn`: called with a line when nothing can be kept.

    **Returns:**

    What was found, by split and measure: the same bits, interrupted or not.

    **Raises:**

    `UsageError` for what cannot be measured with these options.
    """
    measures = check_measures(measures)
    check_mode(measures, options)
    work = Work(trained, options, "measures", devices=devices, warn=warn)
    network, loss = trained.network(options), trained.loss(options)
    chosen = {name: trained.examples(name, options, work.mesh) for name in splits}
    found: dict[str, dict[str, Measured]] = {}
    for split, examples in chosen.items():
        found[split] = {}
        with work.keeping(split, partial(report, split)) as (rows, follow):
            for name in measures:
                label = f"{split}-{name}"
                if label not in work.unfinished.finished:
                    measured = measure_examples(
                        network,
                        examples,
                        name,
                        loss,
                        options,
                        together=measures,
                        rows=rows,
                        start=trained.start,
                        report=partial(follow, name),
                    )
                    work.unfinished.finish(label, measured)
                found[split][name] = work.unfinished.finished[label]
    return found


def append_measures(
    trained: MeasuredNetwork,
    options: SharpnessOptions,
    found: Mapping[str, Mapping[str, Measured]],
    *,
    devices: int | None = None,
):
    """Append what was found to the network's table; it need not be kept elsewhere.

    What was found on other images than those of its training is not appended.

    **Arguments:**

    - `found`: from `measure_network` with the same options and devices.

    **Raises:**

    `RunError` when the table cannot be written; then nothing is lost.
    """
    work = Work(trained, options, "measures", devices=devices)
    work.append(sharpness_row(trained, options, found))


def measures_table(
    trained: MeasuredNetwork,
    options: SharpnessOptions,
    found: Mapping[str, Mapping[str, Measured]],
) -> SharpnessTable:
    """What was found, as tables and pictures.

    **Arguments:**

    - `found`: from `measure_network` with the same options.
    """
    config, dataset = trained.config, trained.dataset
    mode = "each batch" if options.batch_statistics else "running statistics"
    penalty = trained.penalty(options)
    decay = f": it would add lambda P = {penalty:.6g} to tr_hess"
    remarks = [
        f"Normalised by {mode}, without augmentation and dropout. Weight decay is left "
        f"out{'' if math.isnan(penalty) else decay}."
    ]
    if "train" in found and dataset.train.true_labels is not None:
        remarks.insert(
            0,
            "train: by the labels that are given, of which "
            f"{dataset.train.wrong_share} are wrong.",
        )
    return SharpnessTable(
        found,
        options,
        trained.loss(options),
        sizes={split: len(each) for split, each in dataset.splits.items()},
        title=f"{trained.path}: {config.arch}{options.of_what}",
        network=f"{config.arch}, width {config.width:g}, seed {config.seed}"
        f"{options.of_what}",
        data=(dataset.title, dataset.short_name),
        mode=mode,
        remarks=remarks,
        synthetic=dataset.synthetic,
    )

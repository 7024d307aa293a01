import dataclasses

import jax

from .. import sharpness
from ..config import CompareOptions
from ..sharpness import Comparison, Estimate
from ..storage import Cell
from ._measured_network import MeasuredNetwork, SharpnessOptions
from ._row import column_name, columns_of, first_columns
from ._work import Show, Warn, Work, silent


@dataclasses.dataclass(frozen=True)
class SplitComparison:
    """How alike curvature is on training and on test images.

    - `ratio`: trace on test over trace on train, of the GGN, between the populations
        that the splits are drawn from.
    - `common`: ratios and cosines under common random vectors, see
        `eqcifar.sharpness.compare`; `first` is train.
    """

    ratio: Estimate
    common: Comparison


def compare_splits(
    trained: MeasuredNetwork,
    options: CompareOptions,
    *,
    devices: int | None = None,
    report: Show = silent,
    warn: Warn = silent,
    append: bool = True,
) -> SplitComparison:
    """Compare the curvature of the training loss with that of the test loss.

    An equal call goes on where one was interrupted, as `measure_network` does.

    **Arguments:**

    - `options`: `eigenvectors` are those of each half of a split.
    - `report`, `warn`: called as by `measure_network`.
    - `append`: append it to the network's table.
    """
    key, count, split = (
        jax.random.key(options.seed),
        options.eigenvectors,
        options.of_a_split(),
    )
    work = Work(trained, split, f"compare {count}", devices=devices, warn=warn)
    network, loss = trained.network(split), trained.loss(split)
    memory = 1e9 * options.memory * work.mesh.size
    sharpness.check_comparison(network, options.probes, count, memory)
    splits = {s: trained.examples(s, split, work.mesh) for s in ("train", "test")}
    train, test = splits.values()

    what = ""

    def show(done: int, total: int, pieces: sharpness.Rows):
        report(what, str(loss), done, total, lambda: None)

    with work.keeping("compare", show) as kept, sharpness.keeping(*kept):
        traces = []
        for index, (name, examples) in enumerate(splits.items()):
            what = f"trace, {name}"
            with sharpness.page(f"trace-{name}"):
                trace = sharpness.output_traces(
                    network,
                    examples,
                    loss,
                    probes=2,
                    scaled=("plain",),
                    memory=memory,
                    key=jax.random.fold_in(key, index),
                )
            traces.append(trace.estimate(target="population"))
        what = "spectra"
        common = sharpness.compare(
            network,
            train,
            test,
            loss,
            probes=options.probes,
            eigenvectors=count,
            seed=options.seed,
            memory=memory,
            key=key,
        )
    found = SplitComparison(sharpness.ratio(*traces[::-1]), common)
    row = _row(trained, split, found, len(train), len(test))
    work.append(row if append else None)
    return found


def _row(
    trained: MeasuredNetwork,
    options: SharpnessOptions,
    found: SplitComparison,
    train: int,
    test: int,
) -> dict[str, Cell]:
    row = first_columns(trained, options) | {"examples": train, "examples_te": test}
    values = {"ratio_ggn": found.ratio}
    for matrix, cosines in found.common.cosine.items():
        values[f"cos_{matrix}"] = cosines["splits"]
    for name, estimate in values.items():
        row |= columns_of(column_name(trained, options, name, "train"), estimate)
    if found.common.overlap:
        column = column_name(trained, options, "overlap", "train")
        row[column] = found.common.overlap["across"]
    return row

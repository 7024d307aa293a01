import dataclasses
from collections.abc import Callable
from functools import partial

import jax

from .. import sharpness
from ..errors import UsageError
from ..parallel import make_mesh
from ..sharpness import Comparison, Estimate
from ..storage import append_wide
from ._measure import Show, column_name, first_columns, open_partial, saving
from ._measured_network import SharpnessOptions, Subject


@dataclasses.dataclass(frozen=True)
class SplitComparison:
    """How alike curvature is on training and on test images.

    - `ratio`: trace on test over trace on train, of the GGN, between the populations
        that the splits are drawn from.
    - `common`: ratios and cosines under common random vectors, see
        `eqcifar.sharpness.compare`; `first` is train.
    - `count`: of eigenvectors compared.
    """

    ratio: Estimate
    common: Comparison
    count: int


def compare_splits(
    subject: Subject,
    options: SharpnessOptions,
    *,
    count: int = 10,
    devices: int | None = None,
    report: Show = lambda *_: None,
    warn: Callable[[str], None] = lambda message: None,
    keep: bool = True,
) -> SplitComparison:
    """Compare the curvature of the training loss with that of the test loss.

    An equal call goes on where one was interrupted, as `measure_subject` does.

    **Arguments:**

    - `options`: `probes` are the random vectors that all matrices share.
    - `count`: eigenvectors of each half of a split; 0: none.
    - `report`, `warn`: called as by `measure_subject`.
    - `keep`: append it to the subject's table.
    """
    if options.batch_statistics:
        raise UsageError("splits are compared with running statistics")
    mesh, key = make_mesh(devices), jax.random.key(options.seed)
    network, loss = subject.network(options), subject.loss(options)
    memory = 1e9 * options.memory * mesh.size
    sharpness.check_comparison(network, options.probes, count, memory)
    splits = {s: subject.examples(s, options, mesh) for s in ("train", "test")}
    train, test = splits.values()
    unfinished = open_partial(subject, options, mesh, warn, f"compare {count}")
    with unfinished.keeping("compare") as (rows, save):

        def show(what: str, done: int, total: int):
            report(what, str(loss), done, total, lambda: None)

        follow = saving(show, save)
        traces = [
            sharpness.output_traces(
                network,
                examples,
                loss,
                probes=2,
                scaled=("plain",),
                memory=memory,
                key=jax.random.fold_in(key, index),
                done=rows.setdefault(f"trace-{name}", {}),
                report=partial(follow, f"trace, {name}"),
            ).estimate(target="population")
            for index, (name, examples) in enumerate(splits.items())
        ]
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
            done=rows,
            report=follow,
        )
    found = SplitComparison(sharpness.ratio(*traces[::-1]), common, count)
    if keep and subject.same_data:
        _keep(subject, options, found, len(train), len(test))
    unfinished.forget()
    return found


def _keep(
    subject: Subject,
    options: SharpnessOptions,
    found: SplitComparison,
    train: int,
    test: int,
):
    row = first_columns(subject, options) | {"examples": train, "examples_te": test}
    values = {"ratio_ggn": found.ratio}
    for matrix, cosines in found.common.cosine.items():
        values[f"cos_{matrix}"] = cosines["splits"]
    for name, estimate in values.items():
        column = column_name(subject, options, name, "train")
        row[column], row[f"{column}_se"] = estimate.value, estimate.standard_error
    if found.common.overlap:
        column = column_name(subject, options, "overlap", "train")
        row[column] = found.common.overlap["across"]
    append_wide(subject.table, row)

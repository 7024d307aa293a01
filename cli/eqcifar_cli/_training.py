import shlex
from pathlib import Path

import jax
import typer

from eqcifar import measurements, models, parallel, runs
from eqcifar.config import SharpnessOptions, TrainConfig
from eqcifar.data import Dataset
from eqcifar.errors import RunError, UsageError
from eqcifar.storage import Run
from eqcifar.training import Row, TrainState

from ._output import console, print_warning, say
from ._progress import Reporter, format_row
from ._run_options import RunOptions
from ._sharpness_runs import measuring, show_outcome
from ._stop import StopRequest, exit_code


class Training:
    """A run as the command line trains it: told of, measured, tracked, and stopped."""

    def __init__(
        self, config: TrainConfig, options: RunOptions, tracking: runs.Tracking
    ):
        """Nothing is trained yet, but all that can be refused by now is."""
        self._config, self._options, self._tracking = config, options, tracking
        if options.measure and jax.process_count() > 1:
            raise UsageError(
                "--measure takes one process: leave it out, and measure with "
                "`eqcifar sharpness` when training has ended"
            )
        self._screen = console(quiet=not parallel.is_main_process())
        self._reporter = Reporter(self._screen, config.epochs)
        self._stop = StopRequest(self._reporter.bar)
        self._started = False
        self._sharpness = None
        if options.sharpness_every:
            self._sharpness = measurements.SharpnessLog(
                config,
                options.sharpness_every,
                [name.strip() for name in options.sharpness_measures.split(",")],
                SharpnessOptions(samples=options.sharpness_samples),
                warn=print_warning,
                report=self._reporter.on_measure,
                should_stop=self._stop,
            )
        self._stability = None
        if options.stability_every:
            self._stability = measurements.StabilityLog(
                config,
                options.stability_every,
                batches=options.stability_batches,
                warn=print_warning,
            )

    def train(self, out: Path) -> Run:
        """Train it, or go on with it."""
        watch = self._stability
        by_step = watch and {"on_step": watch.on_step, "on_save": watch.on_save}
        hooks = runs.Hooks(
            **(by_step or {}),
            on_start=self._on_start,
            on_compiled=self._on_compiled,
            on_progress=self._reporter.on_progress,
            on_epoch=self._on_epoch,
            should_stop=self._stop,
            warn=print_warning,
            lend=True,
        )
        with self._tracking, self._stop, self._reporter:
            run = runs.train_run(
                self._config,
                out,
                devices=self._options.devices,
                grad_accum=self._options.grad_accum,
                remat=self._options.remat,
                keep_every=self._options.keep_every,
                hooks=hooks,
            )
            if not self._started:
                self._track(run)
        return run

    def conclude(self, run: Run):
        """Say how it ended, and exit with a code that does."""
        # One process may have been told to stop; all exit alike.
        number = parallel.highest(self._stop.number or 0)
        status = run.status()
        if status["state"] == "interrupted":
            say(
                f"Interrupted: {status['message']}. Results in {run.path}. Run the "
                "same command to go on.",
                self._screen,
            )
            raise typer.Exit(exit_code(number))
        verb = "Finished" if self._started else "Finished before, nothing to do"
        mark = "SYNTHETIC" if status.get("synthetic") else ""
        say(
            f"{verb}: {format_row(run.log()[-1], self._config.epochs, mark)}\n"
            f"Results in {run.path}\nNext: eqcifar eval {shlex.quote(str(run.path))}",
            self._screen,
        )

    def measure(self, run: Run):
        """Measure the trained network, as far as it has not been measured."""
        wanted = self._options.to_measure()
        if wanted is None:
            return
        for outcome in measuring([run], *wanted, self._options.devices):
            if outcome.state == "failed":
                raise RunError(f"cannot measure {run.path}: {outcome.message}")
            say(show_outcome(outcome) or "Measured before", self._screen)

    def _on_start(self, run: Run, dataset: Dataset, train_state: TrainState):
        self._started = True
        self._stop.listen()
        config, step = self._config, int(train_state.step)
        verb = f"Going on after step {step}" if step else "Training"
        splits = dataset.splits.items()
        sizes = ", ".join(f"{len(part)} {name}" for name, part in splits)
        wrong = ""
        if dataset.train.true_labels is not None:
            wrong = f", {dataset.train.wrong_share} train labels wrong"
        parameters = models.count_parameters(train_state.model)
        self._reporter.print(
            f"{verb}: {config.arch} ({parameters:,} parameters, {config.loss} loss) on "
            f"{dataset.title}: {sizes} images{wrong}\nResults in {run.path}"
        )
        self._reporter.start(step, "SYNTHETIC" if dataset.synthetic else "")
        if self._sharpness is not None:
            self._sharpness.on_start(run, dataset, train_state)
        if self._stability is not None:
            self._stability.on_start(run, dataset, train_state)
        self._track(run)
        self._reporter.on_compile()

    def _track(self, run: Run):
        if parallel.is_main_process():
            self._tracking.start(run)

    def _on_compiled(self, memory: int | None):
        if memory is not None:
            self._reporter.print(f"A step needs {memory / 1e9:.2f} GB on each device")

    def _on_epoch(self, train_state: TrainState, row: Row):
        self._reporter.on_epoch(row)
        # Trackers take the sharpness of an epoch with its row.
        if self._sharpness is not None:
            self._sharpness.on_epoch(train_state, row)
        self._tracking.log(row)

"""Every reader of a file takes what a stranger made of it, or says no in one line.

`python -m benchmarks strangers` has thousands of tries; these are a few, the same each
time.
"""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from benchmarks.hostile import _checkpoints, _damage, _datasets, _names, _texts, _try
from eqcifar import data, exchange, runs
from eqcifar.config import ImportOptions, TrainConfig, read_values
from eqcifar.data import read_image
from eqcifar.errors import EqcifarError, UsageError
from eqcifar.storage import (
    Run,
    cut_log,
    last_values,
    read_each_measure,
    read_log,
    read_sharpness_log,
    read_wide,
    total_seconds,
)
from eqcifar.sweeps import Grid

from .cli_tools import run_cli

quick = settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

_CELLS = st.one_of(
    st.floats(width=64).map(repr),
    st.integers(-5, 5).map(str),
    st.sampled_from([*_damage._WORDS, "epoch", "acc_te", "seconds", "check", "crc0"]),
    st.text(max_size=8),
)
_TABLES = st.lists(st.lists(_CELLS, max_size=6).map("\t".join), max_size=6).map(
    lambda lines: "\n".join(lines).encode("utf-8", "surrogatepass")
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    [
        *("config", "data", "model", "about", "format", "state", "seconds", "epoch"),
        *("check", "devices", "versions", "git"),
    ]
)
_JSON = st.dictionaries(_KEYS | st.text(max_size=5), _VALUES, max_size=5).map(
    lambda value: json.dumps(value).encode()
)
_ANYTHING = st.binary(max_size=200)


def or_one_line(read, *arguments, **options):
    """What a reader finds, or the line that it raises."""
    with _try.watching() as harm:
        try:
            found = read(*arguments, **options)
        except EqcifarError:
            found = None
    assert not harm
    return found


@quick
@given(_TABLES | _ANYTHING)
def test_any_table_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    path.write_bytes(content)
    rows = or_one_line(read_log, path) or []
    assert all(a["epoch"] < b["epoch"] for a, b in zip(rows, rows[1:], strict=False))
    for name in ("acc", "acc_te", "acc_tr"):
        assert all(
            not row.get(name, 0) < 0 and not row.get(name, 0) > 1 for row in rows
        )
    for read in (last_values, total_seconds, read_wide, read_sharpness_log):
        or_one_line(read, path)
    or_one_line(last_values, path, "acc_te")
    or_one_line(lambda: list(read_each_measure(path)))
    or_one_line(cut_log, path, 3)


@quick
@given(_JSON | _ANYTHING)
def test_any_json_of_a_run_is_read_or_refused(tmp_path_factory, content):
    run = Run(tmp_path_factory.getbasetemp() / "run")
    run.path.mkdir(exist_ok=True)
    for name in ("config.json", "status.json", "env.json"):
        (run.path / name).write_bytes(content)
    for read in (run.description, run.status, run.state, run.environment, run.is_done):
        or_one_line(read)
    or_one_line(_texts.seen, run.path.parent / "run")


@quick
@given(
    st.dictionaries(st.sampled_from([*_texts.CONFIG.to_dict()]), _VALUES, max_size=4)
)
def test_any_values_of_options_are_taken_or_refused(fields):
    config = or_one_line(TrainConfig.from_dict, fields)
    if config is not None:
        assert TrainConfig.from_dict(config.to_dict()) == config


@quick
@given(st.integers(0, 10**6))
def test_no_edit_of_a_run_makes_a_wrong_number(edited_run, seed):
    root, run, truth = edited_run
    path = run.path / _texts.FILES[seed % len(_texts.FILES)]
    content = path.read_bytes()
    (changed,) = _damage.edited(content, 1, seed)
    path.write_bytes(changed)
    try:
        text, lines = _texts.seen(root)
    finally:
        path.write_bytes(content)
    assert not _texts.strange(text, truth)
    assert not any("\n" in line for line in lines)


@pytest.fixture(scope="module")
def edited_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("edited") / "results"
    run = _texts.write_run(root)
    truth, lines = _texts.seen(root)
    assert not lines
    return root, run, truth


@quick
@given(st.integers(0, 10**6), st.sampled_from(["a.toml", "a.json"]), _JSON | _ANYTHING)
def test_any_file_of_settings_is_taken_or_refused(
    tmp_path_factory, seed, name, content
):
    path = tmp_path_factory.getbasetemp() / name
    (sweep,) = _damage.edited(_texts._SWEEP.encode(), 1, seed)
    for each in (content, sweep):
        path.write_bytes(each)
        or_one_line(lambda: Grid.read(path).configs())
        or_one_line(lambda: TrainConfig.from_dict(read_values(path)))


def test_lists_that_multiply_are_refused(tmp_path):
    (fault,) = [
        each for each in _texts.settings(tmp_path, 1) if each.fault.endswith("multiply")
    ]
    assert (fault.refused, fault.lost) == (3, 0)
    assert "at most 100,000 are one" in fault.line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return _checkpoints.write(tmp_path_factory.mktemp("hostile") / "x.safetensors")


def test_checkpoints_with_a_right_checksum_are_networks_or_refused(checkpoint):
    content = checkpoint.read_bytes()
    path = checkpoint.with_name("forged.safetensors")
    for what, each in _checkpoints.forged(content, 30, seed=1):
        path.write_bytes(each)
        loaded = or_one_line(runs.load_model, path)
        assert loaded is None or _checkpoints._is_network(loaded), what


def test_a_header_of_gigabytes_is_refused_before_it_is_read(checkpoint):
    path = checkpoint.with_name("long.safetensors")
    path.write_bytes((2**33).to_bytes(8, "little") + checkpoint.read_bytes()[8:])
    with pytest.raises(runs.CheckpointError, match="would have 8,589,934,592 bytes"):
        runs.load_model(path)


@settings(quick, max_examples=30)
@given(st.integers(0, 10**6))
def test_damaged_files_of_networks_are_refused(checkpoint, seed):
    (changed,) = _damage.damaged(checkpoint.read_bytes(), 1, seed)
    path = checkpoint.with_name("damaged.safetensors")
    path.write_bytes(changed)
    assert or_one_line(runs.load_model, path) is None
    options = ImportOptions(arch="resnet8", width=0.25)
    or_one_line(exchange.open_foreign, path, options, 4)


@quick
@given(st.integers(0, 10**6), st.sampled_from(["PNG", "JPEG", "BMP", "GIF", "TIFF"]))
def test_damaged_images_are_read_or_refused(tmp_path_factory, seed, form):
    path = tmp_path_factory.getbasetemp() / "x.image"
    (content,) = _damage.damaged(_datasets.image(form=form), 1, seed)
    path.write_bytes(content)
    pixels = or_one_line(read_image, path)
    assert pixels is None or (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)


def test_postscript_starts_no_program(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage")
    assert or_one_line(read_image, path) is None


def test_files_outside_of_a_folder_are_named_and_hosts_not_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCIFAR_CACHE", str(tmp_path / "cache"))
    private = tmp_path / "private.png"
    private.write_bytes(_datasets.image(77))
    folder = _datasets.make(tmp_path / "linked")
    (folder / "train" / "cat" / "1.png").symlink_to(private)
    (folder / "train" / "cat" / "2.png").symlink_to("2.png")
    (note,) = data.load(str(folder)).notes
    assert note == f"1 of its files lie outside of the folder, such as {private}"
    named = _datasets.make(tmp_path / "named")
    _datasets._parquet({"bytes": None, "path": "http://127.0.0.1:9/x.png"})(named)
    assert or_one_line(data.load, str(named)) is None
    card = "---\nconfigs:\n- data_files: [{split: train, path: PATH}]\n---\n"
    for path in ("../../*", "/etc/*", "http://127.0.0.1:9/x"):
        (folder / "README.md").write_text(card.replace("PATH", path))
        with pytest.raises(UsageError, match="outside of the folder: mend"):
            data.load(str(folder))


@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_names_are_no_commands(tmp_path, form):
    checks = {"markdown": _names._is_markdown(1), "csv": _names._is_csv(",", 1)}
    checks |= {"latex": _names._is_latex}
    for kind, name in _names.NAMES.items():
        root = tmp_path / kind
        _texts.write_run(root, TrainConfig(arch="a.B", epochs=1), f"/{name}", note=name)
        result = run_cli("tabulate", root, "--format", form)
        assert not _names._is_plain(result.stdout + result.stderr), kind
        if result.exit_code == 0:
            assert not checks[form](result.stdout), kind
        else:
            assert result.stderr.splitlines()[-1].startswith("Error: "), kind


def test_names_on_a_model_card_are_no_commands(tmp_path):
    (tmp_path / "x.png").write_bytes(_datasets.image())
    fault = _names.exports(tmp_path)
    assert (fault.lost, fault.wrong, fault.tries) == (0, 0, 2 * len(_names.NAMES) - 1)

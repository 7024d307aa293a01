import json
from importlib.metadata import version

import pytest

from eqcifar_cli import _doctor

from .cli_tools import run_cli


def findings(result):
    return {entry["subject"]: entry for entry in json.loads(result.stdout)}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A cache folder with one file of 2,048 bytes."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "images.npz").write_bytes(bytes(2048))
    monkeypatch.setenv("EQCIFAR_CACHE", str(folder))
    monkeypatch.setattr(_doctor, "_ENOUGH_SPACE", 0)
    return folder


def test_doctor_lists_versions_devices_and_caches(cache, tmp_path):
    (cache / "jax").mkdir()
    (cache / "jax" / "step-cache").write_bytes(bytes(1024))
    unset = {"JAX_COMPILATION_CACHE_DIR": ""}
    result = run_cli("doctor", "--out", tmp_path, "--json", **unset)
    found = findings(result)
    assert result.exit_code == 0, found
    assert found["jax"]["found"] == version("jax")
    assert "8 x cpu" in found["devices"]["found"]
    assert found["decoded images"]["found"] == f"{cache} (2.0 KiB in 1 files)"
    programs = f"{cache / 'jax'} (1.0 KiB in 1 files, at most 2.0 GiB)"
    assert found["compiled programs"]["found"] == programs
    assert found["results"]["found"] == str(tmp_path)
    assert "caches alone" in found["HF_HUB_OFFLINE"]["found"]
    assert not any(entry["remedy"] for entry in found.values())


@pytest.mark.usefixtures("cache")
def test_doctor_names_what_a_gpu_lacks(monkeypatch, tmp_path):
    monkeypatch.delenv("JAX_PLATFORMS")
    for driver, extra in (("570.86.15", "cuda12"), ("580.65.06", "cuda13")):
        monkeypatch.setattr(_doctor, "_nvidia_gpus", lambda d=driver: [("H100", d)])
        result = run_cli("doctor", "--out", tmp_path)
        assert result.exit_code == 1
        assert f"H100, driver {driver}" in result.stdout
        assert f'pip install "eqcifar[{extra}]"' in result.stdout
        assert result.stdout.endswith("1 to mend.\n")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "unset it" in run_cli("doctor", "--out", tmp_path).stdout


@pytest.mark.usefixtures("cache")
def test_doctor_finds_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    result = run_cli("doctor", "--out", tmp_path / "file" / "results", "--json")
    assert result.exit_code == 1
    assert "give --out" in findings(result)["results"]["remedy"]


@pytest.mark.usefixtures("cache")
def test_doctor_names_the_platform_that_is_not_here(monkeypatch, tmp_path):
    def devices():
        raise AssertionError

    monkeypatch.setattr("jax.devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    found = findings(run_cli("doctor", "--out", tmp_path, "--json"))["devices"]
    assert found["found"] == "AssertionError"
    assert found["remedy"] == (
        "JAX_PLATFORMS asks for cuda: unset it, or set it to cpu"
    )


@pytest.mark.usefixtures("cache")
def test_doctor_finds_a_folder_without_home(monkeypatch, tmp_path):
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", "~/.cache/huggingface/datasets")
    found = findings(run_cli("doctor", "--out", tmp_path, "--json"))["datasets cache"]
    assert found["found"] == "this user has no home folder"
    assert found["remedy"] == "set HF_HOME to a folder"


@pytest.mark.usefixtures("cache")
def test_doctor_finds_a_full_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(_doctor, "_ENOUGH_SPACE", 2**80)
    result = run_cli("doctor", "--out", tmp_path, "--json")
    assert result.exit_code == 1
    assert "make room" in findings(result)["results"]["remedy"]


@pytest.mark.usefixtures("cache")
def test_doctor_without_datasets(monkeypatch, tmp_path):
    found = _doctor.version

    def absent(package):
        if package == "datasets":
            raise _doctor.PackageNotFoundError
        return found(package)

    monkeypatch.setattr(_doctor, "version", absent)
    result = run_cli("doctor", "--out", tmp_path, "--json")
    assert result.exit_code == 1
    assert findings(result)["datasets"]["remedy"] == "pip install datasets"

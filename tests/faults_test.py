"""Disks that are full, and folders in use: one line says it, and then the same command resumes."""

import os
import re
import resource
import subprocess

import pytest

from darts_tf.bin import lock, search_cnn, train_rnn
from tests.programs import ROOT, run
from tests.resume_test import COMMANDS, rows_of, start_arguments


def search(folder, limit=None, flags=()):
    """(exit code, standard output, standard error) of a search, with a limit of file sizes."""

    def limited():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ran = subprocess.run(
        [*start_arguments("never", "search_cnn", folder), *flags],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        preexec_fn=limited,
    )
    errors = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in ran.stderr
    return ran.returncode, ran.stdout, errors


def refused(result, folder, name, why):
    """Asserts that a run ended in one line that names the file and the bytes."""
    code, _, errors = result
    assert code == 1 and len(errors) == 1, result
    pattern = (
        rf"error: Cannot write {re.escape(str(folder))}/{name}: {why}. It needs [\d,]+ bytes; "
        r"[\d,]+ are free there. Make room .*, and do the same again."
    )
    assert re.fullmatch(pattern, errors[0]), errors
    print(errors[0])


@pytest.mark.slow
def test_a_limit_of_file_sizes_stops_the_run_which_then_goes_on(tmp_path):
    folder = tmp_path / "run"
    refused(
        search(folder, 10_000), folder, r"checkpoints/000001-00000000\.checkpoint", "File too large"
    )
    assert [p for p in (folder / "checkpoints").iterdir()] == []
    code, said, _ = search(folder)
    assert code == 0, said
    assert [row["epoch"] for row in rows_of(folder / "metrics.jsonl")] == [0, 1, 2]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_the_last_checkpoint_survives(small_disk, tmp_path):
    folder, filler = small_disk / "run", small_disk / "filler"
    large = ["--init_channels=16"]  # so that a checkpoint is larger than all other files
    assert search(tmp_path / "elsewhere", flags=large)[0] == 0
    size = next((tmp_path / "elsewhere" / "checkpoints").iterdir()).stat().st_size
    # Room for one checkpoint and the small files, not for two.
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    filler.write_bytes(b"x" * (free - size * 3 // 2 - 60_000))
    refused(
        search(folder, flags=large),
        folder,
        r"checkpoints/00000\d-0000000\d\.checkpoint",
        "No space left on device",
    )
    kept = [p.name for p in (folder / "checkpoints").iterdir()]
    assert kept == ["000001-00000000.checkpoint"]
    filler.unlink()
    code, said, _ = search(folder, flags=large)
    assert code == 0 and "search resumes after epoch 1/3\n" in said
    for name in ("metrics.jsonl", "alphas.npz", "genotype.json"):
        assert (folder / name).read_bytes() == (tmp_path / "elsewhere" / name).read_bytes()


@pytest.mark.slow
def test_a_disk_that_is_read_only_stops_the_run(small_disk):
    folder = small_disk / "run"
    folder.mkdir()
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(remount, check=True)
    code, _, errors = search(folder)
    assert code == 1 and len(errors) == 1
    assert f"{folder}" in errors[0] and "Read-only file system" in errors[0]
    print(errors[0])


@pytest.mark.parametrize("program", [search_cnn, train_rnn])
def test_a_folder_in_use_is_refused_and_left_alone(program, tmp_path, capsys):
    name = program.__name__.rpartition(".")[2]
    with lock.held(tmp_path):
        assert run(program, *COMMANDS[name], f"--workdir={tmp_path}") == 1
        said = capsys.readouterr().err
        assert f"The work folder {tmp_path} is in use by process {os.getpid()} on " in said
        assert [p.name for p in tmp_path.iterdir()] == [lock.NAME]

"""The work folder of a run: its flags and checkpoints; two runs are never mixed in one folder."""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from absl import flags

from darts_tf import files
from darts_tf.bin import devices, lock, same_data
from darts_tf.errors import InputError

NOT_OF_THE_RUN = {"workdir", "data_dir", "flagfile", "undefok"} | {
    "threads",
    "intra_op_threads",
    "inter_op_threads",
    "graph_optimizer",
    "deterministic",
    "jit_compile",
    "recompute",
    "checkpoint_minutes",
    "keep_checkpoints",
    "strategy",
    "logical_devices",
}
"""Flags that do not affect the result; they may change on resume."""

BEFORE = {"split": "published"}
"""Flags that resume with the run's value if none is given, and what they were before they were
there."""

STAGES = ("", "search", "train")
"""Where a run has checkpoints: the pipeline in two folders of its own."""

NOT_WRITTEN = {"workdir", "flagfile", "undefok"}
"""Flags that flags.txt leaves out: a copy of it may serve another folder."""


def _is_left(path: pathlib.Path) -> bool:
    """Whether a folder is new all the same: a process was killed before it wrote flags.txt."""
    return path.name == lock.NAME or files.left_of(path) == "flags.txt"


def define_flag(values: flags.FlagValues) -> None:
    """Defines --workdir."""
    flags.DEFINE_string(
        "workdir",
        None,
        "Folder for everything that the run writes; the same command again resumes it.",
        required=True,
        flag_values=values,
    )


def define_saving_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say when checkpoints are taken."""
    flags.DEFINE_float(
        "checkpoint_minutes",
        10.0,
        "Minutes between two checkpoints within an epoch; 0 for one after every step. After every "
        "epoch there is one anyway.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "keep_checkpoints",
        3,
        "How many checkpoints are kept. If the last one is damaged, the one before is used.",
        lower_bound=1,
        flag_values=values,
    )


def saving_of(values: flags.FlagValues):
    """What the flags of `define_saving_flags` say: a `darts_tf.training.checkpoints.Saving`."""
    from darts_tf.training.checkpoints import Saving

    return Saving(values.checkpoint_minutes, values.keep_checkpoints)


def check(values: flags.FlagValues) -> None:
    """Checks that the work folder is new, empty or of this run; writes nothing.

    Flags of `BEFORE` that are not given get the value of the run.

    Raises:
        InputError: It cannot be used, or holds a run with other flags; they are named.
    """
    folder = pathlib.Path(values.workdir)
    path = folder / "flags.txt"
    try:
        if path.exists():
            saved = _read(path)
            for name in set(BEFORE) & set(values):
                values.set_default(name, saved.setdefault(name, BEFORE[name]))
            _refuse_other_run(folder, _named(values), saved)
        elif folder.exists() and not all(map(_is_left, folder.iterdir())):
            raise InputError(
                f"The work folder {folder} is not empty and has no flags.txt, so it holds "
                "something else than a run. Name another folder with --workdir."
            )
    except OSError as error:
        raise _unusable(folder, error) from error


@contextlib.contextmanager
def prepared(
    values: flags.FlagValues,
    computation: devices.Computation = devices.ONE_DEVICE,
    fingerprint: dict | None = None,
) -> Iterator[pathlib.Path]:
    """The work folder, made or checked to be of this run, with flags.txt; no other run has it.

    Args:
        values: The flags.
        computation: On which devices; of several workers each but the first gets a folder of its
            own, and the first one writes.
        fingerprint: What the data is (see `darts_tf.data.fingerprint`), kept in fingerprint.json;
            None for no data.

    Raises:
        InputError: The folder cannot be written, holds a run with other flags or on other data, or
            is in use; or another worker has other data. What differs is named.
    """
    same_data.check_workers(fingerprint, computation)
    if not computation.is_chief:
        with _of_other_worker(values) as own:
            same_data.check(own, fingerprint)
            yield own
        return
    check(values)
    folder = pathlib.Path(values.workdir)
    lines = [
        f"--{name}={value}\n" for name, value in _named(values).items() if name not in NOT_WRITTEN
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error) from error
    with lock.held(folder):
        check(values)  # another process may have had it meanwhile
        same_data.check(folder, fingerprint)
        for stage in STAGES:
            for name in ("", "checkpoints", "plots"):
                files.remove_left(folder / stage / name)
        files.write(folder / "flags.txt", "".join(lines))
        same_data.record(folder, fingerprint)
        yield folder


@contextlib.contextmanager
def _of_other_worker(values: flags.FlagValues) -> Iterator[pathlib.Path]:
    """The folder of a worker that is not the first: a copy for itself, thrown away at the end.

    Only the checkpoints are those of the work folder, so that all workers resume from the same.

    Raises:
        InputError: The work folder holds a run with other flags; they are named.
    """
    check(values)
    folder = pathlib.Path(values.workdir).absolute()
    with tempfile.TemporaryDirectory(prefix="darts_tf_worker_") as name:
        own = pathlib.Path(name)
        if folder.exists():
            not_copied = shutil.ignore_patterns("checkpoints", "tensorboard", files.PARTIAL + "*")
            shutil.copytree(folder, own, ignore=not_copied, dirs_exist_ok=True)
        for stage in STAGES:
            (own / stage).mkdir(exist_ok=True)
            # The folder that it leads to may not be there yet; the first worker makes it.
            (own / stage / "checkpoints").symlink_to(folder / stage / "checkpoints")
        yield own


def _unusable(folder: pathlib.Path, error: OSError) -> InputError:
    return InputError(
        f"The work folder {folder} cannot be written: {error.strerror}. Name another "
        "folder with --workdir, or change its permissions."
    )


def _named(values: flags.FlagValues) -> dict[str, str]:
    named = {}
    for name in sorted(values):
        flag = values[name]
        if flag.value is None:
            continue
        named[name] = flag.serialize().removeprefix(f"--{name}=")
        if flag.boolean:
            named[name] = str(flag.value).lower()
    return named


def _read(path: pathlib.Path) -> dict[str, str]:
    # Bytes that are no text differ from every flag, and are shown.
    # Only \n ends a line, as in what was written.
    lines = path.read_text(encoding="utf-8", errors="backslashreplace").split("\n")
    pairs = (line.removeprefix("--").partition("=") for line in lines if line.startswith("--"))
    return {name: value for name, _, value in pairs}


def _refuse_other_run(folder, own, saved) -> None:
    differing = [
        f"--{name} was {saved.get(name, 'not set')}, now {own.get(name, 'not set')}"
        for name in sorted({*own, *saved} - NOT_OF_THE_RUN)
        if own.get(name) != saved.get(name)
    ]
    if differing:
        raise InputError(
            f"The work folder {folder} holds a run with other flags: {'; '.join(differing)}. "
            "Repeat its "
            f"command (--flagfile={folder / 'flags.txt'}) to resume, or name another folder "
            "with --workdir."
        )

"""A run resumes on the data that it began with: fingerprint.json of its work folder says which."""

import hashlib
import json
import pathlib

from darts_tf import reading
from darts_tf.bin import common, devices
from darts_tf.errors import InputError

FILE = "fingerprint.json"


def check_workers(fingerprint: dict | None, computation: devices.Computation) -> None:
    """Checks that all workers of a run have the same data; it must be called on each.

    Args:
        fingerprint: That of this worker's data, as `darts_tf.data.fingerprint` makes it.
        computation: On which devices.

    Raises:
        InputError: They have not, on every worker; those that differ are named.
    """
    from darts_tf.training import distribution

    if fingerprint is not None and computation.strategy is not None:
        content = json.dumps(fingerprint, sort_keys=True).encode()
        digest = int.from_bytes(hashlib.blake2b(content, digest_size=7).digest(), "big")
        distribution.Workers(computation.strategy).check_same_data(digest)


def check(folder: pathlib.Path, fingerprint: dict | None) -> None:
    """Checks that the data is that of the run in a work folder; writes nothing.

    Raises:
        InputError: It is other data; what differs is named.
    """
    from darts_tf.data.fingerprint import differences

    path = folder / FILE
    if fingerprint is None:
        return
    if path.exists():
        remedy = "Put it back, or remove it to resume without this check."
        saved = reading.read_object(path, "fingerprint of the data", remedy)
        if found := differences(saved, fingerprint):
            raise InputError(
                f"The work folder {folder} holds a run on other data: {'; '.join(found)}. Give the "
                "data that it began with to resume, or name another folder with --workdir."
            )
    elif any(folder.rglob("checkpoints/*.checkpoint")):
        print(
            f"data        was not recorded when this run began, by an older version (no {path}); "
            "it is taken for the same and recorded now",
            flush=True,
        )


def record(folder: pathlib.Path, fingerprint: dict | None) -> None:
    """Writes fingerprint.json into a work folder that has none."""
    if fingerprint is not None and not (folder / FILE).exists():
        common.write_json(folder / FILE, fingerprint)

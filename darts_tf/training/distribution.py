"""Strategies by name: on which devices and machines a model is trained.

What a global batch is and how it is dealt out: `darts_tf.replicas`.
"""

import os
import re
from collections.abc import Mapping

import keras
import numpy as np
import tensorflow as tf

from darts_tf.errors import InputError, unknown_name
from darts_tf.reading import parse_json

STRATEGIES = ("auto", "one_device", "mirrored", "multi_worker")

EXAMPLE = (
    '{"cluster": {"worker": ["first.host:12345", "second.host:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)


def strategy_of(name: str = "auto", logical_devices: int = 0) -> tf.distribute.Strategy:
    """The strategy of a name; to be asked for before TensorFlow computes anything.

    Args:
        name: "auto": all GPUs of this machine, or its CPU; "one_device"; "mirrored": likewise, also
            if there is one; "multi_worker": the machines of the environment variable TF_CONFIG, by
            TensorFlow's own collective operations, each with all its GPUs or its CPU.
        logical_devices: Splits the CPU into so many devices, which are used in the place of GPUs,
            to try several devices where there are none; 0 for none.

    Raises:
        InputError: The name is not known, TF_CONFIG missing or wrong, or TensorFlow is at work
            already.
    """
    if name not in STRATEGIES:
        raise unknown_name("strategy", name, STRATEGIES)
    if name == "multi_worker":
        check_tf_config(os.environ.get("TF_CONFIG"))
    if logical_devices:
        cpu = tf.config.list_physical_devices("CPU")[0]
        try:
            tf.config.set_visible_devices([], "GPU")
            tf.config.set_logical_device_configuration(
                cpu, [tf.config.LogicalDeviceConfiguration()] * logical_devices
            )
        except (RuntimeError, ValueError) as error:
            raise InputError(
                "The CPU can only be split into logical devices before TensorFlow has computed "
                f"anything in this process ({error})."
            ) from error
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    kind = "GPU" if tf.config.get_visible_devices("GPU") else "CPU"
    devices = [device.name for device in tf.config.list_logical_devices(kind)]
    if name == "mirrored" or (name == "auto" and len(devices) > 1):
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()


def check_tf_config(text: str | None) -> None:
    """Checks what the environment variable TF_CONFIG says.

    Raises:
        InputError: It is missing, no JSON, or lacks something; with an example.
    """

    def wrong(what):
        return InputError(
            "--strategy=multi_worker reads the workers from the environment variable TF_CONFIG, "
            f"{what}. On the first of two machines it is, for example: TF_CONFIG='{EXAMPLE}'. "
            "python -m darts_tf.bin.launch sets it for several workers on one machine."
        )

    if not text:
        raise wrong("which is not set")
    try:
        config = parse_json(text, "it")
    except InputError as error:
        raise wrong(f"which is not JSON ({error}): {text[:200]}") from error
    cluster, task = (
        config.get(name) if isinstance(config, Mapping) else None for name in ("cluster", "task")
    )
    if not isinstance(cluster, Mapping) or not isinstance(task, Mapping):
        raise wrong(f'which must have "cluster" and "task". Received: {text[:200]}')
    unknown = set(cluster) - {"chief", "worker"}
    if unknown or not cluster:
        raise wrong(f'whose cluster has "worker" and perhaps "chief". Received: {sorted(cluster)}')
    for kind, addresses in cluster.items():
        if not isinstance(addresses, list) or not addresses or not all(map(_is_address, addresses)):
            raise wrong(f"whose {kind} must be a list of host:port. Received: {addresses!r}"[:300])
    kind, index = task.get("type"), task.get("index")
    if not isinstance(kind, str) or kind not in cluster or type(index) is not int:
        raise wrong(f"whose task must name one of the cluster. Received: {dict(task)!r}")
    if not 0 <= index < len(cluster[kind]):
        raise wrong(
            f"whose cluster has {len(cluster[kind])} of type {kind}, counted from 0, and none with "
            f"index {index}"
        )


def _is_address(address) -> bool:
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    return bool(host and re.fullmatch("[0-9]{1,5}", port)) and 0 < int(port) < 65536


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: the only one, or the first worker."""
    resolver = strategy.cluster_resolver
    if resolver is None or resolver.task_type is None:
        return True
    first = "chief" if "chief" in resolver.cluster_spec().jobs else "worker"
    return resolver.task_type == first and resolver.task_id == 0


class Workers:
    """The processes that train one model together; often it is this one alone.

    Attributes:
        several: Whether there are others.
        is_chief: Whether this one writes.
    """

    def __init__(self, strategy: tf.distribute.Strategy):
        resolver = strategy.cluster_resolver
        jobs = resolver.cluster_spec().as_dict() if resolver is not None else {}
        self.several = sum(map(len, jobs.values())) > 1
        self.is_chief = is_chief(strategy)
        self._replicas = strategy.num_replicas_in_sync
        self._total = tf.function(
            lambda number: strategy.reduce("SUM", strategy.run(lambda: number), axis=None),
            autograph=False,
        )
        self._all = tf.function(
            lambda number: strategy.gather(strategy.run(lambda: number[tf.newaxis]), axis=0),
            autograph=False,
        )
        self._names = [f"{job} {index}" for job in sorted(jobs) for index in range(len(jobs[job]))]

    def any(self, this) -> bool:
        """Whether something is so for any of the workers; all of them must ask."""
        if not self.several:
            return bool(this)
        return float(self._total(tf.constant(float(bool(this)), tf.float64))) > 0

    def check_alike(self, position: tuple[int, int], folder) -> None:
        """Checks that all workers resume from the same position.

        Args:
            position: Epoch and step.
            folder: Where this worker found it.

        Raises:
            InputError: They do not, on every worker.
        """
        if not self.several:
            return
        number = tf.constant(position[0] * 1e9 + position[1], tf.float64)
        differs = float(self._total(number)) != self._replicas * float(number)
        if self.any(differs):
            raise InputError(
                f"The workers found different checkpoints; this one would resume after epoch "
                f"{position[0]}, step {position[1]}, of {folder}. All workers need the same "
                "--workdir on a file system that they share."
            )

    def check_same_data(self, digest: int) -> None:
        """Checks that all workers have the same data.

        Args:
            digest: Of this worker's data, 0..2^63 - 1.

        Raises:
            InputError: They have not, on every worker; those that differ from the first are named.
        """
        if not self.several:
            return
        digests = np.asarray(self._all(tf.constant(digest, tf.int64)))
        digests = digests[:: len(digests) // len(self._names)]
        others = [n for n, d in zip(self._names, digests, strict=True) if d != digests[0]]
        if others:
            raise InputError(
                f"The workers have different data: {', '.join(others)} other than {self._names[0]}."
                " Give all of them the same, for example by a --data_dir that they share."
            )


def check_batch_size(strategy: tf.distribute.Strategy, flag: str, examples: int) -> None:
    """Checks that each replica gets an example of a batch.

    Args:
        strategy: The strategy.
        flag: What the user sets, for example "--batch_size".
        examples: Examples of the smallest batch.

    Raises:
        InputError: There are more replicas than examples.
    """
    replicas = strategy.num_replicas_in_sync
    if examples < replicas:
        raise InputError(
            f"The smallest batch has {examples} example{'s' * (examples > 1)}, but each of the "
            f"{replicas} replicas needs one of every batch. Choose another {flag}, so that this "
            "batch becomes larger, or fewer devices."
        )


class Diverged(InputError):
    """The replicas have different values in what all of them should have alike."""


class StopOnDivergence(keras.callbacks.Callback):
    """Ends the run when the replicas, on one machine or several, no longer have the same alphas.

    Compared is a checksum of the bits of all alphas (of a training: of all weights); it costs one
    pass over them and the exchange of one number.

    Args:
        every: Steps between two comparisons; the end of an epoch is one too.

    Raises:
        Diverged: Naming the step.
    """

    def __init__(self, every: int = 100):
        super().__init__()
        self.every = every
        self._checksums = None

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers where it is."""
        self._epoch, self._equal = epoch, 0

    def on_train_batch_end(self, batch, logs=None):
        """Compares every so many steps."""
        self._step = batch + 1
        if self._step % self.every == 0:
            self._compare()

    def on_epoch_end(self, epoch, logs=None):
        """Compares."""
        self._compare()

    def _compare(self):
        strategy = self.model.distribute_strategy
        if strategy.num_replicas_in_sync == 1:
            return
        if self._checksums is None:
            supernet = getattr(self.model, "supernet", None)
            variables = (
                supernet.architecture_parameters if supernet else self.model.trainable_variables
            )
            self._checksums = tf.function(
                lambda: strategy.gather(strategy.run(lambda: _checksum(variables)), axis=0),
                autograph=False,
            )
            self._what = "alphas" if supernet else "weights"
        values = np.asarray(self._checksums())
        differing = np.flatnonzero(values != values[0])
        if len(differing):
            raise Diverged(
                f"The replicas no longer have the same {self._what}: at step {self._step} of epoch "
                f"{self._epoch + 1} those of replica {', '.join(map(str, differing))} differ from "
                f"those of replica 0; at step {self._equal} they were equal. Run the same command "
                "again to resume from the last checkpoint. If it recurs, a device is faulty, or a "
                "layer of your own draws other random numbers on each replica."
            )
        self._equal = self._step


def _checksum(variables) -> tf.Tensor:
    """A checksum (1,) of the bits of this replica's copies."""
    sums = []
    for variable in variables:
        bits = tf.bitcast(tf.reshape(tf.cast(variable.value, tf.float64), [-1]), tf.int64)
        places = 2 * tf.range(tf.size(bits, tf.int64)) + 1  # odd: no bit of any value is lost
        sums.append(tf.reduce_sum(bits * places))
    return tf.add_n(sums)[tf.newaxis]

"""One global batch on several replicas: who has which examples, sums over all, models for it.

A global batch of n examples is dealt out to R replicas in R consecutive parts, whose sizes differ
by one at most: replica r has the examples from r * (n // R) + min(r, n % R) on. Every replica
therefore knows where its examples stand in the global batch from n alone, and what is drawn at
random for an example depends on the step and on this place, not on the number of replicas.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from darts_tf import examples, processor
from darts_tf.collective import count, is_in_one_order, sum_over_replicas
from darts_tf.errors import InputError
from darts_tf.losses import BatchLoss

SUM = tf.distribute.ReduceOp.SUM


def total(value):
    """The sum of a tensor, or of each of a structure of tensors, over the replicas."""
    if count() == 1:
        return value
    if is_in_one_order():
        return tf.nest.map_structure(sum_over_replicas, value)
    return tf.distribute.get_replica_context().all_reduce(SUM, value)


class Rows(NamedTuple):
    """Which rows of the global batch this replica has.

    Attributes:
        first: The first one's number.
        own: How many it has.
        all: How many the global batch has.
    """

    first: tf.Tensor
    own: tf.Tensor
    all: tf.Tensor

    def of(self, whole: tf.Tensor) -> tf.Tensor:
        """This replica's rows of a tensor with all rows."""
        return whole if count() == 1 else whole[self.first : self.first + self.own]

    def share(self, value: tf.Tensor) -> tf.Tensor:
        """This replica's share of a global mean of which it has its own mean."""
        if count() == 1:
            return value
        return value * (tf.cast(self.own, value.dtype) / tf.cast(self.all, value.dtype))

    def whole(self, part: tf.Tensor) -> tf.Tensor:
        """The tensor with all rows, of which each replica has a part: the inverse of `of`."""
        if count() == 1:
            return part
        after = self.all - self.first - self.own
        padding = [[self.first, after], *[[0, 0]] * (part.shape.rank - 1)]
        return tf.ensure_shape(total(tf.pad(part, padding)), [None, *part.shape[1:]])


def rows(own: tf.Tensor | int) -> Rows:
    """The rows of this replica.

    Args:
        own: How many it has.
    """
    own = tf.convert_to_tensor(own, tf.int32)
    if count() == 1:
        return Rows(tf.zeros([], tf.int32), own, own)
    # Not as an integer, which a GPU cannot sum; exact up to 2^24 examples.
    of_all = tf.cast(total(tf.cast(own, tf.float32)), tf.int32)
    replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int32)
    return Rows(_first_row(replica, count(), of_all), own, of_all)


def _first_row(part, parts: int, of_all):
    return part * (of_all // parts) + tf.minimum(part, of_all % parts)


def average(variables: list[keras.Variable]) -> None:
    """Sets variables that each replica has changed by itself to their mean over the replicas.

    Those that count are left as they are: all replicas count the same.
    """
    variables = [v for v in variables if keras.backend.is_float_dtype(v.dtype)]
    if count() == 1 or not variables:
        return
    for variable, value in zip(variables, total([v.value for v in variables]), strict=True):
        variable.assign(value / count())


class Parts:
    """The values on each replica of variables that are summed when read, such as metrics.

    Restoring only their sum would change the rounding of later updates.

    Args:
        strategy: The strategy.
        variables: Any; of one replica, and of those that all replicas have alike, there are none.
    """

    def __init__(self, strategy: tf.distribute.Strategy, variables: Iterable[keras.Variable]):
        several = strategy.num_replicas_in_sync > 1
        summed = [v for v in variables if several and v.synchronization == "on_read"]
        self.variables, self._strategy = summed, strategy

        def of_all():
            of_each = strategy.run(lambda: [tf.convert_to_tensor(v)[tf.newaxis] for v in summed])
            return [strategy.gather(value, axis=0) for value in of_each]

        self._of_all = tf.function(of_all, autograph=False)

    def get(self) -> list[np.ndarray]:
        """The values (replicas, ...) of each of the variables; all workers must ask together."""
        return [value.numpy() for value in self._of_all()] if self.variables else []

    def set(self, values: Sequence[np.ndarray]) -> None:
        """Gives every replica its own again; nothing if there were more of them, or fewer.

        Args:
            values: As from `get`.
        """
        replicas = self._strategy.num_replicas_in_sync
        if [value.shape for value in values] != [(replicas, *v.shape) for v in self.variables]:
            return

        def set_own():
            own = tf.distribute.get_replica_context().replica_id_in_sync_group
            for variable, value in zip(self.variables, values, strict=True):
                variable.value.assign(tf.gather(tf.constant(value, variable.dtype), own))

        self._strategy.run(set_own)


def _deals(strategy: tf.distribute.Strategy) -> bool:
    several_workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    return several_workers or strategy.num_replicas_in_sync > 1


def distribute(
    strategy: tf.distribute.Strategy, batches: tf.data.Dataset, *, may_be_empty: bool = False
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Deals out global batches to the replicas of a strategy.

    Args:
        strategy: The strategy.
        batches: Global batches, nested structures of tensors (examples, ...); on every worker the
            same.
        may_be_empty: Whether a replica may get an empty part, as in an evaluation, which computes
            nothing of it; else a batch must have an example for each replica.

    Returns:
        What `iter` gives the parts of; the data set itself if there is one replica, or if it is
        dealt out already.

    Raises:
        tf.errors.InvalidArgumentError: When it comes to a batch that is too small.
    """
    parts = strategy.num_replicas_in_sync
    if not _deals(strategy) or not isinstance(batches, tf.data.Dataset):
        return batches

    def of_worker(context):
        local = parts // context.num_input_pipelines
        return deal(batches, parts, context.input_pipeline_id * local, local, may_be_empty)

    return strategy.distribute_datasets_from_function(of_worker)


def deal(
    batches: tf.data.Dataset, parts: int, first: int, local: int, may_be_empty: bool = False
) -> tf.data.Dataset:
    """Some of the parts of every batch, one after another.

    Args:
        batches: Global batches.
        parts: Into how many parts each is divided.
        first: The first part that is wanted.
        local: How many are.
        may_be_empty: As for `distribute`.
    """

    def split(*batch):
        batch = batch if len(batch) > 1 else batch[0]

        def part(number):
            def piece(tensor):
                of_all = tf.shape(tensor)[0]
                start, end = (_first_row(number + k, parts, of_all) for k in (0, 1))
                return tensor[start:end]

            return tf.nest.map_structure(piece, batch)

        if not may_be_empty:
            smallest = tf.reduce_min([tf.shape(t)[0] for t in tf.nest.flatten(batch)])
            check = tf.debugging.assert_greater_equal(
                smallest,
                parts,
                f"A training batch has fewer examples than there are replicas, {parts}. Take "
                "another batch size, or leave out the smaller last batch.",
            )
            with tf.control_dependencies([check]):
                batch = tf.nest.map_structure(tf.identity, batch)
        return tf.data.Dataset.range(first, first + local, output_type=tf.int32).map(part)

    dealt = batches.flat_map(split)
    known = int(batches.cardinality())
    if known != tf.data.UNKNOWN_CARDINALITY:
        cardinality = known if known == tf.data.INFINITE_CARDINALITY else known * local
        dealt = dealt.apply(tf.data.experimental.assert_cardinality(cardinality))
    return dealt.prefetch(2 * local)


LOOKED_AT = 32
"""How many images of a first batch are looked at."""


def looked_at(batches: tf.data.Dataset, look: Callable[[np.ndarray], None]) -> tf.data.Dataset:
    """The same batches; `look` gets images of the first one as it passes.

    Nothing is read ahead or twice, as from a generator that gives everything once.

    Args:
        batches: Of (x, y[, weight]), or pairs of such; others are not looked at.
        look: A function of images (batch, height, width, channels).
    """

    def inputs(batch):
        halves = batch if isinstance(batch, tuple) and isinstance(batch[0], tuple) else (batch,)
        found = [half[0] if isinstance(half, tuple) else half for half in halves]
        return [x for x in found if getattr(x, "shape", None) is not None and x.shape.rank == 4]

    if not inputs(batches.element_spec):
        return batches

    def call(*images):
        for each in images:
            look(each)
        return np.int32(0)

    def passing(number, batch):
        images = [x[:LOOKED_AT] for x in inputs(batch)]
        looked = tf.cond(
            tf.equal(number, 0), lambda: tf.numpy_function(call, images, tf.int32), lambda: 0
        )
        with tf.control_dependencies([looked]):
            return tf.nest.map_structure(tf.identity, batch)

    return batches.enumerate().map(passing)


class Deferred(tf.data.Dataset, tf.distribute.DistributedDataset):
    """A data set without end that is made when it is iterated, and may be dealt out already.

    `keras.Model.fit` iterates after `on_train_begin`, in which callbacks restore a model: only then
    is it known with which batch it begins. Of its two bases Keras asks by the first whether it can
    read this, and by the second whether it is to deal it out; nothing of them is used.

    Args:
        element_spec: Of what it gives.
        make: Makes it.
    """

    def __init__(self, element_spec, make: Callable[[], Iterable]):
        self._element_spec, self._make = element_spec, make

    @property
    def element_spec(self):
        """As given."""
        return self._element_spec

    def cardinality(self):
        """Endless."""
        return tf.data.INFINITE_CARDINALITY

    def _inputs(self):
        return []

    def __iter__(self):
        """One iterator serves all epochs."""
        return iter(self._make())


def check_optimizer(strategy: tf.distribute.Strategy, optimizer) -> None:
    """Refuses what Keras would do on each replica by itself.

    Raises:
        InputError: Naming the option.
    """
    if strategy.num_replicas_in_sync == 1:
        return
    for name in ("clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps"):
        if getattr(optimizer, name, None):
            raise InputError(
                f"{name}={getattr(optimizer, name)} of {type(optimizer).__name__} would be applied "
                "by each replica to its own part of the gradient. On several replicas take "
                "darts_tf.SGD(clip_norm=...), which clips the gradient of the global batch, or "
                "leave it out."
            )


class ReplicatedModel(keras.Model):
    """A model whose `fit` and `evaluate` deal global batches out to the replicas of any strategy.

    Keras' own deal out unevenly, so that a replica may have nothing, and do not run on several
    workers. A subclass is built when it is made.

    Attributes:
        compile_arguments: What a subclass's `compile` takes beside what `keras.Model.compile` does;
            it keeps each in an attribute of that name. They are saved with the model.
        halves: What the errors call the parts of an element of the training data.
        batch_loss, evaluation_batch_loss: What is trained and evaluated with; None before
            `compile`.
    """

    compile_arguments: tuple[str, ...] = ()
    halves: tuple[str, ...] = ("training data",)
    batch_loss: BatchLoss | None = None
    evaluation_batch_loss: BatchLoss | None = None

    def compile(self, optimizer, **options):
        """As `keras.Model.compile`, without the loss."""
        if options.pop("loss_weights", None) is not None:
            raise InputError("loss_weights needs a model of several losses; this one has one.")
        if _deals(self.distribute_strategy) and options.get("steps_per_execution", 1) != 1:
            raise InputError(
                "On several replicas a call runs one step: leave steps_per_execution="
                f"{options['steps_per_execution']} out."
            )
        check_optimizer(self.distribute_strategy, optimizer)
        super().compile(optimizer=optimizer, **options)

    def get_compile_config(self):
        """What `compile` was given: a model that is loaded is compiled alike."""
        if not self.compiled:
            return {}
        own = {name: getattr(self, name) for name in self.compile_arguments}
        return {**super().get_compile_config(), **keras.saving.serialize_keras_object(own)}

    def compile_from_config(self, config):
        """Compiles as `get_compile_config` says, the optimizers' variables included."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def build_metrics(self, element_spec) -> None:
        """Makes the metrics' variables, from what a batch is; nothing where they are there."""

    def fit(self, x=None, *arguments, **options):
        """As `keras.Model.fit`; a data set must have global batches.

        `class_weight` stands for weights of the examples, {class: weight}; it weighs the loss of
        training (of a search: of both halves), not that of `validation_data`.

        Raises:
            InputError: The labels do not fit the loss or the outputs, or weights their labels.
        """
        options = dict(inspect.signature(super().fit).bind(x, *arguments, **options).arguments)
        validation = options.get("validation_data")
        if isinstance(validation, (tuple, list)):
            validation = self._examined(*validation, what=("validation data",), evaluates=True)
            validation = tuple(part for part in validation if part is not None)
            options["validation_data"] = self._dealt(validation)
        elif validation is not None:
            validation, *_ = self._examined(validation, what=("validation data",), evaluates=True)
            options["validation_data"] = self._dealt(validation, may_be_empty=True)
        given = [options.pop(name, None) for name in ("x", "y", "sample_weight")]
        x, y, weight = self._examined(
            *given, what=self.halves, class_weight=options.pop("class_weight", None)
        )
        with _in_one_line():
            return super().fit(self._dealt(x), y, sample_weight=weight, **options)

    def evaluate(self, x=None, *arguments, **options):
        """As `keras.Model.evaluate`; every example counts once on any number of replicas.

        Raises:
            InputError: The labels do not fit the loss or the outputs.
        """
        options = dict(inspect.signature(super().evaluate).bind(x, *arguments, **options).arguments)
        options |= options.pop("kwargs", {})
        x, y, weight = (options.pop(name, None) for name in ("x", "y", "sample_weight"))
        if not options.get("_use_cached_eval_dataset"):  # of `fit`, which has looked at it
            x, y, weight = self._examined(x, y, weight, what=("evaluation data",), evaluates=True)
        with _in_one_line():
            return super().evaluate(
                self._dealt(x, may_be_empty=True), y, sample_weight=weight, **options
            )

    def _examined(self, *data, what, evaluates=False, class_weight=None):
        """(x, y, weights) of (x[, y[, weights]]); see `examples.examined`."""
        data = [*data, None, None][:3]
        if isinstance(data[0], Deferred):  # its batches are, when they are made
            return data
        loss = self.evaluation_batch_loss if evaluates else self.batch_loss
        if loss is None:
            return data
        return examples.examined(data, loss, self.outputs_shape, what, class_weight)

    def make_train_function(self, force=False):
        """Compiles `train_step` for all replicas."""
        processor.advise()
        if not _deals(self.distribute_strategy):
            return super().make_train_function(force)
        if self.train_function is None or force:
            self.train_function = self._on_all_replicas(self.train_step)
        return self.train_function

    def make_test_function(self, force=False):
        """Compiles `test_step` for all replicas."""
        if not _deals(self.distribute_strategy):
            return super().make_test_function(force)
        if self.test_function is None or force:
            self.test_function = self._on_all_replicas(self.test_step)
        return self.test_function

    def outputs_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the outputs for inputs of a shape; the subclass knows the network."""
        raise NotImplementedError

    def _dealt(self, data, may_be_empty=False):
        if isinstance(data, tf.distribute.DistributedDataset):
            return data
        data = self._looked_at(data)
        strategy = self.distribute_strategy
        if not isinstance(data, tf.data.Dataset):
            return data
        # A replica cannot make variables, and Keras cannot tell what an element of halves is.
        if _deals(strategy) or len(self.halves) > 1:
            with strategy.scope():
                self.build_metrics(data.element_spec)
        return distribute(strategy, data, may_be_empty=may_be_empty)

    def _looked_at(self, data):
        """The data; its first batch is shown to the network, if that has a `check_scale`."""
        network = getattr(self, "supernet", None) or getattr(self, "network", None)
        check = getattr(network, "check_scale", None)
        if check is None or data is None:
            return data
        if isinstance(data, tf.data.Dataset):
            return looked_at(data, check)
        inputs = data[0] if isinstance(data, tuple) else data
        if np.ndim(inputs) == 4:
            check(np.asarray(inputs[:LOOKED_AT]))
        return data

    def _on_all_replicas(self, step):
        """A step as a function of an iterator over parts."""
        strategy, compiled = self.distribute_strategy, {}

        def on_all(data):
            names = strategy.run(step, args=(data,))
            # A replica's results are those of its own examples; these are of all.
            results = self.get_metrics_result()
            return {name: results[name] for name in names}

        def of_iterator(iterator):
            if self.run_eagerly:
                return on_all(next(iterator))
            spec = iterator.element_spec  # of any number of examples: parts differ in it
            if spec not in compiled:
                compiled[spec] = tf.function(on_all, input_signature=[spec], autograph=False)
            return compiled[spec](next(iterator))

        return of_iterator

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Does nothing: the model is built. (Keras' own cannot take parts of different sizes.)"""


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
    """What a graph says to the user, in the place of TensorFlow's error."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        text = examples.said(error)
        if text is None:
            raise
        raise InputError(text) from None


def never_empty(examples: tf.Tensor) -> tf.Tensor:
    """Examples, or one of zeros if there is none; what is computed of that one is to be cut off."""
    missing = tf.cast(tf.equal(tf.shape(examples)[0], 0), tf.int32)
    padded = tf.pad(examples, [[0, missing], *[[0, 0]] * (examples.shape.rank - 1)])
    return tf.ensure_shape(padded, [None, *examples.shape[1:]])

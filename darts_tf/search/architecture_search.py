"""ArchitectureSearch: the bilevel search as a Keras model (paper, algorithm 1)."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from darts_tf import collective, replicas
from darts_tf.errors import InputError, unknown_name, whole_number
from darts_tf.finite import FirstNotFinite
from darts_tf.loss_scale import (
    attempt,
    checked,
    gradient,
    loss_scale_of,
    steps_done,
    without_scaling,
)
from darts_tf.losses import BatchLoss, update_loss
from darts_tf.search import bilevel, step_guard, virtual_step
from darts_tf.search.published_second_order import PublishedSecondOrder
from darts_tf.search.search_space import SearchSpace, check_supernet
from darts_tf.search.virtual_step import flatten, next_step, unflatten
from darts_tf.space.tracing import gradients_of, keeping, local_statistics


@keras.saving.register_keras_serializable(package="darts_tf")
class ArchitectureSearch(replicas.ReplicatedModel):
    """Alternates a step of alpha on a validation batch with a step of w on a training batch.

    Each step, as published: first alpha, by one of three gradients (`darts_tf.search.bilevel`);
    then the weights with the new alpha on the same training batch. All passes use the statistics of
    the batch. The running statistics are updated by the weight step only. (In the authors' code
    every pass updates them, those at perturbed weights too. They affect evaluation only.)

    Losses that the supernet adds with `add_loss`, and its weight regularizers, are part of the step
    of w and not of the step of alpha (as in the authors' search of recurrent cells).

    Args:
        supernet: A built Keras model with `architecture_parameters`, `network_parameters` and
            `derive()`; `SearchSpace` tells what it may offer beside.
        order: "first", "second_fd" (as published) or "second_exact"; or a function with the
            arguments of `bilevel.second_exact`.
        clip_virtual_step: Whether the gradient in the virtual step is clipped to the weight
            optimizer's `clip_norm` (Keras' `global_clipnorm`), as in the authors' search of
            recurrent cells; in their convolutional one it is not.

    Use:
        search = ArchitectureSearch(supernet, order="second_exact")
        search.compile(optimizer=..., arch_optimizer=..., loss=..., metrics=["accuracy"])
        search.fit(darts_tf.pair(train, validation), validation_data=validation, epochs=50)
        genotype = search.derive()

    Raises:
        InputError: The order is not known, or the supernet lacks a member or is not built.
    """

    compile_arguments = ("arch_optimizer", "loss", "sync_batch_norm")

    def __init__(
        self,
        supernet: SearchSpace,
        order: str | bilevel.Gradient = "second_exact",
        clip_virtual_step: bool = False,
        name: str = "search",
    ):
        super().__init__(name=name)
        if not callable(order) and order not in bilevel.ORDERS:
            raise unknown_name("order", order, bilevel.ORDERS)
        check_supernet(supernet)
        _warn_of_rounding(supernet, order)
        self.supernet = supernet
        self.order = order
        self.clip_virtual_step = clip_virtual_step
        self._train_loss = keras.metrics.Mean(name="loss")
        self._validation_loss = keras.metrics.Mean(name="arch_loss")
        self.first_not_finite = FirstNotFinite()
        self.loss_scale = loss_scale_of(supernet)
        self.built = True

    halves = ("training half", "validation half")

    def outputs_shape(self, input_shape):
        """The shape of the supernet's outputs."""
        return self.supernet.compute_output_shape(input_shape)

    def call(self, x, training=False):
        """The supernet's output."""
        return self.supernet(x, training=training)

    def compile(
        self,
        optimizer,
        arch_optimizer,
        loss,
        metrics=None,
        sync_batch_norm: bool = True,
        **options,
    ):
        """Sets what trains and what is measured.

        Args:
            optimizer: Of the weights. The virtual step is the step that it would take next: known
                for `darts_tf.SGD` and `keras.optimizers.SGD` (without Nesterov momentum), and plain
                gradient descent at its learning rate for all others; clipped only with
                `clip_virtual_step`.
            arch_optimizer: Of the alphas.
            loss: A Keras loss, its class or name, or a function (y, outputs) -> losses; see
                `darts_tf.losses.BatchLoss` for what weights of examples and `reduction` mean. Our
                supernets return logits: make a loss with `from_logits=True`; a name is taken so.
            metrics: Keras metrics or their names, of the training batches.
            sync_batch_norm: Under a strategy, whether BatchNorm has the statistics of the global
                batch, so that the number of replicas does not matter; else each replica has those
                of its part, and the running ones are averaged.
            **options: As for `keras.Model.compile`.

        Raises:
            InputError: The loss or an option cannot be used.
        """
        optimizer, arch_optimizer = (keras.optimizers.get(o) for o in (optimizer, arch_optimizer))
        optimizer = without_scaling(optimizer, self.loss_scale, options)
        # Keras would choose XLA on a GPU, which has no kernel for max pooling's second derivative.
        options.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, metrics=metrics, **options)
        self.arch_optimizer = arch_optimizer
        self.sync_batch_norm = sync_batch_norm
        replicas.check_optimizer(self.distribute_strategy, arch_optimizer)
        if self.order != "first":
            virtual_step.check_optimizer(optimizer, self.clip_virtual_step)
        self.loss = loss
        self.batch_loss = BatchLoss(loss, getattr(self.supernet, "returns_logits", False))
        self.evaluation_batch_loss = self.batch_loss
        optimizer.build(self.supernet.network_parameters)
        arch_optimizer.build(self.supernet.architecture_parameters)

    def fit(self, x=None, **options):
        """Runs the search; as `keras.Model.fit`.

        Args:
            x: A `darts_tf.pair(...)`, whose batches continue where the search is: at
                `initial_epoch`, or at the step that `keras.callbacks.BackupAndRestore` restores; or
                any data set of pairs of batches ((x, y), (x_val, y_val)), each with weights of the
                examples as a third part or without.
            **options: As for `keras.Model.fit`; `class_weight` weighs the losses of both halves.

        Raises:
            InputError: No such data, or its labels or weights do not fit the loss or the outputs.
        """
        pairing = x if hasattr(x, "steps_per_epoch") and hasattr(x, "stream") else None
        dataset = x.stream() if pairing else x
        if not isinstance(dataset, tf.data.Dataset):
            raise InputError(
                "fit() takes darts_tf.pair(train, validation) or a tf.data.Dataset of pairs "
                f"of batches. Received: {type(dataset).__name__}."
            )
        _unpack_pair(dataset.element_spec)
        if pairing:
            dataset = self._paired(pairing, options)
        options.setdefault("shuffle", False)  # a data set is shuffled by itself; Keras would warn
        return super().fit(dataset, **options)

    def _paired(self, pairing, options: dict) -> replicas.Deferred:
        """A pairing from where `fit` begins; what it uses is taken out of the options."""
        for stream, half in zip((pairing.train, pairing.valid), self.halves, strict=True):
            if hasattr(stream, "labels"):  # arrays are looked at before the first step
                self._examined(stream.images, stream.labels, stream.weights, what=(half,))
        class_weight = options.pop("class_weight", None)

        def batches(first):
            given = pairing.stream(first)
            return self._examined(given, what=self.halves, class_weight=class_weight)[0]

        spec = batches(0).element_spec
        with self.distribute_strategy.scope():
            self.build_metrics(spec)
        options.setdefault("steps_per_epoch", pairing.steps_per_epoch)
        start = self._start_of(
            pairing, whole_number("initial_epoch", options.get("initial_epoch", 0), 0)
        )
        return replicas.Deferred(spec, lambda: self._dealt(batches(start())))

    def _start_of(self, pairing, initial_epoch: int) -> Callable[[], int]:
        """A function that tells, once callbacks have restored, with which step `fit` begins."""
        before, steps = self._steps_done(), pairing.steps_per_epoch

        def start():
            first = (self._initial_epoch or initial_epoch) * steps  # as Keras itself reads it
            done = self._steps_done()
            # Restored within an epoch, which Keras then begins again: the data continues.
            return done if done != before and first <= done <= first + steps else first

        return start

    def _steps_done(self) -> int:
        return int(self.optimizer.iterations.value.numpy())

    def build_metrics(self, element_spec) -> None:
        """Makes the metrics' variables, from what a batch is; `fit` does it by itself.

        Keras would take the pair of batches for (x, y).

        Args:
            element_spec: Of a pair of batches, or of one batch as for `evaluate`.
        """
        paired = isinstance(element_spec[0], (tuple, list))
        x, y, _ = keras.utils.unpack_x_y_sample_weight(element_spec[0] if paired else element_spec)
        if self._compile_metrics is None or self._compile_metrics.built:
            return
        outputs = self.supernet.compute_output_shape((1, *x.shape[1:]))
        self.compute_metrics(None, tf.zeros([1, *y.shape[1:]], y.dtype), tf.zeros(outputs))
        self.reset_metrics()

    def train_step(self, data):
        """One step of alpha, then one step of w."""
        # In exact second order the pass along a direction needs the most memory. What the others
        # keep is gone by then.
        keeps = keeping(self.order == "second_exact")
        changed = [
            *self.supernet.variables,
            *self.optimizer.variables,
            *self.arch_optimizer.variables,
        ]
        with (
            local_statistics(not self.sync_batch_norm),
            keeps,
            attempt(self.loss_scale, changed) as overflows,
        ):
            return self._train_step(*_unpack_pair(data), overflows)

    def _train_step(self, train, validation, overflows):
        variables = self.supernet.network_parameters
        rows, of_validation = (replicas.rows(tf.shape(y)[0]) for _, y, _ in (train, validation))
        w = flatten([tf.convert_to_tensor(v) for v in variables])
        alphas = [tf.convert_to_tensor(v) for v in self.supernet.architecture_parameters]
        step, began = steps_done(self.optimizer, self.loss_scale), (w, alphas)
        streams = getattr(self.supernet, "stream_state", [])
        own = {id(v): tf.convert_to_tensor(counterpart) for v, counterpart in streams}

        def of_alphas():
            train_loss, virtual_losses = _noting(self.loss_function(train, replicas.total))
            kept = {}  # what the validation pass leaves in the variables of its stream
            overflowed = []

            def reduce(g):
                g, *found = checked(replicas.total(g))
                overflowed.extend(found)
                return g

            def validation_loss(w, alphas):
                passed = self._evaluate(validation, w, alphas, replicas.total, own)
                for variable, value in zip(
                    self.supernet.non_trainable_variables, passed.state, strict=True
                ):
                    kept[id(variable)] = value
                return passed.loss

            found = bilevel.architecture_gradient(
                self.order,
                train_loss,
                validation_loss,
                w,
                alphas,
                self._virtual_step(),
                reduce,
            )
            kept = [kept[id(v)] for v, _ in streams]
            return found, kept, virtual_losses[:1], overflowed

        # Order of the paper's algorithm 1: alpha first.
        found, kept, virtual_losses, overflowed = collective.in_one_order(of_alphas)
        g_alphas, overflowed_alphas = checked(found.alphas)
        # A Keras optimizer sums over the replicas itself.
        self.arch_optimizer.apply(g_alphas, self.supernet.architecture_parameters)

        def of_weights():
            alphas = [tf.convert_to_tensor(v) for v in self.supernet.architecture_parameters]
            with gradients_of("weights"), tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(w)
                passed = self._evaluate(train, w, alphas, replicas.total)
                # Each replica adds its share of the added losses, which are means over its part.
                added = [rows.share(tf.cast(a, w.dtype)) for a in passed.added]
                objective = tf.add_n([passed.loss, *added])
            return passed, unflatten(gradient(tape, objective, w), variables)

        passed, g = collective.in_one_order(of_weights)
        g, overflowed_weights = checked(g)
        overflows += [*overflowed, overflowed_alphas, overflowed_weights]
        counterparts = [counterpart for _, counterpart in streams]
        left_alone = {id(v) for v in (*self.supernet.architecture_parameters, *counterparts)}
        changed = []
        for variable, value in zip(
            self.supernet.non_trainable_variables, passed.state, strict=True
        ):
            if id(variable) not in left_alone:
                variable.assign(value)
                changed.append(variable)
        if not self.sync_batch_norm:
            replicas.average(changed)
        for (_, counterpart), value in zip(streams, kept, strict=True):
            counterpart.assign(value)
        self.optimizer.apply(g, variables)

        checks = step_guard.checks(
            self.supernet,
            self.order == "first",
            train,
            validation,
            (rows, of_validation),
            began,
            step_guard.Computed(virtual_losses, found, passed.loss, g),
        )
        self.first_not_finite.look(step, checks, rows)
        update_loss(self._train_loss, passed.loss, train[1], rows)
        update_loss(self._validation_loss, found.validation_loss, validation[1], of_validation)
        return self.compute_metrics(train[0], train[1], passed.outputs, train[2])

    def test_step(self, data):
        """Evaluates the supernet with running statistics."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        outputs = self.supernet(replicas.never_empty(x), training=False)[: tf.shape(y)[0]]
        self.batch_loss(y, outputs, weight).add_to(self._train_loss)
        results = self.compute_metrics(x, y, outputs, weight)
        results.pop("arch_loss")
        return results

    def derive(self) -> Any:
        """The discrete architecture of the present alphas."""
        return self.supernet.derive()

    def get_config(self):
        """The constructor's arguments."""
        return {
            "supernet": keras.saving.serialize_keras_object(self.supernet),
            "order": (
                self.order
                if isinstance(self.order, str)
                else keras.saving.serialize_keras_object(self.order)
            ),
            "clip_virtual_step": self.clip_virtual_step,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """The search of `get_config`."""
        config = dict(config)
        for name in ("supernet", "order"):
            if not isinstance(config[name], str):
                config[name] = keras.saving.deserialize_keras_object(config[name])
        return cls(**config)

    def _virtual_step(self) -> bilevel.VirtualStep:
        """The step that the weight optimizer would take next."""
        return next_step(self.optimizer, self.supernet.network_parameters, self.clip_virtual_step)

    def _evaluate(self, batch, w, alphas, reduce, given=None) -> "_Pass":
        """One pass in training mode at w and alphas.

        Args:
            batch: (x, y, weight of each example or None).
            w: One vector of all weights.
            alphas: A list of tensors.
            reduce: Sums over the replicas.
            given: Values of further variables by their id; nothing is assigned.
        """
        x, y, weight = batch
        given = dict(given or {})
        given.update(zip(map(id, self.supernet.architecture_parameters), alphas, strict=True))
        outputs, state, added = self.supernet.stateless_call(
            unflatten(w, self.supernet.network_parameters),
            [
                given.get(id(v), tf.convert_to_tensor(v))
                for v in self.supernet.non_trainable_variables
            ],
            x,
            training=True,
            return_losses=True,
        )
        loss = self.batch_loss(y, outputs, weight).share(reduce)
        return _Pass(loss, outputs, state, added)

    def loss_function(self, batch, reduce=lambda tensor: tensor) -> bilevel.Loss:
        """The loss of a batch as a pure function of weights and alphas.

        Args:
            batch: (x, y, weight of each example or None).
            reduce: Sums over the replicas.

        Returns:
            A function (w, alphas) -> scalar; w one vector of all weights in the order of
            `network_parameters`, alphas a list of tensors. Nothing is assigned, running statistics
            included. It has a method `along` where the supernet has one.
        """

        def loss(w, alphas):
            return self._evaluate(batch, w, alphas, reduce).loss

        def along(w, alphas, v):
            x, y, weight = batch
            weights, architecture = (
                self.supernet.network_parameters,
                self.supernet.architecture_parameters,
            )
            given = [*zip(weights, unflatten(w, weights), strict=True)]
            given += zip(architecture, alphas, strict=True)
            # At float16 the derivative along a direction of length 1, which neither over- nor
            # underflows, times the length of v.
            length = 1.0 if self.loss_scale is None else tf.norm(v)
            v = v if self.loss_scale is None else tf.math.divide_no_nan(v, length)
            with keras.StatelessScope(state_mapping=given):
                outputs, slope = self.supernet.along(x, unflatten(v, weights))
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(outputs)
                value = self.batch_loss(y, outputs, weight).share(reduce)
            return length * tf.reduce_sum(tape.gradient(value, outputs) * slope)

        if getattr(self.supernet, "along", None) is not None:
            loss.along = along
        return loss


class _Pass(NamedTuple):
    """What one pass gives.

    Attributes:
        loss: This replica's share of the loss of the global batch.
        outputs: The supernet's.
        state: The new values of its variables that are not trained, none of them assigned.
        added: What it added with `add_loss`, and its weight regularizers' losses.
    """

    loss: tf.Tensor
    outputs: tf.Tensor
    state: list[tf.Tensor]
    added: list[tf.Tensor]


def _noting(loss: bilevel.Loss) -> tuple[bilevel.Loss, list[tf.Tensor]]:
    """The same loss, and a list that its values come into."""
    values = []

    def noting(w, alphas):
        values.append(loss(w, alphas))
        return values[-1]

    if hasattr(loss, "along"):
        noting.along = loss.along
    return noting, values


def _warn_of_rounding(supernet: SearchSpace, order: str | bilevel.Gradient) -> None:
    """Warns where both passes of a finite difference would be rounded to half precision."""
    if order != "second_fd" and not isinstance(order, PublishedSecondOrder):
        return
    for layer in supernet._flatten_layers():
        # Others cast by themselves, and within `full_precision` do not.
        if layer.autocast and layer.weights and layer.compute_dtype in ("bfloat16", "float16"):
            warnings.warn(
                f"The finite difference of order='second_fd' is lost in the rounding of "
                f"{layer.name}, a layer that computes in {layer.compute_dtype}. Take "
                "order='second_exact' or 'first', or make the supernet in float32.",
                stacklevel=3,
            )
            return


def _unpack_pair(data):
    """((x, y[, weight]), (x_val, y_val[, weight]))."""
    halves = data if isinstance(data, (tuple, list)) and len(data) == 2 else ()
    if not halves or not all(isinstance(half, (tuple, list)) for half in halves):
        raise InputError(
            "A search step needs a pair of batches ((x, y), (x_val, y_val)), one for the "
            "weights and one for the alphas. Make the data with darts_tf.pair(train, validation)."
        )
    return tuple(keras.utils.unpack_x_y_sample_weight(tuple(half)) for half in halves)

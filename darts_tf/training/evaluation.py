"""ArchitectureEvaluation: trains a derived network from scratch (paper, sections 3.2 and 3.3)."""

import keras
import tensorflow as tf

from darts_tf import collective, finite, replicas
from darts_tf.errors import InputError, real_number
from darts_tf.loss_scale import (
    attempt,
    checked,
    gradient,
    loss_scale_of,
    steps_done,
    without_scaling,
)
from darts_tf.losses import BatchLoss, update_loss
from darts_tf.space.tracing import local_statistics


@keras.saving.register_keras_serializable(package="darts_tf")
class ArchitectureEvaluation(replicas.ReplicatedModel):
    """Trains an evaluation network: loss = main + auxiliary_weight * auxiliary.

    Args:
        network: A `darts_tf.EvaluationNetwork`, or any built model whose `forward(x, training)`
            gives `logits` and `auxiliary_logits`.
        auxiliary_weight: Weight of the auxiliary loss (0.4 as published).

    Use:
        evaluation = ArchitectureEvaluation(network)
        evaluation.compile(optimizer=darts_tf.SGD(), loss=loss, metrics=["accuracy"])
        evaluation.fit(train, validation_data=test, epochs=600, callbacks=[DropPathSchedule(0.2,
        600)])

    Raises:
        InputError: A number is out of its range.
    """

    compile_arguments = ("loss", "evaluation_loss", "sync_batch_norm")

    def __init__(
        self, network: keras.Model, auxiliary_weight: float = 0.4, name: str = "evaluation"
    ):
        super().__init__(name=name)
        self.auxiliary_weight = real_number("auxiliary_weight", auxiliary_weight)
        if self.auxiliary_weight < 0:
            raise InputError(
                f"auxiliary_weight must not be negative. Received: {auxiliary_weight}."
            )
        self.network = network
        # Named as Keras' own tracker, whose place it takes in the results: that one is fed only by
        # Keras' train_step.
        self._mean_loss = keras.metrics.Mean(name="loss")
        self.first_not_finite = finite.FirstNotFinite()
        self.loss_scale = loss_scale_of(network)
        self.built = True

    def outputs_shape(self, input_shape):
        """The shape of the logits."""
        return self.network.compute_output_shape(input_shape)

    def call(self, x, training=False):
        """The network's logits."""
        return self.network(x, training=training)

    def compile(
        self,
        optimizer,
        loss,
        metrics=None,
        evaluation_loss=None,
        sync_batch_norm: bool = True,
        **options,
    ):
        """Sets what trains and what is measured.

        Args:
            optimizer: Of the weights.
            loss: A Keras loss, its class or name, or a function (y, logits) -> losses; for
                training. See `darts_tf.losses.BatchLoss` for what weights of examples and
                `reduction` mean. The network returns logits: make a loss with `from_logits=True`; a
                name is taken so.
            metrics: Keras metrics or their names.
            evaluation_loss: The loss that `evaluate` reports; the same by default. (The published
                ImageNet runs train with smoothed labels and report the plain loss.)
            sync_batch_norm: Under a strategy, whether BatchNorm has the statistics of the global
                batch, so that the number of replicas does not matter; else each replica has those
                of its part, and the running ones are averaged.
            **options: As for `keras.Model.compile`.

        Raises:
            InputError: A loss or an option cannot be used.
        """
        optimizer = without_scaling(keras.optimizers.get(optimizer), self.loss_scale, options)
        # Keras would choose XLA on a GPU and compile anew for a smaller last batch.
        options.setdefault("jit_compile", False)
        super().compile(optimizer=optimizer, metrics=metrics, **options)
        self.sync_batch_norm = sync_batch_norm
        self.loss, self.evaluation_loss = loss, evaluation_loss
        logits = getattr(self.network, "returns_logits", False)
        self.batch_loss = self.evaluation_batch_loss = BatchLoss(loss, logits)
        if evaluation_loss is not None:
            self.evaluation_batch_loss = BatchLoss(evaluation_loss, logits)
        optimizer.build(self.network.trainable_variables)

    def build_metrics(self, element_spec) -> None:
        """Makes the metrics' variables, from what a batch is; Keras does it in the first step.

        A checkpoint that is restored before the first step needs them.
        """
        x, y, _ = keras.utils.unpack_x_y_sample_weight(element_spec)
        if self._compile_metrics is None or self._compile_metrics.built:
            return
        logits = self.network.compute_output_shape((1, *x.shape[1:]))
        self.compute_metrics(None, tf.zeros([1, *y.shape[1:]], y.dtype), tf.zeros(logits))
        self.reset_metrics()

    def train_step(self, data):
        """One step of the weights."""
        changed = [*self.network.variables, *self.optimizer.variables]
        with attempt(self.loss_scale, changed) as overflows:
            return self._train_step(data, overflows)

    def _train_step(self, data, overflows):
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        variables = self.network.trainable_variables
        step = steps_done(self.optimizer, self.loss_scale)
        began = [tf.convert_to_tensor(v) for v in variables]
        # This replica's share of the mean over the global batch; the optimizer sums the shares.
        rows = replicas.rows(tf.shape(y)[0])

        def compute():
            with tf.GradientTape() as tape:
                outputs = self.network.forward(x, training=True)
                main = self.batch_loss(y, outputs.logits, weight)
                losses, loss = main.losses, main.share(replicas.total)
                if outputs.auxiliary_logits is not None:
                    auxiliary = self.batch_loss(y, outputs.auxiliary_logits, weight)
                    losses += self.auxiliary_weight * auxiliary.losses
                    loss += self.auxiliary_weight * auxiliary.share(replicas.total)
            gradients = gradient(
                tape, loss, [v.value for v in variables], unconnected_gradients="zero"
            )
            return outputs.logits, losses, loss, gradients

        with local_statistics(not self.sync_batch_norm):
            logits, losses, loss, gradients = collective.in_one_order(compute)
        gradients, overflowed = checked(gradients)
        overflows.append(overflowed)
        if not self.sync_batch_norm:
            replicas.average(self.network.non_trainable_variables)
        self.optimizer.apply(gradients, variables)
        checks = [
            *finite.batch_checks("training", x, y, weight, rows),
            finite.Check(
                "loss of the training batch",
                [losses],
                rows if losses.shape.rank else None,
                advice=finite.LOSS,
            ),
        ]
        self.first_not_finite.look(
            step, finite.step_checks(variables, began, checks, gradients), rows
        )
        update_loss(self._mean_loss, loss, y, rows)
        return self.compute_metrics(x, y, logits, weight)

    def test_step(self, data):
        """Evaluates with running statistics, without the auxiliary head."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        logits = self.network(replicas.never_empty(x), training=False)[: tf.shape(y)[0]]
        self.evaluation_batch_loss(y, logits, weight).add_to(self._mean_loss)
        return self.compute_metrics(x, y, logits, weight)

    def get_config(self):
        """The constructor's arguments."""
        return {
            "network": keras.saving.serialize_keras_object(self.network),
            "auxiliary_weight": self.auxiliary_weight,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        """The evaluation of `get_config`."""
        return cls(
            **{**config, "network": keras.saving.deserialize_keras_object(config["network"])}
        )

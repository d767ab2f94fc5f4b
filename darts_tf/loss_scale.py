"""Loss scaling: how gradients at float16 are computed, and what becomes of a step that overflows.

Gradients smaller than 6e-8 are 0 in float16. Those of a loss L that is multiplied by a large S are
not, and are divided by S where they are float32 again (Micikevicius et al.: Mixed Precision
Training, ICLR 2018):

    g = d(S L) / S

Where one of them overflows S was too large: the step is undone, and S halved. After 2,000 good
steps S is doubled.

The rule and its numbers are those of `keras.optimizers.LossScaleOptimizer`, which cannot serve
here: it knows one optimizer where a search has two, looks at the gradients of one replica only,
leaves what the step did to running statistics and carried states, and hides what else an optimizer
offers, as `AveragedSGD` its averages.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from darts_tf import replicas
from darts_tf.errors import InputError

INITIAL, GROWTH_STEPS = 2.0**15, 2000
"""The first S, and the good steps after which it is doubled."""

_scale: contextvars.ContextVar = contextvars.ContextVar("scale", default=None)


def gradient(tape: tf.GradientTape, value: tf.Tensor, sources: Any, **options: Any) -> Any:
    """As `tape.gradient`; in a step with a loss scale, of S * value, and divided by S.

    Args:
        tape: The tape.
        value: A scalar.
        sources: Tensors of the type of the weights.
        **options: As for `tape.gradient`.
    """
    scale = _scale.get()
    if scale is None:
        return tape.gradient(value, sources, **options)
    scale = tf.cast(scale, value.dtype)
    found = tape.gradient(value, sources, output_gradients=scale, **options)
    return tf.nest.map_structure(lambda g: tf.convert_to_tensor(g) / scale, found)


def checked(gradients: Any) -> tuple[Any, tf.Tensor | bool]:
    """Gradients, zeros in their place if they overflowed, and whether they did.

    At S = 1 there is nothing to be lowered any more, and without a scale nothing is: gradients that
    are not finite are returned as they are, for `FirstNotFinite` to find.

    Args:
        gradients: Nested tensors.
    """
    scale = _scale.get()
    if scale is None:
        return gradients, False
    finite = [tf.reduce_all(tf.math.is_finite(g)) for g in tf.nest.flatten(gradients)]
    overflowed = ~tf.reduce_all(finite) & (scale > 1)
    zeroed = tf.nest.map_structure(lambda g: tf.where(overflowed, tf.zeros_like(g), g), gradients)
    return zeroed, overflowed


class LossScale(keras.layers.Layer):
    """The scale S of a model, as variables, which checkpoints and saved models hold.

    Attributes:
        growth_steps: Good steps after which S is doubled; None where the loss is not scaled.
    """

    def __init__(self, name: str = "loss_scale"):
        super().__init__(name=name, dtype="float32")
        self.growth_steps: int | None = GROWTH_STEPS
        self.scale = self.add_weight(
            name="scale",
            shape=(),
            initializer=keras.initializers.Constant(INITIAL),
            trainable=False,
        )
        self.good_steps, self.undone_steps = (
            self.add_weight(
                name=name, shape=(), dtype="int64", initializer="zeros", trainable=False
            )
            for name in ("good_steps", "undone_steps")
        )
        self.built = True

    @contextlib.contextmanager
    def attempt(self, variables: Sequence[keras.Variable]) -> Iterator[list]:
        """Within it a step is computed, and taken; at its end it is undone if it overflowed.

        Args:
            variables: All that the step may change.

        Yields:
            A list, to which the step adds what `checked` says of its gradients.
        """
        scale = tf.convert_to_tensor(self.scale)
        before = [tf.convert_to_tensor(v) for v in variables]
        overflows: list = []
        token = _scale.set(scale)
        try:
            yield overflows
        finally:
            _scale.reset(token)
        bad = replicas.total(tf.cast(tf.reduce_any(overflows), tf.float32)) > 0
        for variable, old in zip(variables, before, strict=True):
            variable.assign(tf.where(bad, old, tf.convert_to_tensor(variable)))
        good = tf.convert_to_tensor(self.good_steps) + 1
        grows = good >= self.growth_steps
        self.scale.assign(tf.where(bad, scale / 2, tf.where(grows, scale * 2, scale)))
        self.good_steps.assign(tf.where(bad | grows, tf.zeros_like(good), good))
        self.undone_steps.assign_add(tf.cast(bad, good.dtype))


def steps_done(optimizer: keras.optimizers.Optimizer, loss_scale: LossScale | None) -> tf.Tensor:
    """The steps that a model has computed, those that were undone too."""
    taken = tf.cast(optimizer.iterations, tf.int64)
    return taken if loss_scale is None else taken + loss_scale.undone_steps


def loss_scale_of(network: keras.Model) -> LossScale | None:
    """The loss scale that a network needs: one where it computes in float16."""
    return LossScale() if network.compute_dtype == "float16" else None


def attempt(
    loss_scale: LossScale | None, variables: Sequence[keras.Variable]
) -> contextlib.AbstractContextManager[list]:
    """`loss_scale.attempt(variables)`, or a step that is simply taken where nothing is scaled."""
    if loss_scale is None or loss_scale.growth_steps is None:
        return contextlib.nullcontext([])
    return loss_scale.attempt(variables)


def without_scaling(
    optimizer: keras.optimizers.Optimizer, loss_scale: LossScale | None, options: dict[str, Any]
) -> keras.optimizers.Optimizer:
    """An optimizer without Keras' own scaling; what it and the options say of it is set here.

    Args:
        optimizer: As a user gives it; a `LossScaleOptimizer` says how to scale.
        loss_scale: Of the model, or None.
        options: Of `keras.Model.compile`; `auto_scale_loss` is taken out.

    Raises:
        InputError: The optimizer has a fixed `loss_scale_factor`.
    """
    growth = GROWTH_STEPS if options.pop("auto_scale_loss", True) else None
    options["auto_scale_loss"] = False
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        growth = optimizer.dynamic_growth_steps
        if loss_scale is not None:
            loss_scale.scale.assign(optimizer.initial_scale)
        optimizer = optimizer.inner_optimizer
    if loss_scale is not None:
        loss_scale.growth_steps = growth
    if optimizer.loss_scale_factor is not None:
        raise InputError(
            "An optimizer's loss_scale_factor is not supported: at float16 the loss is scaled by "
            "itself, as far as its gradients allow. Leave it out, or give "
            "keras.optimizers.LossScaleOptimizer(optimizer, initial_scale). Received: "
            f"loss_scale_factor={optimizer.loss_scale_factor}."
        )
    return optimizer

"""The second-order step of the authors' search of recurrent cells, with its departures.

`bilevel.second_fd` is what the paper says. The authors' code departs from it where, in its own
words, nothing does:

    1. some weights (the tied embedding) are not moved by the virtual step;
    2. the clip factor is not bounded by 1 in the implicit term: where the gradient was shorter than
       the limit, the term is enlarged although nothing was clipped;
    3. v is itself clipped, which has no counterpart in the chain rule.

(That it also draws other dropout masks for each pass is the supernet's affair.) It is here to
repeat their runs, and for nothing else.
"""

import dataclasses

import keras
import tensorflow as tf

from darts_tf.errors import InputError
from darts_tf.loss_scale import gradient
from darts_tf.search import bilevel
from darts_tf.space.tracing import full_precision


@keras.saving.register_keras_serializable(package="darts_tf")
@dataclasses.dataclass(frozen=True)
class PublishedSecondOrder:
    """An order for `ArchitectureSearch`, which must clip its virtual step.

    Attributes:
        unmoved_start, unmoved_size: The entries of w that the virtual step does not move; a range
            of the concatenated weights.
    """

    unmoved_start: int = 0
    unmoved_size: int = 0

    @classmethod
    def keeping(
        cls, weights: list[keras.Variable], unmoved: keras.Variable
    ) -> "PublishedSecondOrder":
        """The order that does not move one of the weights.

        Args:
            weights: The supernet's `network_parameters`.
            unmoved: The weight to leave in place.

        Raises:
            InputError: It is not among them.
        """
        sizes = [int(tf.TensorShape(v.shape).num_elements()) for v in weights]
        for index, variable in enumerate(weights):
            if variable is unmoved:
                return cls(sum(sizes[:index]), sizes[index])
        raise InputError(f"{unmoved.name} is none of the supernet's network_parameters.")

    def __call__(
        self,
        train_loss: bilevel.Loss,
        validation_loss: bilevel.Loss,
        w: tf.Tensor,
        alphas: bilevel.Alphas,
        step: bilevel.VirtualStep,
        reduce: bilevel.Reduce,
        length: float = bilevel.FINITE_DIFFERENCE_STEP,
    ) -> bilevel.ArchitectureGradient:
        """The gradient; the arguments are those of `bilevel.second_fd`.

            w'  = w - xi * (min(1, c) * d/dw L_train(w, alpha) + lambda * w), but for the unmoved
            c   = clip_norm / (|d/dw L_train| + 1e-6)
            v   = d/dw' L_val(w', alpha), scaled to norm clip_norm where it is longer
            HVP = as in `bilevel.second_fd`, R = length / |v|
            g   = d/dalpha L_val(w', alpha) - xi * c * HVP

        Raises:
            InputError: The virtual step does not clip.
        """
        if step.clip_norm is None:
            raise InputError(
                "The published second-order step of recurrent cells clips its virtual step: give "
                "ArchitectureSearch clip_virtual_step=True and an optimizer with a clip_norm."
            )
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(w)
            value = train_loss(w, alphas)
        g_train = reduce(gradient(tape, value, w))
        c = step.clip_norm / (tf.norm(g_train) + 1e-6)
        moved = step(w, g_train)
        start, end = self.unmoved_start, self.unmoved_start + self.unmoved_size
        w_prime = tf.concat([moved[:start], w[start:end], moved[end:]], 0)

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([w_prime, *alphas])
            value = validation_loss(w_prime, alphas)
        v, *direct = gradient(tape, value, [w_prime, *alphas], unconnected_gradients="zero")
        v = reduce(v)
        v *= tf.minimum(step.clip_norm / (tf.norm(v) + 1e-6), 1.0)

        norm = tf.norm(v)
        half_inverse = norm / (2 * length)
        displacement = length * tf.math.divide_no_nan(v, norm)
        with full_precision():
            _, plus = bilevel.alpha_gradient(train_loss, w + displacement, alphas)
            with tf.control_dependencies(plus):
                w_minus = tf.identity(w - displacement)
            _, minus = bilevel.alpha_gradient(train_loss, w_minus, alphas)
        g = [
            d - step.xi * c * (p - m) * half_inverse
            for d, p, m in zip(direct, plus, minus, strict=True)
        ]
        return bilevel.ArchitectureGradient(g, value)

    def get_config(self) -> dict[str, int]:
        """The constructor's arguments."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config) -> "PublishedSecondOrder":
        """The order of `get_config`."""
        return cls(**config)

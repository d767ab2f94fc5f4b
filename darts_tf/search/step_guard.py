"""What is looked at in a step of the search, to name what was first not finite."""

from typing import Any, NamedTuple

import tensorflow as tf

from darts_tf import finite
from darts_tf.finite import Check, variables_of
from darts_tf.replicas import Rows
from darts_tf.search.bilevel import ArchitectureGradient


class Computed(NamedTuple):
    """What a step has computed, in its order.

    Attributes:
        virtual_losses: The training loss that the virtual step began with, or none.
        gradient: Of the alphas, with the loss of the validation batch.
        loss: Of the training batch, at the new alphas.
        g: The gradients of the weights.

    Of several replicas each has its share of these; what they sum to is in the next variables.
    """

    virtual_losses: list[tf.Tensor]
    gradient: ArchitectureGradient
    loss: tf.Tensor
    g: list[tf.Tensor]


def checks(
    supernet: Any,
    first_order: bool,
    train: tuple,
    validation: tuple,
    rows: tuple[Rows, Rows],
    began: tuple,
    computed: Computed,
) -> list[Check]:
    """What a step has read and computed, in its order.

    Args:
        supernet: After the step.
        first_order: Whether there was no virtual step.
        train: The training batch: (x, y, weight of each example or None).
        validation: The validation batch, likewise.
        rows: Those of the training batch and of the validation batch.
        began: The vector of the weights and the alphas with which the step began.
        computed: What it computed.
    """
    weights, alphas = supernet.network_parameters, supernet.architecture_parameters
    of_weights = {"variables": variables_of(weights)}
    of_alphas = {"variables": variables_of(alphas)}
    if first_order:
        losing, deriving = "Look at the validation examples, and lower {}.", finite.GRADIENT
    else:
        losing = "It is computed after the virtual step: lower {}, which is its length."
        deriving = "Lower {}, and see whether order='first' has it too."
    losing, deriving = (s.format("the learning rate of the weights") for s in (losing, deriving))
    outside = {"decides": False, "advice": finite.OUTSIDE}
    read = [
        Check("weights with which the step began", [began[0]], **of_weights, **outside),
        Check("alphas with which the step began", began[1], **of_alphas, **outside),
    ]
    read += finite.batch_checks("training", *train, rows[0])
    read += finite.batch_checks("validation", *validation, rows[1])
    of_training, of_validation = "loss of the training batch", "loss of the validation batch"
    after = [[tf.convert_to_tensor(v) for v in variables] for variables in (alphas, weights)]
    gradient = computed.gradient
    return [
        *read,
        Check(of_training, computed.virtual_losses, advice=finite.LOSS),
        Check(of_validation, [gradient.validation_loss], advice=losing),
        Check(
            "gradient of the alphas",
            gradient.alphas,
            **of_alphas,
            decides=False,
            advice=deriving,
        ),
        Check("alphas", after[0], **of_alphas, advice="Lower the learning rate of the alphas."),
        Check(of_training, [computed.loss], advice=finite.LOSS),
        Check(
            "gradient of the weights",
            computed.g,
            **of_weights,
            decides=False,
            advice=finite.GRADIENT,
        ),
        Check("weights", after[1], **of_weights, advice=finite.WEIGHTS),
    ]

"""What the search asks of a supernet, whatever it is made of."""

from typing import Any, Protocol

import keras

from darts_tf.errors import InputError


class SearchSpace(Protocol):
    """What a supernet must offer, beside being a built `keras.Model`."""

    @property
    def architecture_parameters(self) -> list[keras.Variable]:
        """The alphas; variables with trainable=False, so that they are no weights."""

    @property
    def network_parameters(self) -> list[keras.Variable]:
        """The weights; the same list as `trainable_variables`."""

    def derive(self) -> Any:
        """The discrete architecture of the present alphas."""

    # Optional: returns_logits = True, where the outputs are logits: a loss that takes probabilities
    # is then refused.

    # Optional: stream_state, a list of pairs of variables with trainable=False. The first of a
    # pair belongs to the stream of training batches, the second is its counterpart for the stream
    # of validation batches: with a validation batch the supernet finds the second's value in the
    # first, and what it assigns there is kept in the second. A hidden state that is carried from
    # batch to batch is such a variable; neither stream ever sees the other's.


def check_supernet(supernet: SearchSpace) -> None:
    """Checks that a supernet has what `SearchSpace` asks for.

    Raises:
        InputError: It lacks a member, is not built, or its alphas are trainable.
    """
    missing = [
        name
        for name in ("architecture_parameters", "network_parameters", "derive")
        if not hasattr(supernet, name)
    ]
    if not isinstance(supernet, keras.Model) or missing:
        raise InputError(
            "supernet must be a keras.Model with architecture_parameters, network_parameters "
            f"and derive(). Received: {type(supernet).__name__}"
            + (f" without {', '.join(missing)}." if missing else ".")
        )
    if not supernet.built:
        raise InputError(
            "supernet must be built before the search: call it once on a batch of inputs."
        )
    if any(v.trainable for v in supernet.architecture_parameters):
        raise InputError(
            "The architecture parameters must be variables with trainable=False: as "
            "trainable ones they would "
            "be weights too. Make them with add_weight(..., trainable=False)."
        )

"""What an architecture is: genotypes as plain data, derived, published, read and written."""

from darts_tf.genotype import zoo
from darts_tf.genotype.alpha_file import load_alphas
from darts_tf.genotype.derive import (
    derive,
    derive_recurrent,
    edge_offset,
    num_edges,
    num_nodes_of,
)
from darts_tf.genotype.files import load, load_provenance, save
from darts_tf.genotype.genotype import (
    KINDS,
    Genotype,
    RecurrentGenotype,
    from_json,
    parse_text,
)
from darts_tf.genotype.primitives import (
    CNN_EVALUATION_PRIMITIVES,
    CNN_PRIMITIVES,
    RNN_PRIMITIVES,
)
from darts_tf.genotype.sampling import random_recurrent
from darts_tf.genotype.validation import INPUT_NODES
from darts_tf.genotype.zoo import load_genotype

__all__ = [
    "CNN_EVALUATION_PRIMITIVES",
    "CNN_PRIMITIVES",
    "INPUT_NODES",
    "KINDS",
    "RNN_PRIMITIVES",
    "Genotype",
    "RecurrentGenotype",
    "derive",
    "derive_recurrent",
    "edge_offset",
    "from_json",
    "load",
    "load_alphas",
    "load_provenance",
    "num_edges",
    "num_nodes_of",
    "parse_text",
    "random_recurrent",
    "load_genotype",
    "save",
    "zoo",
]

"""The published genotypes: what they are, what is known of them, and how a user names one."""

import json
import os
from pathlib import Path

import pytest

from darts_tf.errors import InputError
from darts_tf.genotype import Genotype, RecurrentGenotype, load_genotype, save, zoo

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = Path(os.environ.get("DARTS_TF_GOLDEN", REPOSITORY.parent / "shared" / "golden"))
PUBLISHED = GOLDEN / "genotypes.json"


def test_the_names_are_those_of_the_publications():
    assert zoo.names() == (
        "NASNet",
        "AmoebaNet",
        "DARTS_V1",
        "DARTS_V2",
        "PT_DARTS_CIFAR10",
        "PT_DARTS_FASHION_MNIST",
        "PT_DARTS_MNIST",
        "DARTS",
    )
    assert zoo.names("rnn") == ("ENAS", "DARTS_V1", "DARTS_V2", "DARTS")


@pytest.mark.skipif(not PUBLISHED.is_file(), reason=f"no published genotypes at {PUBLISHED}")
def test_the_genotypes_are_those_published():
    published = json.loads(PUBLISHED.read_text())
    for name, cells in published["cnn"].items():
        assert zoo.genotype(name) == Genotype(**cells)
    for name, cells in published["rnn"].items():
        assert zoo.genotype(name, "rnn") == RecurrentGenotype(**cells)
    for name, cells in published["pt_darts_found"].items():
        known = {"cifar10": "CIFAR10", "fashionmnist": "FASHION_MNIST", "mnist": "MNIST"}[name]
        assert zoo.genotype(f"PT_DARTS_{known}") == Genotype(**cells)


def test_the_second_order_cell_is_the_default():
    assert zoo.entry("DARTS") == zoo.entry("DARTS_V2")
    assert zoo.genotype("DARTS").to_text() == (
        "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), "
        "('sep_conv_3x3', 1), ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), "
        "('dil_conv_3x3', 2)], normal_concat=range(2, 6), reduce=[('max_pool_3x3', 0), "
        "('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
        "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)], "
        "reduce_concat=range(2, 6))"
    )
    assert zoo.entry("DARTS", "rnn").name == "DARTS_V2"


def convolutional_weights(name: str, init_channels: int, num_cells: int, num_classes: int) -> int:
    """Trainable numbers of the CIFAR network of a genotype, counted from its cells alone."""

    def weights_of(primitive: str, channels: int, stride: int) -> int:
        norm, pointwise = 2 * channels, channels * channels
        kind, _, size = primitive.rpartition("_")
        if primitive == "conv_7x1_1x7":
            return 2 * 7 * pointwise + norm
        if kind.endswith("pool"):
            return 0
        if primitive == "skip_connect":
            return 0 if stride == 1 else pointwise + norm
        once = int(size[0]) ** 2 * channels + pointwise + norm
        return 2 * once if kind == "sep_conv" else once

    genotype = zoo.genotype(name)
    total = 3 * 9 * 3 * init_channels + 2 * 3 * init_channels
    before_last = last = 3 * init_channels
    channels = init_channels
    for index in range(num_cells):
        reduction = index in (num_cells // 3, 2 * num_cells // 3)
        channels *= 2 if reduction else 1
        total += (before_last + last) * channels + 4 * channels
        for primitive, _, predecessor in genotype.edges(reduction):
            stride = 2 if reduction and predecessor < 2 else 1
            total += weights_of(primitive, channels, stride)
        before_last, last = last, channels * len(genotype.cell(reduction)[1])
    return total + last * num_classes + num_classes


def test_the_known_weight_counts_follow_from_the_cells():
    counted = 0
    for name in zoo.names():
        network = dict(zoo.entry(name).networks.get("cifar10", {}))
        if network:
            counted += 1
            settings = {key: network[key] for key in ("init_channels", "num_cells", "num_classes")}
            assert convolutional_weights(name, **settings) == network["weights"], name
    assert counted == 6
    assert zoo.entry("DARTS_V2").networks["cifar10"]["weights"] == 3349342
    assert zoo.entry("DARTS_V2").networks["imagenet"]["weights"] == 4718752


def test_the_known_weight_counts_of_language_models_follow_from_the_cells():
    for name in zoo.names("rnn"):
        entry = zoo.entry(name, "rnn")
        assert "ptb" in entry.networks
        for network in entry.networks.values():
            hidden, words = network["hidden_size"], network["vocabulary"]
            matrices = (2 * hidden) ** 2 + len(entry.genotype.recurrent) * 2 * hidden**2
            assert network["weights"] == words * hidden + words + matrices


def test_every_genotype_says_where_it_comes_from():
    for kind in ("cnn", "rnn"):
        for name in zoo.names(kind):
            assert "github.com/" in zoo.entry(name, kind).source


def test_unknown_names_and_kinds_are_answered_with_the_known_ones():
    with pytest.raises(InputError, match="Unknown genotype 'ENAS'. Known: AmoebaNet, DARTS, DARTS"):
        zoo.genotype("ENAS")
    with pytest.raises(InputError, match="Unknown kind of genotype 'gnn'. Known: cnn, rnn."):
        zoo.names("gnn")


def test_a_user_gives_a_name_or_a_file(tmp_path):
    path = tmp_path / "mine.json"
    save(zoo.genotype("NASNet"), path)
    assert (
        load_genotype("NASNet")
        == load_genotype(str(path))
        == load_genotype(path)
        == zoo.genotype("NASNet")
    )
    assert load_genotype("ENAS", "rnn") == zoo.genotype("ENAS", "rnn")


def test_what_is_neither_name_nor_file_is_refused(tmp_path):
    words = (
        r"Unknown genotype 'DARTS_V3'. Known: .*DARTS_V2.*The path of a genotype file is accepted"
    )
    with pytest.raises(InputError, match=words):
        load_genotype("DARTS_V3")
    with pytest.raises(InputError, match="Is a directory"):
        load_genotype(str(tmp_path))
    path = tmp_path / "cell.json"
    save(zoo.genotype("ENAS", "rnn"), path)
    with pytest.raises(InputError, match="cell.json holds a RecurrentGenotype; here a Genotype is"):
        load_genotype(str(path), "cnn")

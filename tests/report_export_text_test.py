"""An exported language model splits and marks a text as the corpus was that it learnt from."""

import tensorflow as tf

from darts_tf.data.text import read_words
from darts_tf.report.export_text import _marked


def test_an_export_parts_and_marks_a_text_as_the_corpus_does(tmp_path):
    blanks = [chr(c) for c in range(0x110000) if chr(c).isspace()]
    text = (
        "".join(f"a{blank}b" for blank in blanks) + "\r\n\r c <eos>\n<eos> \nd<eos>\n<eos>\n\n e\n"
    )
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8", newline="")
    found = tf.strings.split(_marked(tf.constant([text, "f", "g <eos>"]), "<eos>")).to_list()
    assert [word.decode() for word in found[0]] == read_words(path)
    assert found[1:] == [[b"f"], [b"g", b"<eos>"]]

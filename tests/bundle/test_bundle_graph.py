"""What the device reads of an ONNX graph without `onnx` is what `onnx` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import DEFAULT_BUNDLE, load_bundle
from edge_runtime.bundle.graph import INNER, KINDS, MAX_DEPTH, MAX_FIELDS, check_graph
from edge_runtime.errors import BundleError, BundleMalformed, BundleUnsafe

onnx = pytest.importorskip("onnx")
helper, numpy_helper = onnx.helper, onnx.numpy_helper


def tensor(*, external: bool = False) -> Any:
    made = numpy_helper.from_array(np.zeros(3, np.float32), "weights")
    if external:
        onnx.external_data_helper.set_external_data(made, "../weights.bin")
    return made


def model(*nodes: Any, initializer: Any = None, **options: Any) -> bytes:
    nodes = nodes or (helper.make_node("Relu", ["x"], ["y"]),)
    value = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3])]
    graph = helper.make_graph(list(nodes), "g", value, [], [initializer or tensor()])
    return bytes(helper.make_model(graph, **options).SerializeToString())


def nested(node: Any, depth: int) -> Any:
    """A node within branches of ``If``."""
    for _ in range(depth):
        branch = helper.make_graph([node], "branch", [], [])
        node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return node


def test_shipped_and_standard_graphs_pass(tiny_graph: bytes) -> None:
    check_graph("tiny", tiny_graph)
    check_graph("made", model(nested(helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx"), 3)))
    for precision, form in load_bundle(DEFAULT_BUNDLE).forms.items():
        check_graph(precision, form.onnx)


CUSTOM = helper.make_node("Wipe", ["x"], ["y"], domain="com.evil")
OUTSIDE = helper.make_node("Constant", [], ["y"], value=tensor(external=True))
SPARSE = onnx.SparseTensorProto(values=tensor(external=True), indices=numpy_helper.from_array(np.zeros(3, np.int64)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (model(initializer=tensor(external=True)), "external data"),
        (model(OUTSIDE), "external data"),
        (model(nested(OUTSIDE, 2)), "external data"),
        (model(helper.make_node("Constant", [], ["y"], sparse_value=SPARSE)), "external data"),
        (model(helper.make_node("Many", [], ["y"], values=[tensor(), tensor(external=True)])), "external data"),
        (model(CUSTOM), "operator Wipe of domain 'com.evil'"),
        (model(nested(CUSTOM, 2)), "operator Wipe"),
        (model(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")), "operator Gelu of domain 'com.microsoft'"),
        (
            model(functions=[helper.make_function("local", "f", ["x"], ["y"], [], [helper.make_opsetid("", 17)])]),
            "functions of its own",
        ),
    ],
)  # fmt: skip
def test_a_graph_that_reaches_outside_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(BundleUnsafe, match=f"forms/x.onnx: .*{words}"):
        check_graph("forms/x.onnx", content)


def test_the_location_alone_is_enough() -> None:
    made = tensor()
    made.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(BundleUnsafe, match="external data"):
        check_graph("x", model(initializer=made))


def test_training_graphs_are_looked_at() -> None:
    made = onnx.load_from_string(model())
    made.training_info.add().algorithm.CopyFrom(helper.make_graph([CUSTOM], "training", [], []))
    with pytest.raises(BundleUnsafe, match="Wipe"):
        check_graph("x", made.SerializeToString())


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x3b", b"\x3a\xff\xff\xff\xff\x0f", b"\x38\x01", b"\xff" * 20])
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    with pytest.raises(BundleMalformed, match=r"^x: "):
        check_graph("x", content)


def test_graphs_without_an_end_are_refused() -> None:
    with pytest.raises(BundleMalformed, match=f"deeper than {MAX_DEPTH}"):
        check_graph("x", model(nested(CUSTOM, MAX_DEPTH)))


@settings(max_examples=100, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_damage_is_passed_or_refused_and_nothing_else(place: float, value: int, cut: bool) -> None:
    content = bytearray(model(nested(helper.make_node("Relu", ["x"], ["y"]), 3)))
    at = int(place * len(content))
    content[at] = value
    try:
        check_graph("x", bytes(content[: at + 1] if cut else content))
    except BundleError:
        return


# Spellings: what a lenient parser of protobuf reads otherwise than this one.

Field = tuple[int, int, "int | bytes | Message"]
"""Number, wire type and value."""

Message = list[Field]  # type: ignore[misc]  # of itself


def varint(value: int, padding: int = 0) -> bytes:
    """A number of protobuf; ``padding`` bytes longer than it need be."""
    groups = [value >> shift & 0x7F for shift in range(0, max(value.bit_length(), 1), 7)] + [0] * padding
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def read_message(kind: str, content: bytes) -> Message:
    """A message that `onnx` wrote, as a tree."""
    made: Message = []
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = content[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(content):
        tag = number()
        if tag & 7 == 0:
            made.append((tag >> 3, 0, number()))
            continue
        length = {1: 8, 5: 4}.get(tag & 7) or number()
        value, at = content[at : at + length], at + length
        inner = INNER.get(kind, {}).get(tag >> 3)
        made.append((tag >> 3, tag & 7, read_message(inner, value) if inner in INNER else value))
    return made


class Spelling:
    """Writes a tree, one of its fields otherwise than `onnx` does.

    Args:
        place: which field, in the order in which they end.
        how: what is done to it.
    """

    def __init__(self, place: int = -1, how: str = "", much: int = 1) -> None:
        self.place, self.how, self.much = place, how, much
        self.written = 0
        self.changed = False

    def write(self, message: Message) -> bytes:
        return b"".join(self.field(*field) for field in message)

    def field(self, number: int, kind: int, value: int | bytes | Message) -> bytes:
        body = self.write(value) if isinstance(value, list) else value
        how = self.how if self.written == self.place else ""
        self.written += 1
        self.changed |= how in ("long tag", "padded tag") or (how == "padded number" and kind in (0, 2))
        tag = varint(
            (number << 3 | kind) + (self.much << 32 if how == "long tag" else 0),
            self.much if how == "padded tag" else 0,
        )
        padding = self.much if how == "padded number" else 0
        if isinstance(body, int):
            return tag + varint(body, padding)
        return tag + (varint(len(body), padding) if kind == 2 else b"") + body


EVIL = [
    model(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")),
    model(nested(CUSTOM, 1)),
    model(initializer=tensor(external=True)),
    model(OUTSIDE),
    model(functions=[helper.make_function("local", "f", ["x"], ["y"], [], [helper.make_opsetid("", 17)])]),
]
SOUND = [model(), model(nested(helper.make_node("Conv", ["x"], ["y"], strides=[2, 2], alpha=0.5), 2))]


@pytest.mark.parametrize("content", [*EVIL, *SOUND])
def test_the_spelling_of_onnx_is_written_again(content: bytes) -> None:
    assert Spelling().write(read_message("Model", content)) == content


@settings(max_examples=400, deadline=None)
@given(
    content=st.sampled_from([*EVIL, *SOUND]),
    place=st.integers(0, 60),
    how=st.sampled_from(["long tag", "padded tag", "padded number"]),
    much=st.integers(1, 4),
)
def test_no_other_spelling_is_read(content: bytes, place: int, how: str, much: int) -> None:
    """Engines drop what is above 32 bits of a tag: a domain or a path would be none here, and one there."""
    spelling = Spelling(place, how, much)
    respelt = spelling.write(read_message("Model", content))
    if spelling.changed or content in EVIL:
        with pytest.raises(BundleError):
            check_graph("x", respelt)
    else:
        check_graph("x", respelt)


@settings(max_examples=200, deadline=None)
@given(
    content=st.sampled_from(SOUND),
    place=st.integers(0, 60),
    number=st.integers(1, (1 << 29) - 1),
    kind=st.sampled_from([0, 1, 2, 3, 4, 5, 6, 7]),
)
def test_no_field_that_onnx_has_not_is_read(content: bytes, place: int, number: int, kind: int) -> None:
    """An engine of tomorrow might know it."""

    class Adding(Spelling):
        def write(self, message: Message) -> bytes:
            before = self.written
            written = super().write(message)
            if before <= self.place < self.written and not self.changed:
                self.changed = True
                return written + varint(number << 3 | kind) + bytes(8)
            return written

    adding = Adding(place)
    with_more = adding.write(read_message("Model", content))
    if not adding.changed:
        return
    known = {one for fields in KINDS.values() for one, kinds in fields.items() if kind in kinds}
    if number not in known:
        with pytest.raises(BundleMalformed, match=rf"field {number} of wire type {kind} is none of"):
            check_graph("x", with_more)


def test_the_fields_are_those_of_onnx() -> None:
    """All of them, of their wire types; and every one that leads to a node or a tensor is followed."""
    kinds = {"int": (0,), "float": (5,), "double": (1,), "bytes": (2,)}
    words = {1: "double", 2: "float", 3: "int", 4: "int", 5: "int", 9: "bytes", 11: "bytes", 12: "bytes", 14: "int"}
    names = {
        "Model": onnx.ModelProto,
        "Training": onnx.TrainingInfoProto,
        "Graph": onnx.GraphProto,
        "Node": onnx.NodeProto,
        "Attribute": onnx.AttributeProto,
        "Sparse": onnx.SparseTensorProto,
        "Tensor": onnx.TensorProto,
        "Function": onnx.FunctionProto,
    }
    followed = {made.DESCRIPTOR.name: name for name, made in names.items()}
    for name in KINDS:
        descriptor = names[name].DESCRIPTOR
        assert {one.number for one in descriptor.fields} <= set(KINDS[name])
        for one in descriptor.fields:
            assert set(kinds[words[one.type]]) <= set(KINDS[name][one.number]), (name, one.name)
        inner = {
            one.number: followed[one.message_type.name]
            for one in descriptor.fields
            if one.message_type is not None and one.message_type.name in followed
        }
        assert inner == INNER[name]
        others = [one.message_type for one in descriptor.fields if one.message_type is not None]
        assert not [one.name for one in others if one.name not in followed and reaches(one, set(followed), set())]


def reaches(descriptor: Any, wanted: set[str], seen: set[str]) -> bool:
    """Whether a message leads to one of those that are wanted."""
    if descriptor.full_name in seen:
        return False
    seen.add(descriptor.full_name)
    return descriptor.name in wanted or any(
        reaches(one.message_type, wanted, seen) for one in descriptor.fields if one.message_type is not None
    )


def test_a_location_is_a_number_of_32_bits() -> None:
    """2^32 is no file for one parser, and 0, inside, for another; 2^32 + 1 the reverse."""
    for value in (1 << 32, (1 << 32) + 1, 2, (1 << 64) - 1):
        node = [(1, 2, b"x"), (4, 2, b"Relu")]
        tree: Message = [(1, 0, 8), (7, 2, [(1, 2, node), (5, 2, [(8, 2, b"w"), (14, 0, value)])])]
        with pytest.raises(BundleUnsafe, match="external data"):
            check_graph("x", Spelling().write(tree))


def test_the_last_of_two_domains_does_not_hide_the_first() -> None:
    for domains in ((b"com.evil", b""), (b"", b"com.evil")):
        node: Message = [(4, 2, b"Wipe"), *((7, 2, domain) for domain in domains)]
        with pytest.raises(BundleUnsafe, match=r"operator Wipe of domain 'com\.evil'"):
            check_graph("x", Spelling().write([(1, 0, 8), (7, 2, [(1, 2, node)])]))


@pytest.mark.parametrize("operators", [(b"Loop",), (b"Scan", b"Relu"), (b"Relu", b"SequenceMap")])
def test_what_repeats_for_as_long_as_it_likes_is_refused(operators: tuple[bytes, ...]) -> None:
    node: Message = [(4, 2, operator) for operator in operators]
    with pytest.raises(BundleUnsafe, match="repeats as often as a tensor says"):
        check_graph("x", Spelling().write([(1, 0, 8), (7, 2, [(1, 2, node)])]))


def test_a_model_of_two_formats_is_refused() -> None:
    """ONNX Runtime chooses by the name at byte 4, which may as well lie in the producer's."""
    tree = [field for field in read_message("Model", model()) if field[0] != 2]
    check_graph("x", Spelling().write([(2, 2, b"\0\0other"), *tree]))
    with pytest.raises(BundleUnsafe, match="x: may be read as a model in ONNX Runtime's own"):
        check_graph("x", Spelling().write([(2, 2, b"\0\0ORTM"), *tree]))


def test_a_graph_of_very_many_fields_is_refused() -> None:
    content = model() + varint(2 << 3 | 2) + b"\0"
    with pytest.raises(BundleMalformed, match=f"more than {MAX_FIELDS} fields"):
        check_graph("x", content + content[-2:] * MAX_FIELDS)


def test_no_weights_are_read(tmp_path: Path) -> None:
    """Weights are skipped by their length: the time does not grow with them."""
    large = numpy_helper.from_array(np.zeros(4 << 20, np.float32), "weights")
    check_graph("x", model(initializer=large))

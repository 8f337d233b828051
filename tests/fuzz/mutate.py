"""Structure-aware mutations, with the standard library alone: bytes, text, and msgpack as a tree."""

from __future__ import annotations

import functools
import random
import struct
from typing import NamedTuple

INPUT_BYTES_MAX = 1 << 16
_PREFIX_BYTES = {"tagged": 1, "sized": 4}
"""Kinds that are msgpack behind a few bytes which choose something."""
_EDGES = (0, 1, 2, 7, 15, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1023, 1024, 32767, 32768, 65535, 65536)
_WIDE = (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_TEXTS = (
    b"",
    b"\0",
    b"..",
    b"/",
    b"/../..",
    b"a" * 300,
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"%s%n",
    b"\x1b[2J",
    b"{}",
)
_GLYPHS = (
    *"\0\n\r\t \"'\\[]{}()=.,:;#*?/-_+!^$|~<>@%&0123456789aZ",
    "\x1b",
    "\x7f",
    "é",
    "\U0001d518",
    "\u202e",
    "\ud800",
)


class Node(NamedTuple):
    """A msgpack value; maps and sequences hold nodes (a map's keys and values alternate): nothing is lost."""

    kind: str  # nil bool int float str bin ext seq map, and raw: bytes that are written as they are
    value: object


class NotMsgpack(ValueError):
    """Bytes that are no single msgpack value."""


def mutate(data: bytes, rng: random.Random, corpus: list[bytes], kind: str, words: list[bytes]) -> bytes:
    """A variation of `data`: one to a few steps of `kind`.

    Args:
        data: where to begin.
        rng: the one source of chance.
        corpus: others to take parts from.
        kind: binary, text, msgpack, or msgpack behind 1 byte (tagged) or 4 (sized).
        words: byte strings that mean something to the parser.
    """
    prefix, data = data[: _PREFIX_BYTES.get(kind, 0)], data[_PREFIX_BYTES.get(kind, 0) :]
    if prefix:
        corpus = [rng.choice(corpus)[len(prefix) :]]
        kind = "msgpack"
        if rng.random() < 0.1:
            prefix = _mutate_bytes(prefix, rng, corpus, words)
    for _ in range(min(1 + int(rng.expovariate(1.2)), 8)):
        if kind == "msgpack" and rng.random() < 0.75:
            data = _mutate_tree(data, rng, corpus)
        elif kind == "text" and rng.random() < 0.6:
            data = _mutate_text(data, rng, words)
        else:
            data = _mutate_bytes(data, rng, corpus, words)
    return (prefix + data)[:INPUT_BYTES_MAX]


# --- bytes ---------------------------------------------------------------------------------------


def _mutate_bytes(data: bytes, rng: random.Random, corpus: list[bytes], words: list[bytes]) -> bytes:
    raw = bytearray(data)
    at = rng.randrange(len(raw) + 1)
    match rng.randrange(9):
        case 0 if raw:
            raw[at % len(raw)] ^= 1 << rng.randrange(8)
        case 1 if raw:
            raw[at % len(raw)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        case 2:
            form = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
            size = struct.calcsize(form)
            number = rng.choice((*_EDGES, *_WIDE, len(raw), len(raw) - 1, rng.getrandbits(64)))
            raw[at : at + size] = struct.pack(form, number % (1 << 8 * size))
        case 3:
            del raw[at : at + _span(rng)]
        case 4:
            raw[at:at] = rng.randbytes(_span(rng))
        case 5:
            raw[at:at] = raw[at : at + _span(rng)] * rng.randrange(1, 4)
        case 6:
            other = rng.choice(corpus)
            start = rng.randrange(len(other) + 1)
            raw[at : at + rng.choice((0, _span(rng)))] = other[start : start + _span(rng) * 4]
        case 7:
            raw = raw[:at] if rng.random() < 0.5 else raw[at:]
        case _:
            raw[at:at] = rng.choice(words) if words else bytes(_span(rng))
    return bytes(raw)


def _span(rng: random.Random) -> int:
    return min(int(rng.expovariate(1 / 6)) + 1, 256)


# --- text ----------------------------------------------------------------------------------------


def _mutate_text(data: bytes, rng: random.Random, words: list[bytes]) -> bytes:
    text = data.decode("utf-8", "surrogateescape")
    at = rng.randrange(len(text) + 1)
    match rng.randrange(6):
        case 0:
            text = text[:at] + rng.choice(_GLYPHS) * rng.choice((1, 1, 1, 2, 50)) + text[at:]
        case 1:
            text = text[:at] + text[at + _span(rng) :]
        case 2:
            text = text[:at] + text[at : at + _span(rng)] * rng.choice((2, 3, 30)) + text[at + 1 :]
        case 3:
            word = rng.choice(words).decode("utf-8", "replace") if words else " "
            text = text[:at] + word + text[at:]
        case 4:
            lines = text.split("\n")
            rng.shuffle(lines)
            text = "\n".join(lines)
        case _:
            number = str(rng.choice((*_EDGES, *_WIDE, -1, 10**400, 1.5)))
            text = text[:at] + number + text[at + 1 :]
    return text.encode("utf-8", "surrogatepass" if rng.random() < 0.1 else "replace")


# --- msgpack -------------------------------------------------------------------------------------


def _mutate_tree(data: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    try:
        tree = parse(data)
    except NotMsgpack:
        return _mutate_bytes(data, rng, corpus, [])
    return encode(_edit(tree, _path(tree, rng), rng, corpus), rng if rng.random() < 0.05 else None)


def _path(tree: Node, rng: random.Random) -> list[int]:
    """The way to some node, by indexes."""
    found: list[int] = []
    while tree.kind in {"seq", "map"} and tree.value and rng.random() < 0.85:
        found.append(rng.randrange(len(tree.value)))
        tree = tree.value[found[-1]]
    return found


def _edit(tree: Node, path: list[int], rng: random.Random, corpus: list[bytes]) -> Node:
    if path:
        children = list(tree.value)
        children[path[0]] = _edit(children[path[0]], path[1:], rng, corpus)
        return Node(tree.kind, children)
    if tree.kind in {"seq", "map"} and rng.random() < 0.5:
        return _reshape(tree, rng)
    match rng.randrange(6):
        case 0:
            return _other(corpus, rng)
        case 1:
            return _deep(tree, rng.choice((1, 1, 1, 1, 1, 1, 3, 3, 3, 30, 30, 1500)), rng)
        case 2 if tree.kind == "int":
            return Node("int", tree.value + rng.choice((-1, 1, 2**32, -(2**31))))
        case 3 if tree.kind in {"str", "bin"}:
            raw = _mutate_bytes(tree.value, rng, [tree.value], [])
            return Node(rng.choice((tree.kind, tree.kind, "str", "bin")), raw)
        case _:
            return random_leaf(rng)


def _reshape(tree: Node, rng: random.Random) -> Node:
    step = 2 if tree.kind == "map" else 1
    items = [list(tree.value[at : at + step]) for at in range(0, len(tree.value), step)]
    pick = rng.randrange(len(items)) if items else 0
    match rng.randrange(5):
        case 0 if items:
            del items[pick]
        case 1 if items:
            items.insert(rng.randrange(len(items) + 1), items[pick])  # in a map: a key twice
        case 2 if items:
            items += [items[pick]] * rng.choice((1, 2, 20, 200))
        case 3:
            items.append([random_leaf(rng) for _ in range(step)])
        case _:
            rng.shuffle(items)
    return Node(tree.kind, [child for item in items for child in item])


def _deep(tree: Node, levels: int, rng: random.Random) -> Node:
    """`tree` within so many sequences or maps of one."""
    shell = b"\x91" if rng.random() < 0.5 else b"\x81" + encode(random_leaf(rng))
    return Node("raw", shell * levels + encode(tree))


def _other(corpus: list[bytes], rng: random.Random) -> Node:
    try:
        tree = parse(rng.choice(corpus))
    except NotMsgpack:
        return random_leaf(rng)
    for index in _path(tree, rng):
        tree = tree.value[index]
    return tree


def random_leaf(rng: random.Random) -> Node:
    """Some value without children."""
    match rng.randrange(7):
        case 0:
            return Node("nil", None)
        case 1:
            return Node("bool", rng.random() < 0.5)
        case 2:
            return Node("int", rng.choice((*_EDGES, *_WIDE)) * rng.choice((1, -1)))
        case 3:
            return Node("float", rng.choice((0.0, -1.5, 1e308, float("inf"), float("nan"))))
        case 4:
            return Node("ext", (rng.choice((-1, 0, 5)), rng.randbytes(rng.choice((0, 1, 4, 8, 12)))))
        case _:
            return Node(
                rng.choice(("str", "bin")), rng.choice((*_TEXTS, rng.randbytes(rng.choice((1, 16, 32)))))
            )


def encode(tree: Node, liar: random.Random | None = None) -> bytes:
    """Msgpack of a tree, as much of it as an input may have. A `liar` puts a wrong length somewhere."""
    out = bytearray()
    stack = [tree]
    while stack and len(out) < INPUT_BYTES_MAX:  # what was multiplied several times would fill the memory
        node = stack.pop()
        out += _head(node, liar)
        if node.kind in {"seq", "map"}:
            stack.extend(reversed(node.value))
    return bytes(out)


def _head(node: Node, liar: random.Random | None) -> bytes:
    kind, value = node
    match kind:
        case "raw":
            return value
        case "nil":
            return b"\xc0"
        case "bool":
            return b"\xc3" if value else b"\xc2"
        case "int":
            return _int(max(-(2**63), min(value, 2**64 - 1)))
        case "float":
            return b"\xcb" + struct.pack(">d", value)
        case "ext":
            return b"\xc9" + struct.pack(">Ib", len(value[1]), value[0]) + value[1]
    size = len(value) // 2 if kind == "map" else len(value)
    said = liar.choice((0, size + 1, 2**16, 2**31, 2**32 - 1)) if liar and liar.random() < 0.3 else size
    code = {"str": 0xDB, "bin": 0xC6, "seq": 0xDD, "map": 0xDF}[kind]
    head = bytes([code]) + struct.pack(">I", said)
    return head + value if kind in {"str", "bin"} else head


def _int(value: int) -> bytes:
    return b"\xcf" + struct.pack(">Q", value) if value >= 0 else b"\xd3" + struct.pack(">q", value)


_SIZED = {
    **dict(zip(range(0xC4, 0xC7), [("bin", form) for form in (">B", ">H", ">I")], strict=True)),
    **dict(zip(range(0xC7, 0xCA), [("ext", form) for form in (">B", ">H", ">I")], strict=True)),
    **dict(zip(range(0xD9, 0xDC), [("str", form) for form in (">B", ">H", ">I")], strict=True)),
    **dict(zip(range(0xDC, 0xE0), [("seq", ">H"), ("seq", ">I"), ("map", ">H"), ("map", ">I")], strict=True)),
}
_NUMBERS = {
    **dict(zip(range(0xCA, 0xCC), [("float", ">f"), ("float", ">d")], strict=True)),
    **dict(zip(range(0xCC, 0xD4), [("int", ">" + form) for form in "BHIQbhiq"], strict=True)),
}


@functools.lru_cache(4096)
def parse(data: bytes) -> Node:
    """The one value that `data` holds. Raises NotMsgpack."""
    try:
        tree, end = _parse(data, 0, 0)
    except (IndexError, struct.error, KeyError) as error:
        raise NotMsgpack(str(error)) from None
    if end != len(data):
        raise NotMsgpack("bytes are left")
    return tree


def _parse(data: bytes, at: int, depth: int) -> tuple[Node, int]:
    code, at = data[at], at + 1
    if depth > 100:
        raise NotMsgpack("too deep")
    if code < 0x80 or code >= 0xE0:
        return Node("int", code - (256 if code >= 0xE0 else 0)), at
    if code in {0xC0, 0xC2, 0xC3}:
        return Node("nil" if code == 0xC0 else "bool", None if code == 0xC0 else code == 0xC3), at
    if code in _NUMBERS:
        kind, form = _NUMBERS[code]
        return Node(kind, struct.unpack_from(form, data, at)[0]), at + struct.calcsize(form)
    if 0xD4 <= code <= 0xD8:
        end = at + 1 + (1 << code - 0xD4)
        return Node("ext", (struct.unpack_from(">b", data, at)[0], data[at + 1 : end])), end
    if code < 0xC0:
        kind, size = ("map", "seq", "str", "str")[(code >> 4) - 8], code & (0x1F if code >= 0xA0 else 0x0F)
    else:
        kind, form = _SIZED[code]
        size, at = struct.unpack_from(form, data, at)[0], at + struct.calcsize(form)
    if kind == "ext":
        return Node(
            "ext", (struct.unpack_from(">b", data, at)[0], data[at + 1 : at + 1 + size])
        ), at + 1 + size
    if kind in {"str", "bin"}:
        if at + size > len(data):
            raise NotMsgpack("cut off")
        return Node(kind, data[at : at + size]), at + size
    children = []
    for _ in range(size * 2 if kind == "map" else size):
        child, at = _parse(data, at, depth + 1)
        children.append(child)
    return Node(kind, children), at

"""Damage and malice for files of every kind that ubq reads, drawn from a random generator.

``damage`` works on any bytes; the others know a format and leave it readable far enough to be dangerous.
"""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import numpy as np
import torch

VAST = (2**31, 2**40, 2**62, 2**63, 2**64, 10**30, -1, -(2**63), 0, 1)
TEXTS = (
    "",
    " ",
    "\x1b[2J\x1b]0;gone\x07",
    "\x00",
    "../../../../etc/passwd",
    "/etc/passwd",
    "~",
    "$(touch executed)",
    "`touch executed`",
    "{0.__class__.__mro__}",
    "{missing}",
    "%s%n",
    "-rf",
    "--help",
    "名前\u202egnp.",
    "\ud800",
    "e\u0301" * 50,
    "x" * 100_000,
    "a/b/c",
    "nan",
    "1e999",
    "\r\n",
)
VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 1.5, -0.0, float("nan"), float("inf"), -float("inf"), 2**63, 10**400, 1e308, [], {}, [[]],
    [None] * 1000, {"": ""}, *TEXTS,
)  # fmt: skip


def damage(data: bytes, random: Random, other: bytes = b"") -> bytes:
    """Bytes flipped, cut, doubled, filled, mixed with those of another file."""
    out = bytearray(data)
    for _each in range(random.choice((1, 1, 1, 2, 3, 8))):
        where = random.randrange(len(out) + 1)
        span = random.choice((1, 2, 4, 8, 64, 1024))
        match random.randrange(11):
            case 0 if out:
                out[min(where, len(out) - 1)] ^= 1 << random.randrange(8)
            case 1:
                out[where : where + span] = random.randbytes(span)
            case 2:
                del out[where:]
            case 3:
                del out[where : where + span]
            case 4:
                out[where:where] = out[where : where + span]
            case 5:
                out[where:where] = random.choice((b"\x00", b"\xff", b"[", b"{", b'"', b"\n", b"9")) * span
            case 6:
                out[where : where + 8] = struct.pack("<q", random.choice((2**62, -1, 2**40, -(2**63))))
            case 7:
                out[where : where + 4] = struct.pack("<i", random.choice((2**31 - 1, -1, -(2**31))))
            case 8 if other:
                start = random.randrange(len(other))
                out[where : where + span] = other[start : start + span]
            case 9:
                out[:0] = random.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"PK\x03\x04", b"\x80\x02", b"\n", b"#"))
            case 10:
                del out[: where if random.random() < 0.3 else 1]
    return bytes(out)


# JSON


def hostile_json(text: str, random: Random) -> bytes:
    """Values of other types and sizes anywhere in a JSON document, keys lost, doubled or added, nested too deeply."""
    if random.random() < 0.08:
        depth = random.choice((500, 5_000, 200_000))
        return random.choice((b"[" * depth, b'{"a":' * depth, b"[" * depth + b"]" * depth))
    if random.random() < 0.05:
        return text.encode() + random.choice((text.encode(), b"\x00", b"]", b"NaN"))
    document = copy.deepcopy(json.loads(text))
    for _each in range(random.choice((1, 1, 2, 4))):
        document = _changed(document, random)
    if random.random() < 0.05:
        document = random.choice(VALUES)
    text = json.dumps(document, ensure_ascii=random.random() < 0.5, allow_nan=True)
    if random.random() < 0.1:
        text = text.replace(": 1", f": {'9' * random.choice((20, 5000, 100_000))}", 1)
    return text.encode("utf-8", "surrogatepass")


def _changed(value: Any, random: Random, depth: int = 0) -> Any:
    deeper = isinstance(value, dict | list) and value and random.random() < 0.85 and depth < 6
    if not deeper:
        return copy.deepcopy(random.choice(VALUES))
    if isinstance(value, list):
        i = random.randrange(len(value))
        value[i] = _changed(value[i], random, depth + 1)
        return value
    key = random.choice(list(value))
    action = random.random()
    if action < 0.15:
        del value[key]
    elif action < 0.25:
        value[random.choice(TEXTS)] = random.choice(VALUES)
    elif action < 0.3:
        value[random.choice(list(value))] = copy.deepcopy(value[key])
    else:
        value[key] = _changed(value[key], random, depth + 1)
    return value


def hostile_lines(text: str, random: Random) -> bytes:
    """JSON lines of which some are hostile, torn, or no JSON."""
    lines = [line.encode() for line in text.splitlines()]
    for _each in range(random.choice((1, 2, 5))):
        i = random.randrange(len(lines))
        lines[i] = hostile_json(lines[i].decode(errors="replace") if _is_json(lines[i]) else "{}", random)
    if random.random() < 0.3:
        lines.append(lines[-1][: random.randrange(len(lines[-1]) + 1)])
    return b"\n".join(lines) + random.choice((b"", b"\n"))


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


# TOML

_LITERALS = (
    "9" * 30, "9" * 5000, "-9223372036854775809", "1e400", "nan", "-inf", "0x" + "f" * 40, "true", '"true"', '""',
    '"\\u0000"', '"\\u001b[2J"', '"\\ud800"', "[]", "[[[]]]", "[1, \"a\", true]", "{}", "{a = {b = 1}}", "1979-05-27",
    "07:32:00", '"""\n"""', "'../../../etc/passwd'", "'/dev/zero'", "'~root'", "'$(touch executed)'", '"{0.__class__}"',
    "[" * 200 + "]" * 200, "[" * 20_000, '"' + "x" * 50_000 + '"', "-1", "0", "1", "2.5", "1_0", "é", '"é"',
)  # fmt: skip
_LINES = (
    "[",
    "]]",
    "[[run]]",
    "[run.name]",
    "run = 1",
    "[qat.decoders.deep]",
    'extends = "ubq.toml"',
    'extends = ["smoke", "smoke"]',
    'extends = "../../etc/passwd"',
    'extends = "/dev/zero"',
    "a." * 500 + "b = 1",
    "a." * 30_000 + "b = 1",
    "\x00",
    "\x0b",
    "= 1",
    "[model]\nencoder_dim = 4611686018427387904",
    "[model]\ndim_mults = [1000000000, 1000000000]",
    "[data]\nsynth_samples = 9223372036854775807",
    '[run]\nname = "\\u001b[2J"',
    '[run]\nname = "../../x"',
    '[run]\nname = "' + "n" * 300 + '"',
    '[export]\nname = ".."',
    '[pretrained]\npath = "/dev/zero"',
    '[pretrained]\npath = "/"',
    '[data]\ntrain_velocity = "/proc"',
    '"" = 1',
    "'\x7f' = 1",
)


def hostile_toml(text: str, random: Random) -> bytes:
    """Literals of other kinds and sizes behind its keys, lines lost, doubled, swapped or added."""
    lines = text.splitlines()
    for _each in range(random.choice((1, 1, 2, 5))):
        i = random.randrange(len(lines))
        match random.randrange(6):
            case 0 | 1 if "=" in lines[i]:
                lines[i] = f"{lines[i].partition('=')[0]}= {random.choice(_LITERALS)}"
            case 2:
                lines.insert(i, random.choice(_LINES))
            case 3:
                lines.insert(random.randrange(len(lines)), lines[i])
            case 4 if len(lines) > 1:
                del lines[i]
            case _:
                lines[i] = random.choice(("", "#", '"', "'''")) + lines[i] + random.choice(("", "#", '"', " x", "\\"))
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    if random.random() < 0.05:
        data = random.choice((b"\xff\xfe", b"\xef\xbb\xbf", b"\x80")) + data
    return data


# NumPy

_DTYPES = (
    "'<f4'",
    "'>f4'",
    "'<f8'",
    "'|O'",
    "'|V1000000000'",
    "'<U100000000'",
    "'|b1'",
    "'<c16'",
    "'<M8[ns]'",
    "''",
    "'f4,f4'",
    "[('a', '<f4')]",
    "[('a', '<f4', (1000000, 1000000))]",
    "None",
    "4",
    "'<f4' * 100000000",
    "'\\x1b[2J'",
    "'<i1'",
    "'|S0'",
)
_SHAPES = (
    "(2, 1, 70, 70)",
    "(0, 1, 70, 70)",
    "(1000000000000, 1, 70, 70)",
    "(-1, 1, 70, 70)",
    "(2, 1, 70)",
    "()",
    "(4611686018427387904, 4)",
    "(2.0, 1, 70, 70)",
    "(True, 1, 70, 70)",
    "(" + "1, " * 70 + ")",
    "[2, 1, 70, 70]",
    "'2'",
    "None",
    "(2, 1, 70, 70, 0)",
    "(9" + "9" * 400 + ", 1, 70, 70)",
)


def hostile_npy(data: bytes, random: Random) -> bytes:
    """Other shapes, types, lengths and versions in the header of a ``.npy`` file; values that are none in its body."""
    start = 10
    body = data[start + int.from_bytes(data[8:10], "little") :]
    dtype, shape, order = "'<f4'", "(2, 1, 70, 70)", random.choice(("False", "True", "None", "0"))
    if random.random() < 0.6:
        dtype = random.choice(_DTYPES)
    if random.random() < 0.6:
        shape = random.choice(_SHAPES)
    if random.random() < 0.3:
        values = np.frombuffer(body, "<f4").copy()
        values[random.randrange(len(values)) :: 7] = random.choice((np.nan, np.inf, -1e38, 0, 1e-40))
        body = values.tobytes()
    header = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}"
    if random.random() < 0.15:
        header = random.choice(
            ("{", "__import__('os').system('touch executed')", "{'descr': " * 5000, header * 3, "", "\x00" * 64)
        )
    version = random.choice((1, 1, 1, 1, 2, 3, 9))
    encoded = header.encode("latin1", "replace")
    encoded += b" " * (-(start + len(encoded) + 1) % 64) + b"\n"
    length = len(encoded) if random.random() < 0.85 else random.choice((0, 1, 65535, 2**31))
    size = struct.pack("<H", length & 0xFFFF) if version == 1 else struct.pack("<I", length & 0xFFFFFFFF)
    return b"\x93NUMPY" + bytes((version, 0)) + size + encoded + body[: random.choice((None, None, 100, 0))]


# Checkpoints

CANARY = "executed"


class Runs:
    """Pickled as a call that leaves a file behind where it is loaded."""

    def __init__(self, how: str) -> None:
        self.how = how

    def __reduce__(self) -> Any:
        import os
        from pathlib import Path

        calls: dict[str, Any] = {
            "system": (os.system, (f"touch {CANARY}",)),
            "touch": (Path.touch, (Path(CANARY),)),
            "eval": (eval, (f"open({CANARY!r}, 'w')",)),
            "exec": (exec, (f"open({CANARY!r}, 'w')",)),
            "import": (__import__, ("antigravity",)),
            "getattr": (getattr, (os, "system")),
            "open": (open, (CANARY, "w")),
        }
        return calls[self.how]


def hostile_content(content: dict[str, Any], random: Random) -> Any:
    """A training file whose tensors, names and facts are not what they should be."""
    content = {k: dict(v) if isinstance(v, dict) else v for k, v in content.items()}
    state = content["model"]
    for _each in range(random.choice((1, 1, 2, 4))):
        name = random.choice(list(state)) if state else "x"
        tensor = state.get(name, torch.zeros(1))
        match random.randrange(12):
            case 0:
                state[name] = _hostile_tensor(tensor, random)
            case 1:
                state.pop(name, None)
            case 2:
                state[random.choice(TEXTS).replace("\ud800", "?")] = tensor
            case 3:
                state[name] = random.choice((*VALUES[:10], Runs("system")))
            case 4:
                content[random.choice(("step", "epoch", "args", "ema", "model", "x"))] = random.choice(
                    (*(v for v in VALUES if v != "\ud800"), Runs(random.choice(("touch", "eval", "exec", "import"))))
                )
            case 5:
                content["loop"] = content
            case 6:
                state[f"{random.choice(('module', 'model', '_orig_mod', 'ema_model', 'a.b.c'))}.{name}"] = tensor
            case 7:
                content = {random.choice(("state_dict", "weights", "ema", "x")): content}
                state = content
            case 8:
                nested: Any = tensor
                for _depth in range(random.choice((10, 200))):
                    nested = {"model": nested} if random.random() < 0.5 else [nested]
                content["deep"] = nested
            case 9:
                content["ema"] = {
                    "ema_model": {
                        n: _hostile_tensor(t, random) for n, t in list(state.items())[:3] if isinstance(t, torch.Tensor)
                    }
                }
            case 10:
                state[name] = (
                    tensor.half() if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() else tensor
                )
            case 11:
                for other in list(state)[:: random.choice((2, 7))]:
                    state[other] = _hostile_tensor(state[other], random)
        if not isinstance(content.get("model"), dict):
            break
    return content


def _hostile_tensor(tensor: Any, random: Random) -> Any:
    try:
        return _changed_tensor(tensor, random)
    except (RuntimeError, TypeError, NotImplementedError):  # of one that was changed already
        return torch.zeros(())


def _changed_tensor(tensor: Any, random: Random) -> Any:
    if not isinstance(tensor, torch.Tensor) or not tensor.numel():
        return torch.zeros(random.choice(((), (0,), (1, 0, 3))))
    flat = tensor.reshape(-1)
    makers: Sequence[Callable[[], Any]] = (
        lambda: torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor - 1,
        lambda: flat[:1].expand(random.choice((10**3, 10**6)), 10**6),
        lambda: torch.empty(10**7, 10**6, device="meta"),
        lambda: torch.ones(3, 3).to_sparse(),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: tensor.to(
            random.choice((torch.int8, torch.bool, torch.complex64, torch.float64, torch.bfloat16, torch.uint8))
        ),
        lambda: tensor.unsqueeze(0),
        lambda: flat,
        lambda: flat[: max(1, len(flat) // 2)],
        lambda: torch.as_strided(flat, (len(flat), 1000), (1, 0)),
        lambda: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor,
        lambda: torch.zeros((1,) * 60),
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    )
    return random.choice(makers)()


def saved(content: Any, random: Random) -> bytes:
    """A checkpoint's bytes, as PyTorch writes them, in the archive's format or the older one; none where it cannot."""
    buffer = io.BytesIO()
    try:
        torch.save(content, buffer, _use_new_zipfile_serialization=random.random() < 0.7)
    except (RuntimeError, NotImplementedError, AttributeError, TypeError, RecursionError, pickle.PicklingError):
        return b""
    return buffer.getvalue()


def hostile_archive(data: bytes, random: Random) -> bytes:
    """Records of a checkpoint's archive lost, doubled, renamed, compressed, exchanged, with sizes that lie."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [(info.filename, archive.read(info)) for info in archive.infolist()]
    choice = random.randrange(9)
    i = random.randrange(len(records))
    name, content = records[i]
    pkl = next((k for k, (n, _c) in enumerate(records) if n.endswith("data.pkl")), 0)
    if choice == 0:
        del records[i]
    elif choice == 1:
        records[i] = (random.choice((f"../../{name}", f"/{name}", name + "\x00", "x" * 3000, name.upper())), content)
    elif choice == 2:
        records.append((name, random.randbytes(100)))
    elif choice == 3:
        records[i] = (name, b"\x00" * (50 << 20))
    elif choice == 4:
        records[pkl] = (records[pkl][0], hostile_pickle(records[pkl][1], random))
    elif choice == 5:
        records[pkl] = (records[pkl][0], damage(records[pkl][1], random))
    elif choice == 6:
        records[i] = (name, content[: random.randrange(len(content) + 1)])
    elif choice == 7:
        records += [(f"{name.split('/')[0]}/data/{1000 + k}", b"") for k in range(2000)]
    buffer = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if choice == 3 or random.random() < 0.1 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for record, content in records:
            archive.writestr(zipfile.ZipInfo(record), content, method)
    out = bytearray(buffer.getvalue())
    if choice == 8:  # sizes and places in the central directory
        at = out.rfind(b"PK\x01\x02", 0, random.randrange(len(out) // 2, len(out)))
        if at >= 0:
            field = random.choice((20, 24, 42))
            out[at + field : at + field + 4] = struct.pack("<I", random.choice((0, 1, 2**31 - 1, 2**32 - 1, 12345)))
    return bytes(out)


def hostile_pickle(_data: bytes, random: Random) -> bytes:
    """A pickle written by hand: tensors that promise terabytes, calls, loops, lengths that lie."""

    def text(value: str) -> bytes:
        encoded = value.encode()
        return b"X" + struct.pack("<I", len(encoded)) + encoded

    def number(value: int) -> bytes:
        raw = value.to_bytes(max(1, (value.bit_length() + 8) // 8), "little", signed=True)
        return b"\x8a" + bytes((min(len(raw), 255),)) + raw[:255]

    def storage(count: int, key: str = "0", kind: str = "torch\nFloatStorage") -> bytes:
        return b"(" + text("storage") + b"c" + kind.encode() + b"\n" + text(key) + text("cpu") + number(count) + b"tQ"

    def tensor(count: int, offset: int, size: Sequence[int], stride: Sequence[int]) -> bytes:
        sizes = b"(" + b"".join(map(number, size)) + b"t"
        strides = b"(" + b"".join(map(number, stride)) + b"t"
        tail = b"\x89" + b"ccollections\nOrderedDict\n)R" + b"tR"
        return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(count) + number(offset) + sizes + strides + tail

    big = random.choice(VAST)
    values: Sequence[Callable[[], bytes]] = (
        lambda: tensor(big, 0, (2, 2), (2, 1)),
        lambda: tensor(4, big, (2, 2), (2, 1)),
        lambda: tensor(4, 0, (big, 2), (2, 1)),
        lambda: tensor(4, 0, (big, 2), (0, 0)),
        lambda: tensor(4, 0, (2,) * 300, (1,) * 300),
        lambda: tensor(4, 0, (2, 2), (big, 1)),
        lambda: storage(big),
        lambda: storage(4, random.choice(("../0", "", "x" * 1000, "1"))),
        lambda: storage(4, "0", random.choice(("torch\nNoStorage", "os\nsystem", "builtins\nlist"))),
        lambda: (
            b"c"
            + random.choice(
                (b"os\nsystem", b"posix\nsystem", b"builtins\neval", b"subprocess\nPopen", b"torch.hub\nload")
            )
            + b"\n("
            + text(f"touch {CANARY}")
            + b"tR"
        ),
        lambda: b"cnumpy\ndtype\n(" + text(random.choice(("V2000000000", "O", "f8" * 1000))) + b"\x89\x88tR",
        lambda: b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(" + text("V2000000000") + b"\x89\x88tRtR",
        lambda: b"cbuiltins\nbytearray\n(" + number(big) + b"tR",
        lambda: b"cbuiltins\ncomplex\n(" + text("x") + b"tR",
        lambda: b"cbuiltins\nset\n(" + text("abc") + b"tR",
        lambda: b"cargparse\nNamespace\n)\x81}" + text("x") + b"K\x01sb",
        lambda: b"ctorch\nSize\n(" + number(big) + b"tR",
        lambda: b"ctorch\ndevice\n(" + text("cuda:99") + b"tR",
        lambda: (
            b"ctorch._utils\n_rebuild_meta_tensor_no_storage\n(ctorch\nfloat32\n("
            + number(10**12)
            + b"t("
            + number(1)
            + b"t\x89tR"
        ),
        lambda: b"ctorch\nFloatStorage\n)R",
        lambda: b"ctorch\nTensor\n)\x81",
        lambda: b"(" * 100_000,
        lambda: b"]q\x00" + b"(h\x00e" * 1000,
        lambda: b"X" + struct.pack("<I", 2**32 - 1) + b"abc",
        lambda: b"(" + (text("ab") * 5000) + b"t",
        lambda: b"}q\x00h\x00h\x00s",
        lambda: number(2**2000),
        lambda: b"}" + text("a") * 2 + b"s" + b"h\x09",
    )
    value = random.choice(values)()
    content = b"}" + text("model") + b"}" + text("unet.init_conv.weight") + value + b"ss"
    return b"\x80" + bytes((random.choice((2, 2, 2, 2, 4, 0)),)) + content + random.choice((b".", b".", b".", b""))


def hostile_legacy(random: Random) -> bytes:
    """The format before archives: magic number, protocol, system, content, storages with sizes that promise."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}]
    if random.random() < 0.3:
        parts[random.randrange(3)] = random.choice(VALUES[:14])
    head = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    body = hostile_pickle(b"", random).replace(b"tQ", b"NtQ", 1)
    keys = pickle.dumps([random.choice(("0", "1", 5, None))] * random.choice((0, 1, 2)), protocol=2)
    return head + body + keys + struct.pack("<q", random.choice((4, 2**40, -1, 2**62))) + random.randbytes(32)


def hostile_safetensors(data: bytes, random: Random) -> bytes:
    """Other types, shapes and places in a safetensors header, and lengths that lie."""
    length = int.from_bytes(data[:8], "little")
    header = hostile_json(data[8 : 8 + length].decode(), random)
    size = len(header) if random.random() < 0.85 else random.choice((0, 1, 2**32, 2**63, 99_999_999))
    return struct.pack("<Q", size) + header + data[8 + length :]

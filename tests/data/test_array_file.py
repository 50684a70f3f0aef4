"""Files that are not what they should be: always one DataError, never another exception."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ubq.data.array_file import open_array
from ubq.errors import DataError


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    body = text.encode("latin1")
    return b"\x93NUMPY" + bytes(version) + len(body).to_bytes(2 if version == (1, 0) else 4, "little") + body


def saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


GOOD = saved(np.zeros((1, 1, 70, 70), np.float32))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=200)
@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=150).map(lambda b: b"\x93NUMPY\x01\x00" + b),
        st.text(max_size=100).map(lambda t: header(t.encode("latin1", "replace").decode("latin1"))),
        st.tuples(st.integers(0, 127), st.binary(min_size=1, max_size=4)).map(
            lambda cut: GOOD[: cut[0]] + cut[1] + GOOD[cut[0] + len(cut[1]) :]
        ),
        st.integers(0, len(GOOD) - 1).map(lambda n: GOOD[:n]),
    )
)
@example(header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 1, 70, 70), }"))
@example(header("{'descr': '<f4', 'fortran_order': False, 'shape': (10**30, 1, 70, 70), }"))
@example(header("{'descr': '<f4', 'fortran_order': False, 'shape': (" + "9" * 30 + ", 1, 70, 70), }"))
@example(header("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 1, 70, 70), }"))
@example(header("(" * 3000))
@example(header("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 70, 70), }"))
@example(header("{'descr': ('<f4', (1, 70)), 'fortran_order': False, 'shape': (1, 1, 70, 70), }"))
@example(header("'", (3, 0)))
def test_any_bytes_open_or_give_a_data_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model1.npy"
    path.write_bytes(content)
    try:
        array = open_array(path, "velocity")
    except DataError as error:
        message = str(error)
    else:
        assert array.read(range(array.samples)).shape == (array.samples, 1, 70, 70)
        return
    assert "model1.npy" in message
    assert "\n" not in message


class Payload:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.path,)  # type: ignore[return-value]


def test_pickled_objects_are_refused_unread(tmp_path: Path) -> None:
    path, trace = tmp_path / "model1.npy", tmp_path / "trace"
    array = np.empty(1, object)
    array[0] = Payload(trace)
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError, match=r"model1.npy holds Python objects.*as float32"):
        open_array(path, "velocity")
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists(), "the payload does work when it is loaded"


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2", "<i4", "<u2"])
def test_number_types_are_converted(tmp_path: Path, dtype: str) -> None:
    maps = np.arange(3 * 4900).reshape(3, 1, 70, 70) % 2000
    np.save(tmp_path / "m.npy", maps.astype(dtype))
    read = open_array(tmp_path / "m.npy", "velocity").read((2, 0))
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, maps[[2, 0]].astype(np.float32))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 70, 70), np.float32), r"shape \(2, 70, 70\), but velocity files have \(N, 1, 70, 70\)"),
        (np.zeros((2, 1, 70, 71), np.float32), r"shape \(2, 1, 70, 71\)"),
        (np.zeros((0, 1, 70, 70), np.float32), "no samples"),
        (np.zeros((2, 1, 70, 70), np.complex64), "complex64, not float32"),
        (np.zeros((2, 1, 70, 70), bool), "bool, not float32"),
        (np.zeros((2, 1, 70, 70), "U3"), "holds text"),
        (np.asfortranarray(np.zeros((2, 1, 70, 70), np.float32)), "Fortran order"),
    ],
)
def test_arrays_of_another_kind_are_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "model1.npy", array)
    with pytest.raises(DataError, match=message):
        open_array(tmp_path / "model1.npy", "velocity")


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model1.npy"
    path.write_bytes(saved(np.zeros((3, 1, 70, 70), np.float32))[:-1])
    with pytest.raises(DataError, match=r"model1.npy is truncated.*again"):
        open_array(path, "velocity")


def test_a_file_that_shrinks_later_is_an_error_not_zeros(tmp_path: Path) -> None:
    path = tmp_path / "model1.npy"
    content = saved(np.zeros((3, 1, 70, 70), np.float32))
    path.write_bytes(content)
    array = open_array(path, "velocity")
    path.write_bytes(content[:-8])
    with pytest.raises(DataError, match="truncated"):
        array.read((2,))
    path.unlink()
    with pytest.raises(DataError, match="cannot read"):
        array.read((2,))

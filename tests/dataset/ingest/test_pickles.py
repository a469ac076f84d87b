"""Pickles: arrays of every age are read, code is refused by name and never run, sizes are held against the content."""

from __future__ import annotations

import pickle
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
from helpers_bad import Code
from made_clips import pickled

from dataset.ingest.pickles import Refused, unpickled

ARRAYS = {
    "float32": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "float16": np.arange(6, dtype=np.float16).reshape(2, 3),
    "big-endian": np.arange(6, dtype=">f8").reshape(3, 2),
    "by column": np.asfortranarray(np.arange(6.0).reshape(3, 2)),
    "with gaps": np.arange(24)[::2].reshape(3, 4),
    "bool": np.array([True, False]),
    "uint8": np.arange(5, dtype=np.uint8),
    "large": np.random.default_rng(0).random((10, 7, 7, 512), np.float32),
}


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_every_protocol_and_numpy(name, protocol):
    array = ARRAYS[name]
    for old_numpy in (False, True) if protocol in (2, 4) else (False,):
        content = pickled({"a": array, "b": [array, 1.5], "c": (1, "x", None, True)}, protocol, old_numpy)
        assert old_numpy == (b"numpy.core." in content)
        found = unpickled(content)
        np.testing.assert_array_equal(found["a"], array)
        np.testing.assert_array_equal(found["b"][0], array)
        assert found["a"].dtype == array.dtype
        assert found["b"][1] == 1.5
        assert list(found["c"]) == [1, "x", None, True]
        np.testing.assert_array_equal(unpickled(pickled(array, protocol, old_numpy)), array)


def test_an_array_of_python_2():
    content = (  # what Python 2.7's cPickle writes of np.array([1, 2], "<i2") in protocol 2
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02i2K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff"
        b"\xffK\x00tb\x89U\x04\x01\x00\x02\x00tb."
    )
    assert unpickled(content).tolist() == [1, 2]


@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(3), np.bool_(True)])
def test_numbers_of_numpy(value):
    assert unpickled(pickled([value], 2)) == [value.item()]


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_refused_by_name_and_not_run(protocol, tmp_path):
    for value in (Code(tmp_path / "canary"), {"a": Code(tmp_path / "canary")}):
        with pytest.raises(Refused, match=r"holds code \((posix|nt)\.system\), which is not run"):
            unpickled(pickle.dumps(value, protocol))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (OrderedDict(a=1), "holds code (collections.OrderedDict)"),
        ({1, 2}, ".set)"),
        (1j, ".complex)"),
        (Path("x"), "holds code (pathlib"),
        (np.array([{}]), "an array of the type 'O8'"),
        (np.array(["a"]), "an array of the type 'U1'"),
        (np.zeros(2, "i4,f4"), "an array of the type 'V8'"),
        (np.zeros(2, "M8[s]"), "an array of the type 'M8'"),
    ],
)
def test_everything_else_is_refused_by_name(value, said):
    with pytest.raises(Refused) as refused:
        unpickled(pickle.dumps(value, 2))
    assert said in str(refused.value)


def test_a_function_of_ours_can_be_given_no_state_and_no_attribute():
    for state in (b"}", b"}\x8c\x01a\x8c\x01bs", b"N}\x8c\x0c__defaults__K\x01s\x86"):
        with pytest.raises(Refused):
            unpickled(b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93" + state + b"b.")
    with pytest.raises(Refused):
        unpickled(b"\x80\x04]}\x8c\x01a\x8c\x01bsb.")


def test_sizes_that_the_file_only_claims_take_no_memory():
    claims = pickled(np.zeros((1, 2), np.float32), 2)
    assert claims.count(b"K\x01K\x02\x86") == 1
    for shape in (b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", b"J\xff\xff\xff\xffK\xfe\x86", b"K\x02]\x86", b"N"):
        with pytest.raises(Refused):
            unpickled(claims.replace(b"K\x01K\x02\x86", shape))
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        unpickled(b"\x80\x04\x8e" + (2**62).to_bytes(8, "little") + b"abc.")
    assert unpickled(b"\x80\x04\x95" + (2**62).to_bytes(8, "little") + b"K\x01.") == 1


def test_any_cut_or_changed_byte_is_refused_or_read():
    content = pickled({"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": [1, 2.5, "x"]}, 4)
    random, refused = np.random.default_rng(0), Counter()
    for _ in range(2000):
        changed = bytearray(content[: random.integers(1, len(content) + 1)])
        for _ in range(random.integers(1, 4)):
            changed[random.integers(len(changed))] = random.integers(256)
        try:
            unpickled(bytes(changed))
        except (MemoryError, SystemError):
            raise
        except Exception as error:
            refused[type(error)] += 1
    assert refused[Refused] > 100

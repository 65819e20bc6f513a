"""Files appear whole or not at all, and damage is found when they are read."""

import errno
import os
import resource
import subprocess
import sys
from contextlib import suppress

import pandas as pd
import pyarrow as pa
import pytest
import torch
from antibody_sae import io
from antibody_sae.io import InputError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.json"
    io.write_json({"a": 1}, target)

    def fail():
        with io.atomic(target) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert io.read_json(target) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_written_files_follow_the_umask(tmp_path):
    io.write_json({}, tmp_path / "a.json")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("write", ["io.write_parquet(pd.DataFrame({'x': np.random.rand(10**6)}), path)",
                                   "io.write_safetensors({'x': torch.rand(10**6)}, path)",
                                   "io.write_json(list(range(10**6)), path)"])  # fmt: skip
def test_a_full_disk_is_a_clear_error_and_no_file(tmp_path, write):
    """RLIMIT_FSIZE stands for the full disk: the write fails in the middle."""
    imports = "import sys, numpy as np, pandas as pd, torch; from antibody_sae import io"
    code = f"{imports}\npath = sys.argv[1]\n{write}"

    def limit():
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, 10**6))

    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "out")], preexec_fn=limit, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "InputError" in done.stderr
    assert f"{tmp_path / 'out'}: could not be written" in done.stderr
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_from_the_start_is_said(tmp_path, monkeypatch):
    def full(*options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(io.tempfile, "mkdtemp", full)
    with pytest.raises(InputError, match=r"a\.json: could not be written \(No space left on device\)"):
        io.write_json({}, tmp_path / "a.json")


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    """Its library's own temporary file too; what a living one writes stays."""
    code = """
import os, signal, sys
from antibody_sae import io
with io.atomic(sys.argv[1]) as part:
    part.with_name(".tmp123").write_text("of a library")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.json")], env=env, check=False)
    assert [name.endswith(".part") for name in os.listdir(tmp_path)] == [True]
    with io.atomic(tmp_path / "a.json") as mine:
        assert list(tmp_path.iterdir()) == [mine.parent]
        io.write_json({"a": 1}, tmp_path / "a.json")
        assert mine.exists()
        mine.write_text("{}")
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_flipped_byte_in_a_parquet_is_named(tmp_path):
    path = tmp_path / "table.parquet"
    io.write_parquet(pd.DataFrame({"x": range(100_000)}), path)
    assert io.read_parquet(path)["x"].sum() == 4_999_950_000
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"table\.parquet.*delete it"):
        io.read_parquet(path)


def test_damaged_tensors_and_json_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    sha = io.write_safetensors({"x": torch.arange(10)}, path)
    assert io.read_safetensors(path, sha)["x"].tolist() == list(range(10))
    with pytest.raises(InputError, match="hash in its manifest"):
        io.read_safetensors(path, "0" * 64)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match="not readable"):
        io.read_safetensors(path)
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(InputError, match=r"b\.json"):
        io.read_json(tmp_path / "b.json")


def test_an_error_names_its_own_cause(tmp_path):
    """Deleting a file helps where it is damaged, and is said only there."""
    path = tmp_path / "table.parquet"
    reads = [lambda: io.read_parquet(path, ["y"]), lambda: list(io.parquet_batches(path, columns=["y"])),
             lambda: io.read_safetensors(path), lambda: io.read_json(path)]  # fmt: skip
    for read in reads:
        with pytest.raises(InputError, match=r"table\.parquet: is not there; run the workflow") as error:
            read()
        assert "delete" not in str(error.value)
    io.write_parquet(pd.DataFrame({"x": [1], "z": [2]}), path)
    for read in reads[:2]:
        with pytest.raises(
            InputError, match=r"table\.parquet: has no column y; it has x, z\. The file is sound"
        ) as error:
            read()
        assert "delete" not in str(error.value)
    with pytest.raises(InputError, match=r"cannot be read .*check the path and its permissions"):
        io.read_json(tmp_path)
    path.write_bytes(b"PAR1 and then nothing of the kind")
    for read in reads:
        with pytest.raises(InputError, match="delete it and run again"):
            read()


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/b", "..", ".hidden", "", "a\0b", "a b", "$(id)"])
def test_names_cannot_leave_the_folder(tmp_path, name):
    with pytest.raises(InputError, match="names are"):
        io.inside(tmp_path, name)
    assert io.inside(tmp_path, "binder-1.v2") == tmp_path / "binder-1.v2"


def test_equal_antibodies_have_equal_names():
    assert io.antibody_id("EVQ", None) == io.antibody_id("EVQ", None)
    assert len({io.antibody_id(*p) for p in [("EVQ", None), (None, "EVQ"), ("EV", "Q"), ("EVQ", "Q")]}) == 4


def test_tables_stream_any_range_and_notice_damage(tmp_path):
    table = pa.table({"x": range(1000), "text": [str(i) * 5 for i in range(1000)]})
    path = tmp_path / "a.parquet"
    with io.parquet_writer(path, table.schema) as writer:
        for start in range(0, 1000, 300):  # row groups of 300, 300, 300 and 100
            writer.write_table(table.slice(start, 300))
    for start, stop, rows in (
        (0, None, 64),
        (0, 1000, 4096),
        (299, 301, 64),
        (350, 890, 7),
        (600, 600, 10),
        (950, 2000, 9),
    ):
        parts = list(io.parquet_batches(path, start, stop, ["x"], rows))
        assert [value for part in parts for value in part["x"].to_pylist()] == list(range(1000))[start:stop]
        assert all(0 < len(part) <= rows for part in parts)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.parquet: not readable as Parquet"):
        list(io.parquet_batches(path))


def test_a_failed_stream_leaves_nothing(tmp_path):
    def fails_half_way():
        with io.parquet_writer(tmp_path / "a.parquet", pa.schema([("x", pa.int64())])) as writer:
            writer.write_table(pa.table({"x": [1]}))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails_half_way()
    assert not list(tmp_path.iterdir())


def test_any_flipped_byte_of_a_parquet_is_our_error_or_harmless(tmp_path):
    """Pages have Parquet's checksums, the footer has ours: whatever is read after a flip is what was written."""
    path = tmp_path / "a.parquet"
    table = pd.DataFrame({"name": [f"ab{i}" for i in range(50)], "n": range(50)})
    io.write_parquet(table, path)
    whole = path.read_bytes()
    said = []
    for i in range(2, len(whole), 3):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0x10]) + whole[i + 1 :])
        try:
            read = io.read_parquet(path, columns=["name", "n"])
        except InputError as error:
            said.append(str(error))
        else:
            assert read.equals(table), f"byte {i}"
        with suppress(InputError):
            assert pa.concat_tables(io.parquet_batches(path)).to_pandas().equals(table), f"byte {i}"
    assert len(said) > 0.9 * len(whole) / 3, "few bytes do not matter"
    assert all("a.parquet" in message for message in said)

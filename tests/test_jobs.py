"""What jobs share."""

from __future__ import annotations

import threading
import time

import pytest
from antibody_sae import jobs
from numba.core.caching import IndexDataCacheFile


@pytest.fixture
def slow_index(monkeypatch):
    """numba's cache, with time between reading an index and writing it."""
    write = IndexDataCacheFile._save_index
    monkeypatch.setattr(IndexDataCacheFile, "_save_index", lambda *a: (time.sleep(0.05), write(*a)))
    monkeypatch.setattr(IndexDataCacheFile, "save", IndexDataCacheFile.save)


def stored_side_by_side(folder) -> list:
    """What six writers at once find under their own key afterwards."""
    caches = [IndexDataCacheFile(str(folder), "function", "stamp") for _ in range(6)]
    writers = [threading.Thread(target=cache.save, args=(i, f"code {i}")) for i, cache in enumerate(caches)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    return [cache.load(i) for i, cache in enumerate(caches)]


def test_jobs_that_compile_at_once_find_their_own_code(tmp_path, slow_index):
    own = [f"code {i}" for i in range(6)]
    (tmp_path / "alone").mkdir()
    assert stored_side_by_side(tmp_path / "alone") != own, "numba alone loses some: the lock is needed"
    jobs.share_compiled()
    (tmp_path / "shared").mkdir()
    assert stored_side_by_side(tmp_path / "shared") == own

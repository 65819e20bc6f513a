"""What every job needs: a log that is also seen, threads that follow Snakemake, errors in plain words."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from antibody_sae.io import InputError


class _Tee:
    """Writes to the log, and to the screen whole lines that begin with the job's name: jobs run side by side."""

    def __init__(self, screen: TextIO, log: TextIO, name: str) -> None:
        self._screen, self._log, self._name, self._line = screen, log, name, ""

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line:
                self._screen.write(f"{self._name}: {line}\n")
        return len(text)

    def flush(self) -> None:
        self._screen.flush()

    def isatty(self) -> bool:
        return self._screen.isatty()


def _end_with(parent: int) -> None:
    """Once Snakemake is gone (kill -9), end as by SIGTERM: nothing may write beside the run that takes over."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


def share_compiled() -> None:
    """Let jobs that run side by side share numba's cache.

    numba writes its files whole, but reads, extends and writes the index of a function without a lock: two jobs that
    compile it for different types at the same moment may store one's code under the other's name. Here one waits for
    the other. Where the file system knows no locks the code is not stored, and compiled again by the next job.
    """
    from numba.core.caching import IndexDataCacheFile

    save: Any = IndexDataCacheFile.save

    def locked(cache: Any, key: Any, data: Any) -> None:
        with suppress(OSError), open(f"{cache._index_path}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            save(cache, key, data)

    IndexDataCacheFile.save = locked  # type: ignore[method-assign]


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Run a script's body: stderr also into the rule's log, torch and numba on the rule's threads.

    An InputError ends the job with its message alone; any other error with its traceback.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with open(snakemake.log[0], "w", encoding="utf-8") as log:
        name = " ".join([snakemake.rule, *map(str, snakemake.wildcards)])
        screen, sys.stderr = sys.stderr, _Tee(sys.stderr, log, name)
        try:
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(snakemake.threads)
            if "numba" in sys.modules:
                share_compiled()
                sys.modules["numba"].set_num_threads(
                    min(snakemake.threads, sys.modules["numba"].config.NUMBA_NUM_THREADS)
                )
            yield
        except InputError as error:
            print(f"Error: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        finally:
            sys.stderr = screen

"""What every job needs: a log that is also seen, threads that follow Snakemake, errors in plain words."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from antibody_sae.io import InputError


class _Tee:
    """Writes to the screen and to the log; asks the screen whether it is one (tqdm wants to know)."""

    def __init__(self, screen: TextIO, log: TextIO) -> None:
        self._screen, self._log = screen, log

    def write(self, text: str) -> int:
        self._log.write(text)
        self._log.flush()
        return self._screen.write(text)

    def flush(self) -> None:
        self._screen.flush()

    def isatty(self) -> bool:
        return self._screen.isatty()


def _end_with(parent: int) -> None:
    """Once Snakemake is gone (kill -9), end as by SIGTERM: nothing may write beside the run that takes over."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def job(snakemake: Any) -> Iterator[None]:
    """Run a script's body: stderr also into the rule's log, torch and numba on the rule's threads.

    An InputError ends the job with its message alone; any other error with its traceback.
    """
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with open(snakemake.log[0], "w", encoding="utf-8") as log:
        screen, sys.stderr = sys.stderr, _Tee(sys.stderr, log)  # type: ignore[assignment]
        try:
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(snakemake.threads)
            if "numba" in sys.modules:
                sys.modules["numba"].set_num_threads(
                    min(snakemake.threads, sys.modules["numba"].config.NUMBA_NUM_THREADS)
                )
            yield
        except InputError as error:
            print(f"\nError: {error}", file=sys.stderr)
            sys.exit(1)
        except Exception:
            traceback.print_exc()
            sys.exit(1)
        finally:
            sys.stderr = screen

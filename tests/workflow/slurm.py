"""A real Slurm on this one machine: munged, slurmctld and slurmd on 127.0.0.1, without accounting.

`with cluster(folder) as environment:` starts it and stops it again; raises Unavailable with the reason where it cannot.
By hand: `python tests/workflow/slurm.py -- sinfo`.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

CONF = Path("/etc/slurm/slurm.conf")  # jobs lose SLURM_CONF, so it must be where Slurm looks by itself
MARK = "# Written by antibody-sae's tests, which also remove it."
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
SYSTEM = "/usr/sbin:/sbin"  # Debian's daemons are not on everybody's PATH


class Unavailable(Exception):
    """Slurm cannot be started here; the message is the reason."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _configuration(folder: Path, host: str) -> str:
    return f"""{MARK}
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MinJobAge=3600
KillWait=30
ReturnToService=2
SchedulerParameters=sched_min_interval=200000,batch_sched_delay=0,defer_batch
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def _wait(what: str, log: Path, ready: list[str], word: str, environment: dict[str, str]) -> None:
    for _ in range(100):
        done = subprocess.run(ready, capture_output=True, text=True, env=environment, check=False)
        if done.returncode == 0 and word in done.stdout:
            return
        time.sleep(0.2)
    end = log.read_text(errors="replace")[-500:] if log.exists() else ""
    raise Unavailable(f"{what} did not come up: {done.stdout} {done.stderr} {end}")


@contextmanager
def _daemon(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Run the daemons with their state and logs in `folder`; yields the environment for Slurm's programs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    environment["PATH"] = f"{environment['PATH']}:{SYSTEM}"
    missing = [program for program in PROGRAMS if not shutil.which(program, path=environment["PATH"])]
    if missing:
        raise Unavailable(f"{', '.join(missing)} not installed (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        raise Unavailable("only root can start slurmd for other users' jobs")
    if CONF.exists() and not CONF.read_text().startswith(MARK):
        raise Unavailable(f"this machine has a Slurm of its own ({CONF})")
    host = socket.gethostname().split(".")[0]
    gres = CONF.with_name("gres.conf")
    if gres.exists() and not gres.read_text().startswith(MARK):
        raise Unavailable(f"this machine has a Slurm of its own ({gres})")
    up = subprocess.run(["scontrol", "ping"], env=environment, capture_output=True, text=True, check=False)
    if "is UP" in up.stdout:
        raise Unavailable("another run of these tests has its Slurm up on this machine")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)  # munge refuses a socket in a folder that others may write to, or cannot enter
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    CONF.parent.mkdir(exist_ok=True)
    CONF.write_text(_configuration(folder, host))
    # a GPU to be asked for: Slurm only counts it, whatever the file is
    gres.write_text(f"{MARK}\nNodeName={host} Name=gpu File=/dev/null\n")
    try:
        with ExitStack() as stack:
            munged = ["munged", "--foreground", f"--key-file={key}", f"--socket={folder}/munge.socket"]
            munged += [f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munged.seed"]
            munged += [f"--log-file={folder}/munged.log", "--force"]
            stack.enter_context(_daemon(munged, environment))
            ping = ["munge", "-n", f"--socket={folder}/munge.socket"]
            _wait("munged", folder / "munged.log", ping, "MUNGE", environment)
            stack.enter_context(_daemon(["slurmctld", "-D", "-i", "-c"], environment))
            _wait("slurmctld", folder / "slurmctld.log", ["scontrol", "ping"], "is UP", environment)
            stack.enter_context(_daemon(["slurmd", "-D", "-N", host], environment))
            _wait("slurmd", folder / "slurmd.log", ["sinfo", "-h", "-o", "%t"], "idle", environment)
            try:
                yield environment
            finally:  # jobs outlive slurmd otherwise
                subprocess.run(["scancel", "--full", "--user=root"], env=environment, check=False)
                for _ in range(40):
                    left = subprocess.run(["squeue", "-h"], env=environment, capture_output=True, check=False)
                    if not left.stdout.strip():
                        break
                    time.sleep(1)
    finally:
        CONF.unlink(missing_ok=True)
        gres.unlink(missing_ok=True)


if __name__ == "__main__":
    with cluster(Path(tempfile.mkdtemp(prefix="slurm-", dir="/var/tmp"))) as found:
        sys.exit(subprocess.run(sys.argv[sys.argv.index("--") + 1 :], env=found, check=False).returncode)

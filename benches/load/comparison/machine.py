"""Cores, processes, ports. Whatever is started through a `Bench` ends with it, and nothing else is ended."""

import contextlib
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
CORES = [str(core) for core in sorted(os.sched_getaffinity(0))]
PROXY_CORE, AXON_CORE, LOAD_CORE = (CORES[min(index, len(CORES) - 1)] for index in range(3))
# A second worker has the fourth core, or where there is none, a share in the core of Axon and the load.
SECOND_CORE = CORES[3] if len(CORES) > 3 else CORES[-1]
START_SECONDS = 60  # under valgrind on a busy machine


def proxy_cores(workers):
    return {1: PROXY_CORE, 2: f"{PROXY_CORE},{SECOND_CORE}"}[workers]


class Missing(Exception):
    """A program that is not installed; says what to do."""


class Process:
    """`companions` do a part of its work: what they cost, it costs. `logs` are what it appends to."""

    def __init__(self, name, popen, log):
        self.name, self.popen, self.log, self.logs = name, popen, log, [log]
        self.address, self.companions = None, []

    def pids(self):
        """The process, its direct children (nginx works in a child), and its companions."""
        pid = self.popen.pid
        children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children), *(pid for companion in self.companions for pid in companion.pids())]

    def cpu_seconds(self):
        """User and system time of all threads so far."""
        user = system = 0
        for pid in self.pids():
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            user, system = user + int(fields[11]), system + int(fields[12])
        tick = os.sysconf("SC_CLK_TCK")
        return user / tick, system / tick

    def resident_kib(self):
        found = (
            re.search(r"^VmRSS:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
            for pid in self.pids()
        )
        return sum(int(one.group(1)) for one in found if one)

    def said(self):
        return self.log.read_text(errors="replace")[-2000:]

    def forget(self):
        """Empties the logs, which would otherwise fill the disk."""
        for one in (self, *self.companions):
            for log in one.logs:
                os.truncate(log, 0)


class Bench:
    """Owns every process and the directory of one run; ends both when left."""

    def __init__(self):
        self.closing = contextlib.ExitStack()
        self.prefix = ()

    def __enter__(self):
        self.directory = pathlib.Path(self.closing.enter_context(tempfile.TemporaryDirectory(prefix="orbit-load-")))
        return self

    def __exit__(self, *error):
        return self.closing.__exit__(*error)

    @contextlib.contextmanager
    def under(self, *prefix):
        """Starts programs below another one, such as valgrind."""
        self.prefix = prefix
        yield
        self.prefix = ()

    def spawn(self, name, command, core, stdin=subprocess.DEVNULL):
        log = self.directory / f"{name}-{len(list(self.directory.iterdir()))}.log"
        # Appending, so that the file can be emptied between rounds while the process writes on.
        with open(log, "ab") as output:
            popen = subprocess.Popen(
                ["taskset", "-c", core, *self.prefix, *command], stdin=stdin, stdout=output, stderr=output
            )
        self.closing.callback(end, popen)
        return Process(name, popen, log)

    def announced(self, name, command, core, **more):
        """Starts a program that prints its address; the only place that knows how it is printed."""
        process = self.spawn(name, command, core, **more)
        pattern = re.compile(r"listening on (127\.0\.0\.1:\d+)")
        found = self.wait_for(lambda: pattern.search(process.said()), process)
        process.address = found.group(1)
        return process

    def listening(self, name, command, core, port):
        """Starts a program that listens on this port."""
        process = self.spawn(name, command, core)
        process.address = f"127.0.0.1:{port}"
        self.wait_for(lambda: accepts(process.address), process)
        return process

    def wait_for(self, ready, process):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if found := ready():
                return found
            if process.popen.poll() is not None:
                break
            time.sleep(0.02)
        sys.exit(f"{process.name} did not start:\n{process.said()}")


def end(popen, seconds=5):
    if popen.poll() is None:
        popen.terminate()
        try:
            popen.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait(timeout=5)


def accepts(address):
    host, port = address.split(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=1):
        return True
    return False


def free_port():
    """Below the range that outgoing connections take their ports from."""
    for port in range(20000 + os.getpid() % 5000, 32000):
        with contextlib.suppress(OSError), socket.socket() as candidate:
            candidate.bind(("127.0.0.1", port))
            return port
    sys.exit("no free port between 20000 and 32000")


def raise_descriptors():
    """As many descriptors as this process may have, which what it starts inherits; returns how many."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def target(directory):
    """Where cargo builds the package in `directory`."""
    return pathlib.Path(os.environ.get("CARGO_TARGET_DIR", directory / "target"))


def program(name):
    """One of this directory's own programs."""
    path = target(HERE) / "release" / name
    if not path.exists():
        sys.exit(f"no {name} in {path.parent}: `run setup`")
    return str(path)


def orbit():
    path = pathlib.Path(os.environ.get("ORBIT", target(ROOT) / "release" / "orbit"))
    if not path.exists():
        sys.exit(f"no {path}: `cargo build --release`, or name another Orbit in ORBIT")
    return str(path)


def envoy():
    """Where `run setup` puts it."""
    found = next((target(HERE) / "envoy").glob("lib/python*/site-packages/envoy/_bin/envoy"), None)
    if not found:
        raise Missing("not installed: `run setup`")
    return str(found)


def installed(name):
    return shutil.which(name) or shutil.which(name, path="/usr/sbin")


def system_program(name):
    return installed(name) or sys.exit(f"no {name}: `run setup`")


def described():
    """What this machine is, in a few words."""
    memory = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal"))
    return f"{len(CORES)} cores, {memory / 2**20:.0f} GiB, Linux {os.uname().release.split('-')[0]}"


def versions():
    """Of what is compared and what compares."""
    asked = {"nginx": "-v", "haproxy": "-v", "oha": "--version", orbit(): "--version"}
    with contextlib.suppress(Missing):
        asked[envoy()] = "--version"
    found = []
    for name, option in asked.items():
        path = installed(name)
        said = subprocess.run([path, option], capture_output=True, text=True, timeout=10) if path else None
        number = re.search(r"\b\d+\.\d+\.\d+\b", said.stdout + said.stderr) if said else None
        found.append(f"{pathlib.Path(name).name} {number.group() if number else 'not installed'}")
    return ", ".join(found)


def in_own_session(main):
    """Runs `main` in a session of its own: the kernel shares CPU by session first, so otherwise a busy shell next door
    would be weighed against parts of the measurement instead of against the whole."""
    child = os.fork()
    if child == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
        sys.exit(main())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os.kill(child, signal.SIGTERM))
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))

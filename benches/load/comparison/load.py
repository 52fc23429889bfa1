"""The load generators: each asks one address for a while and says how many answers came and how long they took."""

import collections
import json
import re
import subprocess

from . import machine

CONNECTIONS = 64
Load = collections.namedtuple("Load", "requests seconds p50_us p99_us p999_us")


class Failed(Exception):
    """A load that did not get the answers it expects; says what it got."""


def oha(bench, address, dispatch, seconds=None, requests=None, connections=CONNECTIONS, rate=None, keepalive=True):
    """For so many seconds or requests. At a fixed rate a request's time runs from when it was due, so that a proxy that
    stalls is charged for all that waited."""
    command = ["oha", "--no-tui", "--output-format", "json", "--worker-threads", "1", "--http-version", "1.1"]
    command += ["-c", str(connections), "-m", "POST", "-D", str(dispatch.file)]
    command += ["-n", str(requests)] if requests else ["-z", f"{seconds}s", "--wait-ongoing-requests-after-deadline"]
    command += ["-q", str(rate), "--latency-correction"] if rate else []
    command += [] if keepalive else ["--disable-keepalive"]
    for name, value in dispatch.headers(address).items():
        command += ["-H", f"{name}: {value}"]
    report = json.loads(generated(command, address, (seconds or 0) + 60))
    statuses = report["statusCodeDistribution"]
    if set(statuses) != {str(dispatch.expects)} or report["errorDistribution"]:
        raise Failed(f"answered {statuses} instead of {dispatch.expects}, errors {report['errorDistribution']}")
    at = report["latencyPercentiles"]
    times = (at[name] * 1e6 for name in ("p50", "p99", "p99.9"))
    return Load(statuses[str(dispatch.expects)], report["summary"]["total"], *times)


def wrk(bench, address, dispatch, seconds):
    script = bench.directory / "post.lua"
    lines = ['wrk.method = "POST"', f"wrk.body = {lua(dispatch.content.decode())}"]
    lines += [f"wrk.headers[{lua(name)}] = {lua(value)}" for name, value in dispatch.headers(address).items()]
    lines += [
        "function done(s, l, r) local e = s.errors",
        '  print(string.format("RESULT %d %d %d %d %d %d", s.requests, s.duration,'
        " e.connect + e.read + e.write + e.status + e.timeout, l:percentile(50), l:percentile(99),"
        " l:percentile(99.9))) end",
    ]
    script.write_text("\n".join(lines))
    output = generated(["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script)], address, seconds + 20)
    requests, microseconds, errors, *times = map(int, re.search(r"RESULT (.*)", output).group(1).split())
    if errors:
        raise Failed(f"{errors} of {requests} requests failed")
    return Load(requests, microseconds / 1e6, *times)


def generated(command, address, seconds):
    command = ["taskset", "-c", machine.LOAD_CORE, machine.system_program(command[0]), *command[1:]]
    ran = subprocess.run([*command, f"http://{address}/dispatch"], capture_output=True, text=True, timeout=seconds)
    if ran.returncode != 0:
        raise Failed(f"{command[3]} failed:\n{ran.stderr[-2000:]}")
    return ran.stdout


def lua(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


GENERATORS = {"oha": oha, "wrk": wrk}

"""Counts that repeat where times do not: system calls (strace) and user-space instructions (callgrind) per request."""

import re
import signal
import socket
import subprocess
import sys
import time

from . import load, machine
from .dispatch import Dispatch
from .rounds import lineup, table


def evidence(contenders, seconds):
    rows = []
    for contender in contenders:
        calls = system_calls(contender, seconds)
        which = ", ".join(f"{call} {count:.2f}" for call, count in calls.items() if count >= 0.02)
        rows.append([contender.name, f"{sum(calls.values()):.2f}", which, f"{instructions(contender) / 1000:.1f} k"])
        print(*rows[-1], sep="  ", file=sys.stderr)
    return table(["proxy", "system calls/request", "which", "user instructions/request"], rows)


def system_calls(contender, seconds):
    """By name, the most frequent first."""
    with lineup([contender]) as line:
        proxy, dispatch = line.proxies[contender.name], Dispatch(line.bench)
        dispatch.check(contender.name, proxy.address)
        load.oha(line.bench, proxy.address, dispatch, seconds=1)
        counts = line.bench.directory / "strace.txt"
        command = ["strace", "-f", "-c", "-o", str(counts)]
        for pid in proxy.pids():
            command += ["-p", str(pid)]
        tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        line.bench.closing.callback(machine.end, tracer)
        time.sleep(0.5)
        requests = load.oha(line.bench, proxy.address, dispatch, seconds=seconds).requests
        tracer.send_signal(signal.SIGINT)
        tracer.wait(timeout=10)
        calls = {}
        for counted in counts.read_text().splitlines():
            if fields := re.match(r"\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", counted):
                if fields.group(2) != "total":
                    calls[fields.group(2)] = int(fields.group(1)) / requests
        return dict(sorted(calls.items(), key=lambda one: -one[1]))


def instructions(contender):
    """The difference between a long and a short run, so that starting and stopping cancel out."""
    counted = [callgrind(contender, requests) for requests in (1000, 6000)]
    return (counted[1] - counted[0]) / 5000


def callgrind(contender, requests):
    with machine.Bench() as bench:
        axon = bench.announced("axon_stub", [machine.program("axon_stub")], machine.AXON_CORE)
        output = bench.directory / "callgrind.%p"
        with bench.under("valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={output}"):
            proxy = contender.start(bench, axon.address)
        dispatch = Dispatch(bench)
        for _ in range(8):
            dispatch.check(contender.name, proxy.address)
        send_exactly(proxy.address, dispatch, requests)
        machine.end(proxy.popen, seconds=60)  # valgrind writes its counts at the end
        total = re.compile(r"^totals: (\d+)", re.M)
        counted = [total.search(file.read_text()) for file in bench.directory.glob("callgrind.*")]
        if not any(counted):
            sys.exit(f"{contender.name} did not end in time, so valgrind counted nothing:\n{proxy.said()}")
        return sum(int(found.group(1)) for found in counted if found)


def send_exactly(address, dispatch, requests):
    """As many answered requests as asked for, 64 at a time: each round writes to all, then reads from all."""
    host, port = address.split(":")
    message = dispatch.message(address)
    connections = [socket.create_connection((host, int(port)), timeout=30) for _ in range(load.CONNECTIONS)]
    left = requests
    while left:
        batch = connections[: min(left, load.CONNECTIONS)]
        for connection in batch:
            connection.sendall(message)
        for connection in batch:
            read_answer(connection)
        left -= len(batch)
    for connection in connections:
        connection.close()


def read_answer(connection):
    received = b""
    while True:
        head, separator, body = received.partition(b"\r\n\r\n")
        if separator:
            length = int(re.search(rb"content-length: *(\d+)", head, re.I).group(1))
            if not head.startswith(b"HTTP/1.1 200"):
                sys.exit(f"answer was {head[:200]}")
            if len(body) >= length:
                return
        more = connection.recv(65536)
        if not more:
            sys.exit("connection closed before the answer was whole")
        received += more

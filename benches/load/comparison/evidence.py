"""Counts that repeat where times do not: user-space instructions (callgrind) and system calls (strace) per request of
three contenders, and the allocations per request that Orbit's own bench counts. Those of this version are recorded in the
repository; `check` compares and names what became worse.
"""

import collections
import json
import re
import signal
import socket
import subprocess
import sys
import time

from . import load, machine
from .contenders import ORBIT
from .dispatch import Dispatch
from .rounds import lineup, table

RECORD = machine.HERE / "recorded.json"
# How much more than recorded is still the same. Orbit's instructions repeat within 0.3 %, calls within 0.05 (how many
# events one `epoll_wait` brings depends on the moment), allocations within 0.02.
MORE = {
    "instructions": lambda count: count * 1.03,
    "calls": lambda count: count + 0.15,
    "allocations": lambda count: count + 0.2,
}
PARTS = tuple(MORE)
# Callgrind runs without the processor's SHA instructions, so that hashing looks dearer than it is; it is counted apart.
HASHING = re.compile(r"sha2::|sha256")
SHORT_RUN, LONG_RUN = 1000, 6000


def measure(contenders, parts, seconds=2):
    """{"instructions": {contender: {"own", "hashing"}}, "calls": {contender: {name: count}}, "allocations": {case: count}},
    all per request; those that are not of `parts` are empty."""
    found = {part: {} for part in PARTS}
    for contender in contenders:
        for part, count in (("instructions", instructions), ("calls", lambda one: system_calls(one, seconds))):
            if part in parts:
                print(f"counting {part} of {contender.name}", file=sys.stderr)
                found[part][contender.name] = count(contender)
    if "allocations" in parts:
        found["allocations"] = allocations()
    return found


def report(found):
    """As tables."""
    text = ["## Counts per request\n"]
    if found["instructions"] or found["calls"]:
        rows = []
        for name in {**found["instructions"], **found["calls"]}:
            counted, calls = (found[part].get(name) for part in ("instructions", "calls"))
            own, hashing = (f"{counted[kind] / 1000:.1f} k" for kind in ("own", "hashing")) if counted else "––"
            total = f"{sum(calls.values()):.2f}" if calls else "–"
            rows.append([name, own, hashing, total, by_name(calls) if calls else "–"])
        heads = ["proxy", "user instructions", "hashing without SHA instructions", "system calls", "which"]
        text.append(table(heads, rows))
    if found["allocations"]:
        text.append(table(["Orbit", "allocations"], [[case, f"{n:.1f}"] for case, n in found["allocations"].items()]))
    return "\n".join(text)


def by_name(calls):
    return ", ".join(f"{call} {count:.2f}" for call, count in calls.items() if count >= 0.02)


# ---- the record


def record(found):
    """Replaces what was measured, keeps what was not."""
    known = recorded()
    known.setdefault("instructions", {}).update(found["instructions"])
    for name, calls in found["calls"].items():
        often = {call: round(count, 2) for call, count in calls.items() if count >= 0.02}
        known.setdefault("calls", {})[name] = often
    known["allocations"] = found["allocations"] or known.get("allocations", {})
    RECORD.write_text(json.dumps(known, indent=2) + "\n")


def recorded():
    return json.loads(RECORD.read_text()) if RECORD.exists() else {}


def check(found, known):
    """(regressions of Orbit, remarks), a sentence each. How the peers differ tells whether the two can be compared."""
    now, then = figures(found), figures(known)
    worse, remarks = [], []
    for part, name in {(part, name): None for part, name, _ in now}:
        kinds = sorted({key[2] for key in (*now, *then) if key[:2] == (part, name)})
        if not any((part, name, kind) in then for kind in kinds):
            remarks.append(f"{name}: no {part} are recorded")
            continue
        for kind in kinds:
            is_now, was = now.get((part, name, kind), 0), then.get((part, name, kind), 0)
            text = f"{name}, {part} per request, {kind}: {is_now:,.2f}, recorded {was:,.2f}"
            if is_now > MORE[part](was):
                (worse if name == ORBIT else remarks).append(text)
            elif was > MORE[part](is_now):
                remarks.append(text)
    return worse, remarks


def figures(found):
    """{(part, contender, kind): count}"""
    named = {**found, "allocations": {ORBIT: found.get("allocations", {})}}
    return {
        (part, name, kind): count
        for part in PARTS
        for name, counts in named.get(part, {}).items()
        for kind, count in counts.items()
    }


# ---- system calls


def system_calls(contender, seconds):
    """By name, the most frequent first."""
    with lineup([contender]) as line:
        proxy, dispatch = line.proxies[contender.name], Dispatch(line.bench)
        dispatch.check(contender.name, proxy.address)
        load.oha(line.bench, proxy.address, dispatch, seconds=1)
        counts = line.bench.directory / "strace.txt"
        command = [machine.system_program("strace"), "-f", "-c", "-o", str(counts)]
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


# ---- allocations


def allocations():
    """What `benches/allocations.rs` prints, by case."""
    command = ["cargo", "bench", "--locked", "--bench", "allocations"]
    ran = subprocess.run(command, cwd=machine.ROOT, stdout=subprocess.PIPE, text=True, timeout=1800)
    counted = re.findall(r"^(\S.*?) {2,}([\d.]+) +[\d.]+$", ran.stdout, re.M)
    if ran.returncode != 0 or not counted:
        sys.exit(f"`{' '.join(command)}` counted nothing:\n{ran.stdout}")
    return {case: float(count) for case, count in counted}


# ---- instructions


def instructions(contender):
    """The difference between a long and a short run, so that starting and stopping cancel out."""
    short, long = callgrind(contender, SHORT_RUN), callgrind(contender, LONG_RUN)
    return {kind: round((long[kind] - short[kind]) / (LONG_RUN - SHORT_RUN)) for kind in ("own", "hashing")}


def callgrind(contender, requests):
    with machine.Bench() as bench:
        axon = bench.announced("axon_stub", [machine.program("axon_stub")], machine.AXON_CORE)
        valgrind = [machine.system_program("valgrind"), "--tool=callgrind", "--trace-children=yes"]
        with bench.under(*valgrind, f"--callgrind-out-file={bench.directory}/callgrind.%p"):
            proxy = contender.start(bench, axon.address)
        dispatch = Dispatch(bench)
        for _ in range(8):
            dispatch.check(contender.name, proxy.address)
        send_exactly(proxy.address, dispatch, requests)
        machine.end(proxy.popen, seconds=60)  # valgrind writes its counts at the end
        counts = collections.Counter()
        for file in bench.directory.glob("callgrind.*"):
            counts.update(counted(file))
        if not counts["own"]:
            sys.exit(f"{contender.name} did not end in time, so valgrind counted nothing:\n{proxy.said()}")
        return counts


def counted(file):
    """Instructions in one of callgrind's files, those of hashing apart. The format: a line `fn=` says whose the cost lines
    behind it are (its name in full only once); the line behind `calls=` is what a call cost and belongs to the callee."""
    names, counts, kind, of_a_call = {}, collections.Counter(), "own", False
    with open(file, errors="replace") as lines:
        for line in lines:
            if line.startswith("fn="):
                number, _, name = line[3:].strip().partition(" ")
                if name:
                    names[number] = name
                kind = "hashing" if HASHING.search(names.get(number, number)) else "own"
            elif line.startswith("calls="):
                of_a_call = True
            elif line[0] in "+-*0123456789":
                if not of_a_call:
                    counts[kind] += int(line.split()[1])
                of_a_call = False
            elif name := re.match(r"cfn=(\(\d+\)) (.+)", line):
                names[name.group(1)] = name.group(2)
    return counts


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

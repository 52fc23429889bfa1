"""What is asked of the contenders: one function for each scenario, which returns the part of the report that tells of it.

Each takes `Asked`: the contenders, how many rounds, and how many seconds of load each contender gets in a round.
"""

import collections
import subprocess
import sys

from . import load, machine
from .contenders import LIMITS, NGINX, ORBIT, STOCK, Contender, orbit
from .dispatch import BODY_BYTES, Dispatch, body
from .rounds import absent, cpu_table, interleaved, lineup, median, ratio, spread, table

Asked = collections.namedtuple("Asked", "contenders rounds seconds generator")

PAIRED = "Medians; in brackets the quartiles; ratios and differences are paired within a round."
SMALL = f"`POST /dispatch` with a signed body of {BODY_BYTES} bytes"
DIRECT = "Axon, asked directly"


def section(title, how, *tables):
    return "\n".join([f"## {title}\n", f"{how} {PAIRED}\n", *tables])


def warm(line, dispatch, **options):
    """Fills pools and caches."""
    for name in line.proxies:
        line.measure(name, dispatch, **{"seconds": 1, **options})


# ---- kept connections, new connections, bodies


def compare(asked, title):
    with lineup(asked.contenders) as line:
        dispatch = Dispatch(line.bench)
        warm(line, dispatch)
        generate = load.GENERATORS[asked.generator]
        samples = interleaved(
            asked.rounds, line.proxies, lambda name: line.measure(name, dispatch, generate, seconds=asked.seconds)
        )
        how = f"{asked.rounds} rounds of {asked.seconds} s, {load.CONNECTIONS} keep-alive connections, {SMALL}, "
        return section(title, f"{how}`{asked.generator}`.", cpu_table(samples, line.missing))


def product(asked):
    return compare(asked, "Kept connections")


def clients(asked):
    return compare(asked, "Pingora's hooks, and one forwarder with three HTTP clients")


CONNECTION_COUNTS = (1, 16, 64, 1024)


def connections(asked):
    """What a request costs among few and among many connections."""
    with lineup(asked.contenders) as line:
        dispatch = Dispatch(line.bench)
        warm(line, dispatch, connections=max(CONNECTION_COUNTS))
        samples = interleaved(
            asked.rounds,
            [(name, count) for name in line.proxies for count in CONNECTION_COUNTS],
            lambda one: line.measure(one[0], dispatch, seconds=asked.seconds, connections=one[1]),
        )
        rows, tables = [], []
        for name in line.proxies:
            cells = [f"{median(samples[name, count], 'cpu'):.1f}" for count in CONNECTION_COUNTS]
            rows.append([name, *cells, ratio(samples, (name, 1024), (name, 16))])
        heads = ["CPU µs/request", *map("{:,}".format, CONNECTION_COUNTS), "1,024 to 16"]
        for count in CONNECTION_COUNTS:
            own = {name: samples[name, count] for name in line.proxies}
            tables += [f"### {count:,} connection{'s' if count > 1 else ''}\n", cpu_table(own, line.missing)]
        how = f"{asked.rounds} rounds of {asked.seconds} s, {SMALL}; opening the connections is included."
        return section(
            "Few and many connections", how, table(heads, rows + absent(line.missing, len(heads))), *tables
        )


WORKER_CONNECTIONS = (64, 1024)


def workers(asked):
    """What a request costs with one worker and with two."""
    tables = []
    with lineup(asked.contenders) as line:
        dispatch = Dispatch(line.bench)
        warm(line, dispatch, connections=max(WORKER_CONNECTIONS))
        for count in WORKER_CONNECTIONS:
            options = {"seconds": asked.seconds, "connections": count}
            samples = interleaved(
                asked.rounds, line.proxies, lambda name: line.measure(name, dispatch, **options)
            )
            tables += [f"### {count:,} connections\n", cpu_table(samples, line.missing)]
    how = f"{asked.rounds} rounds of {asked.seconds} s, {SMALL}; a second worker runs on "
    how += "a core of its own." if len(machine.CORES) > 3 else "the core of Axon and the load."
    return section("One worker and two", how, *tables)


# With as many rounds as `run` makes these are fewer than the ports there are to connect from.
NEW_CONNECTIONS, NEW_AT_ONCE = 8000, 16


def new_connections(asked):
    with lineup(asked.contenders) as line:
        dispatch = Dispatch(line.bench)
        options = {"connections": NEW_AT_ONCE, "keepalive": False}
        warm(line, dispatch, requests=500, **options)
        samples = interleaved(
            asked.rounds, line.proxies, lambda name: line.measure(name, dispatch, requests=NEW_CONNECTIONS, **options)
        )
        how = f"{asked.rounds} rounds of {NEW_CONNECTIONS:,} requests, {NEW_AT_ONCE} at once, {SMALL}."
        return section("A connection for each request", how, cpu_table(samples, line.missing))


BODY_CONNECTIONS = 16
BODIES = (("16 KiB up", 16 << 10, None), ("1 MiB up", 1 << 20, None), ("1 MiB down", BODY_BYTES, 1 << 20))


def bodies(asked):
    tables = []
    for title, up, down in BODIES:
        with lineup(asked.contenders, ["--answer-bytes", str(down)] if down else []) as line:
            dispatch = Dispatch(line.bench, body(up))
            options = {"connections": BODY_CONNECTIONS, "seconds": asked.seconds}
            warm(line, dispatch, **options)
            samples = interleaved(
                asked.rounds, line.proxies, lambda name: line.measure(name, dispatch, **options)
            )
            tables += [f"### {title}\n", cpu_table(samples, line.missing)]
    how = f"{asked.rounds} rounds of {asked.seconds} s, {BODY_CONNECTIONS} connections, signed dispatches with a text in "
    how += "the context; the large answer is one JSON object, which Orbit puts into its envelope."
    return section("Bodies", how, *tables)


# ---- latency that a proxy adds


RATE = 2000
Latency = collections.namedtuple("Latency", "p50 p99 p999")


def rate(asked):
    """A fixed rate that leaves everybody time: what a proxy adds to a direct call."""
    with lineup(asked.contenders, direct=DIRECT) as line:
        dispatch = Dispatch(line.bench)
        options = {"seconds": asked.seconds, "rate": RATE}
        warm(line, dispatch, rate=RATE)
        samples = interleaved(
            asked.rounds,
            line.proxies,
            lambda name: line.measure(name, dispatch, **options),
            lambda sample: f"p50 {sample.p50:,.0f} p99 {sample.p99:,.0f} µs",
        )
        how = f"{asked.rounds} rounds of {asked.seconds} s at {RATE:,} requests a second over {load.CONNECTIONS} "
        how += f"connections, {SMALL}; a request's time runs from when it was due. Microseconds."
        return section("Latency at a fixed rate", how, latency_table(samples, line.missing, ("p50", "p99", "p999")))


STREAMS, STREAM_PAUSE_MS = 500, 5


def sse(asked):
    """How much later the first event of a stream comes."""
    with lineup(asked.contenders, ["--stream", str(STREAM_PAUSE_MS)], direct=DIRECT) as line:
        dispatch = Dispatch(line.bench)

        def first_event(name):
            proxy = line.proxies[name]
            dispatch.check(name, proxy.address)
            command = ["taskset", "-c", machine.LOAD_CORE, machine.program("first_event"), "--address", proxy.address]
            command += ["--message", str(written(line, dispatch, proxy)), "--requests", str(STREAMS)]
            told = subprocess.run(command, capture_output=True, text=True, timeout=60)
            if told.returncode != 0:
                sys.exit(f"{name}: {told.stderr}")
            return Latency(*map(int, told.stdout.split()))

        samples = interleaved(
            asked.rounds, line.proxies, first_event, lambda sample: f"p50 {sample.p50} p99 {sample.p99} µs"
        )
        how = f"{asked.rounds} rounds of {STREAMS} requests one after another, each answered with a stream of two events, "
        how += f"the second {STREAM_PAUSE_MS} ms after the first. Microseconds from the request to the first event."
        return section("First event of a stream", how, latency_table(samples, line.missing, ("p50", "p99")))


def latency_table(samples, missing, percentiles):
    heads = ["proxy"]
    for percentile in percentiles:
        shown = percentile.replace("p999", "p99.9")
        heads += [shown, f"{shown} added"]
    rows = []
    for name, own in samples.items():
        cells = []
        for percentile in percentiles:
            added = [getattr(a, percentile) - getattr(b, percentile) for a, b in zip(own, samples[DIRECT])]
            cells += [f"{median(own, percentile):,.0f}", "–" if name == DIRECT else spread(added, 0)]
        rows.append([name, *cells])
    return table(heads, rows + absent(missing, len(heads)))


# ---- memory


IDLE = 10_000


def idle(asked):
    """Resident memory with many connections that have sent one request each and then nothing."""
    # A proxy needs a descriptor for each, and some for Axon and itself.
    count = min(IDLE, machine.raise_descriptors() * 9 // 10)
    before, after = {}, {}
    with lineup(asked.contenders) as line:
        dispatch = Dispatch(line.bench)
        for name, proxy in line.proxies.items():
            dispatch.check(name, proxy.address)
            before[name] = proxy.resident_kib()
            command = [machine.program("hold"), "--address", proxy.address, "--connections", str(count)]
            command += ["--message", str(written(line, dispatch, proxy))]
            holder = line.bench.spawn("hold", command, machine.LOAD_CORE, stdin=subprocess.PIPE)
            line.bench.wait_for(lambda: "holding" in holder.said(), holder)
            after[name] = proxy.resident_kib()
            machine.end(holder.popen)
            print(f"{name:<44} {before[name] / 1024:.1f} to {after[name] / 1024:.1f} MiB", file=sys.stderr)
        rows = []
        for name in line.proxies:
            cells = [f"{before[name] / 1024:.1f}", f"{after[name] / 1024:.1f}"]
            cells.append(f"{(after[name] - before[name]) / count:.1f}")
            cells += [f"{after[name] / after[peer]:.2f}" if peer in after else "–" for peer in (NGINX, STOCK)]
            rows.append([name, *cells])
        heads = ["proxy", "MiB before", f"MiB with {count:,}", "KiB per connection", f"ratio to {NGINX}", f"to {STOCK}"]
        text = f"{count:,} connections, each of which has sent one request. Resident memory of all processes of a proxy.\n"
        return "\n".join(["## Idle connections\n", text, table(heads, rows + absent(line.missing, len(heads)))])


def written(line, dispatch, proxy):
    """The file of the whole request, for programs that send it as it is."""
    file = line.bench.directory / "message"
    file.write_bytes(dispatch.message(proxy.address))
    return file


# ---- what a refusal costs


ANSWERED, OVER = "answered", "429, over the limit of its address"
# Refusals come faster than the highest limit for one address.
OPEN = {**LIMITS, "per_ip": "disabled"}
CLOSED = {"per_ip": {"rate": "1/h"}}


def refusals(asked):
    """What Orbit spends on a request that it refuses."""
    contenders = [
        Contender(ORBIT, orbit("orbit-open", OPEN), verifies=True),
        # The check that it verifies is the one request in an hour.
        Contender(OVER, orbit("orbit-closed", CLOSED), verifies=True),
    ]
    with lineup(contenders) as line:
        cases = {
            ANSWERED: (ORBIT, Dispatch(line.bench)),
            "401, unknown key": (ORBIT, Dispatch(line.bench, key="AKIDUNKNOWN", expects=401)),
            "401, wrong signature": (ORBIT, Dispatch(line.bench, secret="not the secret", expects=401)),
            OVER: (OVER, Dispatch(line.bench, expects=429)),
        }
        for name, dispatch in cases.values():
            line.measure(name, dispatch, seconds=1)
        samples = interleaved(asked.rounds, cases, lambda case: line.measure(*cases[case], seconds=asked.seconds))
        rows = [
            [
                case,
                spread((sample.cpu for sample in own), 1),
                f"{median(own, 'user'):.1f} / {median(own, 'system'):.1f}",
                ratio(samples, case, ANSWERED),
                f"{median(own, 'rps'):,.0f}",
            ]
            for case, own in samples.items()
        ]
        how = f"{asked.rounds} rounds of {asked.seconds} s, {load.CONNECTIONS} keep-alive connections, {SMALL}; everything "
        how += "on, but the limit per address only where it refuses."
        heads = ["Orbit", "CPU µs/request", "user / system", "ratio to answered", "requests/s"]
        return section("Refusals", how, table(heads, rows))


# `run` takes all but the last; the numbers are rounds and seconds unless the command line says otherwise.
Scenario = collections.namedtuple("Scenario", "play rounds seconds set", defaults=["product"])
SCENARIOS = {
    "product": Scenario(product, 7, 2),
    "connections": Scenario(connections, 3, 1.5),
    "workers": Scenario(workers, 5, 1.5, "workers"),
    "new-connections": Scenario(new_connections, 3, None),
    "bodies": Scenario(bodies, 3, 1),
    "rate": Scenario(rate, 3, 3),
    "idle": Scenario(idle, 1, None),
    "refusals": Scenario(refusals, 5, 1.5),
    "sse": Scenario(sse, 3, None),
    "clients": Scenario(clients, 7, 5, "clients"),
}

"""Interleaved measuring: every contender once per round, in turning order, so that slow drift hits all alike; and the
tables. Times drift by a quarter within minutes on a shared machine, so ratios are paired within a round."""

import collections
import contextlib
import statistics
import sys

from . import load, machine
from .contenders import NGINX, STACK, STOCK
from .dispatch import Dispatch

# CPU in microseconds per request; `busy` is the share of its core that the proxy had, percent.
Sample = collections.namedtuple("Sample", "cpu user system rps p50 p99 p999 busy axon")


class Lineup:
    """One Axon and every contender in front of it, running; under the name `direct` Axon itself is one of them."""

    def __init__(self, bench, contenders, axon_options=(), direct=None):
        self.bench = bench
        self.axon = bench.announced("axon_stub", [machine.program("axon_stub"), *axon_options], machine.AXON_CORE)
        self.proxies, self.missing = {direct: self.axon} if direct else {}, {}
        for contender in contenders:
            try:
                self.proxies[contender.name] = contender.start(bench, self.axon.address)
            except machine.Missing as why:
                self.missing[contender.name] = str(why)
                continue
            if contender.verifies:
                wrong = Dispatch(bench, secret="not the secret", expects=401)
                wrong.check(contender.name, self.proxies[contender.name].address)

    def measure(self, name, dispatch, generate=load.oha, **options):
        """One load, and what it cost."""
        proxy = self.proxies[name]
        dispatch.check(name, proxy.address)
        dispatch.headers(proxy.address)
        user, system = proxy.cpu_seconds()
        axon = sum(self.axon.cpu_seconds())
        try:
            answered = generate(self.bench, proxy.address, dispatch, **options)
        except load.Failed as failed:
            sys.exit(f"{name} {failed}")
        user_after, system_after = proxy.cpu_seconds()
        axon = sum(self.axon.cpu_seconds()) - axon
        for process in (proxy, self.axon):
            process.forget()
        user, system = user_after - user, system_after - system

        def each(cpu_seconds):
            return cpu_seconds * 1e6 / answered.requests

        return Sample(
            each(user + system),
            each(user),
            each(system),
            answered.requests / answered.seconds,
            answered.p50_us,
            answered.p99_us,
            answered.p999_us,
            100 * (user + system) / answered.seconds,
            each(axon),
        )


@contextlib.contextmanager
def lineup(contenders, axon_options=(), direct=None):
    with machine.Bench() as bench:
        yield Lineup(bench, contenders, axon_options, direct)


def interleaved(rounds, names, once, tell=lambda sample: f"{sample.cpu:6.1f} µs/request"):
    """{name: [sample of each round]}."""
    samples = {name: [] for name in names}
    names = list(names)
    for turn in range(rounds):
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            samples[name].append(once(name))
            print(f"round {turn + 1}/{rounds}  {label(name):<44} {tell(samples[name][-1])}", file=sys.stderr)
    return samples


def label(name):
    return name if isinstance(name, str) else ", ".join(map(str, name))


# ---- tables


def table(heads, rows):
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines) + "\n"


def spread(values, digits):
    """Median and quartiles."""
    values = list(values)
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def median(own, field):
    return statistics.median(getattr(sample, field) for sample in own)


def ratio(samples, name, peer, digits=2):
    """Of the CPU cost, paired within a round."""
    if peer not in samples:
        return "–"
    if peer == name:
        return "1"
    return spread((a.cpu / b.cpu for a, b in zip(samples[name], samples[peer])), digits)


def cpu_table(samples, missing=()):
    heads = ["proxy", "CPU µs/request", "user / system", f"ratio to {NGINX}", f"to {STACK}", f"to {STOCK}"]
    heads += ["requests/s", "p50 µs", "p99 µs", "core busy %", "Axon's CPU µs/request"]
    rows = []
    for name, own in samples.items():
        rows.append(
            [
                name,
                spread((sample.cpu for sample in own), 1),
                f"{median(own, 'user'):.1f} / {median(own, 'system'):.1f}",
                *(ratio(samples, name, peer) for peer in (NGINX, STACK, STOCK)),
                f"{median(own, 'rps'):,.0f}",
                f"{median(own, 'p50'):,.0f}",
                f"{median(own, 'p99'):,.0f}",
                f"{median(own, 'busy'):.0f}",
                f"{median(own, 'axon'):.1f}",
            ]
        )
    return table(heads, rows + absent(missing, len(heads)))


def absent(missing, width):
    """Rows of contenders that could not be started."""
    return [[name, why, *["–"] * (width - 2)] for name, why in dict(missing).items()]

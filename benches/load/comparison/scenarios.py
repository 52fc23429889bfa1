"""What is asked of the contenders: one function for each scenario, which returns the part of the report that tells of it.

Each takes `Asked`: the contenders, how many rounds, and how many seconds of load each contender gets in a round.
"""

import collections
import functools

from . import load
from .contenders import SETS
from .dispatch import BODY_BYTES, Dispatch
from .rounds import cpu_table, interleaved, lineup

Asked = collections.namedtuple("Asked", "contenders rounds seconds generator")

PAIRED = "Medians; in brackets the quartiles; ratios are paired within a round."


def compare(asked, about):
    """Keep-alive connections, a small signed body: the figure that everything else is seen beside."""
    generate = functools.partial(load.GENERATORS[asked.generator], seconds=asked.seconds)
    with lineup(asked.contenders) as line:
        dispatch = Dispatch(line.bench)
        warm(line, dispatch)
        samples = interleaved(asked.rounds, line.proxies, lambda name: line.measure(name, dispatch, generate))
        return (
            f"## {about}\n\n{asked.rounds} interleaved rounds of {asked.seconds} s, {load.CONNECTIONS} keep-alive "
            f"connections, `POST /dispatch` with a signed body of {BODY_BYTES} bytes, `{asked.generator}`; proxy on one "
            f"core, load and Axon on another. {PAIRED}\n\n{cpu_table(samples, line.missing)}"
        )


def warm(line, dispatch):
    """Fills pools and caches, a second each."""
    for name in line.proxies:
        line.measure(name, dispatch, functools.partial(load.oha, seconds=1))


def product(asked):
    return compare(asked, "Requests on kept connections")


def clients(asked):
    return compare(asked._replace(contenders=SETS["clients"]), "Pingora's hooks against one forwarder with HTTP clients")


# `run` takes those with `always`; the numbers are rounds and seconds unless the command line says otherwise.
Scenario = collections.namedtuple("Scenario", "play rounds seconds always", defaults=[True])
SCENARIOS = {
    "product": Scenario(product, 7, 3),
    "clients": Scenario(clients, 7, 5, always=False),
}

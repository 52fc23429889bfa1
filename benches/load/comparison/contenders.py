"""The proxies, each one worker on one core in front of one Axon unless it says otherwise, and how each is started.

Every one is configured as a careful operator would: connections to Axon are kept, logs are buffered, no body is spooled
to disk, and descriptors and connections suffice for what the scenarios ask. Rates are never reached.
"""

import collections
import functools
import json
import os

from . import machine
from .dispatch import KEY, SECRET

# `start(bench, axon)` gives a running `Process` that knows its address, or raises `Missing`. `verifies`: it refuses a
# wrong signature, which is checked.
Contender = collections.namedtuple("Contender", "name start verifies", defaults=[False])

# More than any scenario opens; nginx and HAProxy prepare for as many.
CONNECTIONS = 16384


def pingora(program, *arguments, workers=1):
    return lambda bench, axon: bench.announced(
        program, [machine.program(program), "--axon", axon, *arguments], machine.proxy_cores(workers)
    )


# ---- nginx


UPSTREAM = "keepalive 1024; keepalive_requests 100000000;"


def nginx(bench, axon, workers=1):
    return start_nginx(bench, f"server {axon}; {UPSTREAM}", name=f"nginx-{workers}", workers=workers)


def nginx_stack(bench, axon):
    """What nginx users run for Orbit's job: access log, limits, and a service that checks signatures.

    The verifier runs on nginx's core and its CPU time counts as nginx's. It sees heads only, so that it must believe the
    hash that the client declares for the body. It answers without a body: with one, nginx would drop the connection to it
    each time."""
    verifier = bench.announced(
        "auth_verifier", [machine.program("auth_verifier"), "--key", KEY, "--secret", SECRET], machine.PROXY_CORE
    )
    access_log = bench.directory / "nginx-access.log"
    proxy = start_nginx(
        bench,
        f"server {axon}; {UPSTREAM}",
        name="nginx-stack",
        http=f"""
    access_log {access_log} combined buffer=64k flush=1s;
    limit_req_zone $binary_remote_addr zone=per_address:10m rate=65535r/s;
    limit_req_zone $server_name zone=global:1m rate=1000000r/s;
    limit_req_status 429;
    upstream verifier {{ server {verifier.address}; {UPSTREAM} }}""",
        server="""
        location = /verify {
            internal;
            proxy_pass http://verifier;
            proxy_http_version 1.1;
            proxy_pass_request_body off;
            proxy_set_header Connection "";
            proxy_set_header Content-Length "";
            proxy_set_header Host $http_host;
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Original-URI $request_uri;
        }""",
        location="""
            limit_req zone=per_address burst=65535 nodelay;
            limit_req zone=global burst=65535 nodelay;
            auth_request /verify;""",
    )
    proxy.companions.append(verifier)
    proxy.logs.append(access_log)
    return proxy


def start_nginx(bench, upstream, location="", server="", http="access_log off;", name="nginx", workers=1):
    """Workers in front of the servers that `upstream` names."""
    port = machine.free_port()
    directory = bench.directory / name
    directory.mkdir()
    temporary = "\n".join(
        f"    {kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # Bodies stay in memory, up as down: otherwise nginx spools them to disk, which the others never do.
    (directory / "nginx.conf").write_text(
        f"""daemon off;
worker_processes {workers};
{"user root;" if os.geteuid() == 0 else ""}
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections {CONNECTIONS}; }}
http {{
    {http}
{temporary}
    client_body_buffer_size 1m;
    proxy_max_temp_file_size 0;
    keepalive_requests 100000000;
    upstream axon {{ {upstream} }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;{server}
        location / {{
            proxy_pass http://axon;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            {location}
        }}
    }}
}}
"""
    )
    command = [machine.system_program("nginx"), "-c", str(directory / "nginx.conf"), "-p", str(directory)]
    return bench.listening(name, command, machine.proxy_cores(workers), port)


# ---- HAProxy


def haproxy(bench, axon):
    # Without the option it waits for more of a stream before it sends what it has.
    return start_haproxy(
        bench,
        f"""    timeout client 75s
    timeout connect 1s
    timeout server 30s
    option http-no-delay
    http-reuse always
    server axon {axon}""",
    )


def start_haproxy(bench, directives):
    """One thread with one listener, which `directives` complete."""
    port = machine.free_port()
    file = bench.directory / f"haproxy-{port}.cfg"
    # It asks for two descriptors a connection, and would not start where it gets fewer.
    file.write_text(
        f"""global
    maxconn {CONNECTIONS}
    no strict-limits
    nbthread 1
listen axon
    mode http
    maxconn {CONNECTIONS}
    bind 127.0.0.1:{port} backlog 4096
{directives}
"""
    )
    command = [machine.system_program("haproxy"), "-db", "-f", str(file)]
    return bench.listening("haproxy", command, machine.PROXY_CORE, port)


# ---- Envoy


def envoy(bench, axon):
    program = machine.envoy()
    port = machine.free_port()

    def at(address):
        host, number = address.rsplit(":", 1)
        return {"socket_address": {"address": host, "port_value": int(number)}}

    manager = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "dispatch",
        "route_config": {
            "virtual_hosts": [
                {"name": "axon", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "axon"}}]}
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }
        ],
    }
    # Its defaults allow 1,024 connections to Axon, requests under way and waiting.
    thresholds = {name: CONNECTIONS for name in ("max_connections", "max_pending_requests", "max_requests")}
    configuration = {
        "static_resources": {
            "listeners": [
                {
                    "address": at(f"127.0.0.1:{port}"),
                    "tcp_backlog_size": 4096,
                    "filter_chains": [
                        {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "axon",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "circuit_breakers": {"thresholds": [thresholds]},
                    "load_assignment": {
                        "cluster_name": "axon",
                        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(axon)}}]}],
                    },
                }
            ],
        }
    }
    file = bench.directory / "envoy.json"
    file.write_text(json.dumps(configuration, indent=2))
    command = [program, "-c", str(file), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return bench.listening("envoy", command, machine.PROXY_CORE, port)


# ---- Orbit


# Rates that the load never reaches: the arithmetic runs, nothing is refused. More than 65,535 cannot be counted for one
# address, and the load comes from one.
LIMITS = {"per_ip": {"rate": "65535/s"}, "global": {"rate": "1000000/s"}, "governance": {"rate": "1000000/s"}}
NO_LIMITS = {"per_ip": "disabled", "global": "disabled", "governance": "disabled"}


def orbit(name="orbit-full", limits=LIMITS, policies=100, log=True, workers=1):
    """Everything on: signatures, all limits, 100 policies, the envelope, metrics, a text log. Or less."""

    def start(bench, axon):
        upstream = {"endpoints": [f"http://{axon}"], "sign": "disabled", "keepalive": 1024}
        return start_orbit(bench, name, upstream, limits, policies, log, workers)

    return start


orbit_bare = orbit("orbit-bare", NO_LIMITS, 1, False)


def start_orbit(bench, name, upstream, limits=LIMITS, count=100, log=True, workers=1):
    """Workers in front of `upstream`."""
    directory = bench.directory / name
    directory.mkdir()
    (directory / "keys.yaml").write_text(
        json.dumps([{"access_key_id": KEY, "secret_access_key": SECRET, "principal": "load"}])
    )
    (directory / "policies.json").write_text(json.dumps(policies(count)))
    configuration = {
        "version": 1,
        "listen": {"address": "127.0.0.1:0", "connections": CONNECTIONS},
        "drain": {"min": "0s", "max": "1s"},
        "auth": {"keys": "keys.yaml", "clock_skew": "15m"},
        "limits": limits,
        "governance": {"policies": "policies.json"},
        "upstreams": {"axon": upstream},
        "observability": {"logs": {"format": "text", "level": "info", "requests": log}},
        "runtime": {"threads": workers},
    }
    file = directory / "orbit.yaml"
    file.write_text(json.dumps(configuration, indent=2))  # JSON is YAML
    return bench.announced(name, [machine.orbit(), "run", "-c", str(file)], machine.proxy_cores(workers))


def policies(count):
    """`count` policies as an agent runtime has them, of which one is for the intent that the load sends."""
    return [
        {
            "service": "orbit",
            "intent": "call_reasoning" if index == count // 2 else f"intent_{index}",
            "enabled": True,
            "description": f"policy {index}",
            "time_restrictions": {"allowed_hours": list(range(24))},
            "rate_limits": {"requests_per_minute": 4000000000, "requests_per_hour": 4000000000},
            "conditions": [
                {
                    "type": "context_check",
                    "field": "user_type",
                    "operator": "equals",
                    "value": "premium",
                    "description": "premium users only",
                }
            ],
        }
        for index in range(count)
    ]


# ---- who is compared


NGINX, STACK, STOCK = "nginx", "nginx + auth_request + limits + log", "Pingora, stock hooks"
ORBIT = "Orbit, everything on"

SETS = {
    "counted": [
        Contender(NGINX, nginx),
        Contender(STOCK, pingora("pingora_stock")),
        Contender(ORBIT, orbit(), verifies=True),
    ],
    "product": [
        Contender(NGINX, nginx),
        Contender(STACK, nginx_stack, verifies=True),
        Contender("HAProxy", haproxy),
        Contender("Envoy", envoy),
        Contender(STOCK, pingora("pingora_stock")),
        Contender(ORBIT, orbit(), verifies=True),
    ],
    "workers": [
        Contender(NGINX, nginx),
        Contender(f"{NGINX}, two workers", functools.partial(nginx, workers=2)),
        Contender(STOCK, pingora("pingora_stock")),
        Contender(f"{STOCK}, two workers", pingora("pingora_stock", "--runtime", "stealing-2", workers=2)),
        Contender(ORBIT, orbit(), verifies=True),
        Contender(f"{ORBIT}, two workers", orbit("orbit-two", workers=2), verifies=True),
    ],
    # With `--bare`.
    "bare": [Contender("Orbit, limits and request log off", orbit_bare, verifies=True)],
    "clients": [
        Contender(NGINX, nginx),
        Contender(STOCK, pingora("pingora_stock")),
        Contender("filter, connector", pingora("pingora_filter", "--client", "connector")),
        Contender("filter, hyper inline", pingora("pingora_filter", "--client", "hyper")),
        Contender("filter, hyper spawned", pingora("pingora_filter", "--client", "hyper-spawned")),
        Contender("stock, no stealing", pingora("pingora_stock", "--runtime", "current")),
        Contender(
            "connector, no stealing", pingora("pingora_filter", "--client", "connector", "--runtime", "current")
        ),
        Contender("hyper inline, no stealing", pingora("pingora_filter", "--client", "hyper", "--runtime", "current")),
        Contender(
            "hyper spawned, no stealing", pingora("pingora_filter", "--client", "hyper-spawned", "--runtime", "current")
        ),
    ],
}

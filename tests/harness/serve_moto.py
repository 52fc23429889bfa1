"""Serves AWS's APIs as moto fakes them, on a free port of 127.0.0.1, until standard input ends.

One line on standard output says where: `serving on 127.0.0.1:PORT`.
"""

import logging
import sys

from moto.server import ThreadedMotoServer

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"serving on {host}:{port}", flush=True)
sys.stdin.read()
server.stop()

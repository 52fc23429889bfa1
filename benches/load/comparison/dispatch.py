"""The signed request that every contender is asked, and the check of what it answers."""

import http.client
import json
import subprocess
import sys
import time

from . import machine

KEY, SECRET = "AKIDLOADCOMPARISON", "load-comparison-only-not-a-secret-0123456789"
INTENT = {"intent": "call_reasoning", "context": {"user_id": "user123", "request_id": "req456", "user_type": "premium"}}
BODY_BYTES = 150
MESSAGE = b"Axon heartbeat OK"
# Verifiers here allow a signature 15 minutes; one serves several rounds, and the load generator repeats it.
SIGNATURE_SECONDS = 300


def body(size=BODY_BYTES):
    """A dispatch of so many bytes: white space behind a small one, a text in the context of a large one."""
    small = json.dumps(INTENT, separators=(",", ":"))
    if size < 1024:
        return small.ljust(size).encode()
    large = json.loads(small)
    large["context"]["document"] = ""
    room = size - len(json.dumps(large, separators=(",", ":")))
    sentence = "What the agent was told about this matter, as it stands in the archive. "
    large["context"]["document"] = (sentence * (room // len(sentence) + 1))[:room]
    return json.dumps(large, separators=(",", ":")).encode()


class Dispatch:
    """`POST /dispatch` with a body, signed by a key; whoever verifies is to answer `expects`."""

    def __init__(self, bench, content=None, key=KEY, secret=SECRET, expects=200):
        self.content, self.key, self.secret, self.expects = content or body(), key, secret, expects
        self.file = bench.directory / f"body-{len(list(bench.directory.iterdir()))}.json"
        self.file.write_bytes(self.content)
        self.signed = {}

    def headers(self, address):
        """The headers to send besides Host and Content-Length. All contenders get the same, the hash of the body
        included, without which a verifier that does not see the body would have nothing to go by."""
        at, headers = self.signed.get(address, (0, None))
        if not headers or time.monotonic() - at > SIGNATURE_SECONDS:
            command = [machine.program("sign"), "--host", address, "--body", str(self.file)]
            command += ["--key", self.key, "--secret", self.secret]
            output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout
            headers = dict(line.split(": ", 1) for line in output.splitlines())
            self.signed[address] = time.monotonic(), headers
        return headers

    def message(self, address):
        """The whole request as it goes over the wire."""
        lines = ["POST /dispatch HTTP/1.1", f"host: {address}", f"content-length: {len(self.content)}"]
        lines += [f"{name}: {value}" for name, value in self.headers(address).items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.content

    def check(self, name, address):
        """A proxy that answers anything but what is expected is not measured."""
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("POST", "/dispatch", self.content, self.headers(address))
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != self.expects or (self.expects == 200 and MESSAGE not in text):
            sys.exit(f"{name} answered {answer.status} instead of {self.expects}: {text[:500]}")

"""Uses docs/clients/python as its readers would; see tests/clients/examples.rs.

    example.py ORBIT FAKE
"""

import json
import pathlib
import sys

from botocore.credentials import Credentials

sys.path.insert(0, str(pathlib.Path(__file__).parents[3] / "docs/clients/python"))

from orbit_client import Denied, OrbitClient, OrbitError  # noqa: E402


def tell(step, call):
    try:
        told = {"answer": call()}
    except OrbitError as error:
        told = {
            "denied": isinstance(error, Denied),
            "status": error.status,
            "code": error.code,
            "reason": error.reason,
            "details": error.details,
            "correlation_id": error.correlation_id,
            "text": str(error),
        }
    print(json.dumps({"step": step, **told}), flush=True)


orbit, fake = (OrbitClient(url) for url in sys.argv[1:3])
stranger = OrbitClient(sys.argv[1], credentials=Credentials("AKIDEXAMPLE", "wrong"))
tell("healthy", orbit.health_check)
tell("dispatch", lambda: orbit.dispatch("call_reasoning", {"user_id": "Zoë 日本"}, correlation_id="from-example"))
tell("denied", lambda: orbit.dispatch("forbidden"))
tell("refused", lambda: stranger.dispatch("call_reasoning"))
tell("unhealthy", fake.health_check)
tell("no answer of Orbit's", lambda: fake.dispatch("call_reasoning"))

"""Sends dispatches as AWS's Python clients do, one line of JSON per answer on standard output.

    dispatch.py URL ACCESS_KEY_ID SECRET [SESSION_TOKEN]

Every request is signed by botocore, whose signer is the one of boto3 and of the AWS CLI. Each is sent twice: by
botocore's own HTTP session, and by `requests`, which adds headers of its own after the signature.
"""

import hashlib
import json
import sys

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.httpsession import URLLib3Session

REGION, SERVICE = "us-east-1", "execute-api"
TIMEOUT_SECONDS = 30


def dispatch(**context):
    """A body as `json.dumps` writes it by default: spaces, and escapes for all but ASCII."""
    return json.dumps({"intent": "call_reasoning", "context": context}).encode()


JSON = {"Content-Type": "application/json"}
PLAIN = dispatch(user_id="user123", request_id="req456")
UNICODE = json.dumps(
    {"intent": "call_reasoning", "context": {"user_id": "Zoë 日本 🛰"}}, ensure_ascii=False
).encode()
LARGE = dispatch(filler="x" * (100 * 1024))

# name: body, headers, query string
CASES = {
    "JSON body": (PLAIN, JSON, ""),
    "empty context": (dispatch(), JSON, ""),
    "no context": (b'{"intent":"call_reasoning"}', JSON, ""),
    "unicode body": (UNICODE, {"Content-Type": "application/json; charset=utf-8"}, ""),
    "body of 100 KiB": (LARGE, JSON, ""),
    "no content type": (PLAIN, {}, ""),
    "declared content hash": (PLAIN, {**JSON, "X-Amz-Content-SHA256": hashlib.sha256(PLAIN).hexdigest()}, ""),
    "header with inner spaces": (PLAIN, {**JSON, "X-Amz-Meta-Note": "a   b  \"c   d\" e"}, ""),
    "correlation id": (PLAIN, {**JSON, "X-Correlation-ID": "from-botocore"}, ""),
    "query string": (PLAIN, JSON, "?b=2&a=1&a=0&empty=&c=x%20y&d=%C3%A9&e=%2F~"),
}


def by_botocore(prepared):
    """botocore's way to the wire: urllib3, the signed headers as they are."""
    answer = URLLib3Session(timeout=TIMEOUT_SECONDS).send(prepared)
    return answer.status_code, answer.content


def by_requests(prepared):
    """The way of everybody who signs with botocore and sends with `requests`."""
    answer = requests.post(prepared.url, data=prepared.body, headers=dict(prepared.headers), timeout=TIMEOUT_SECONDS)
    return answer.status_code, answer.content


def main(url, access_key_id, secret, token=None):
    credentials = Credentials(access_key_id, secret, token)
    for name, (body, headers, query) in CASES.items():
        for send in (by_botocore, by_requests):
            request = AWSRequest("POST", f"{url}/dispatch{query}", headers=headers, data=body)
            SigV4Auth(credentials, SERVICE, REGION).add_auth(request)
            status, content = send(request.prepare())
            print(json.dumps({
                "case": f"{name}, {send.__name__}",
                "status": status,
                "sha256": hashlib.sha256(body).hexdigest(),
                "answer": content.decode(),
            }), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

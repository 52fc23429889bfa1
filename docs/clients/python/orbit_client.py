"""A client of Orbit: signs with botocore, sends with requests.

    pip install botocore requests

    from orbit_client import OrbitClient

    client = OrbitClient("https://orbit.example.com")
    answer = client.dispatch("call_reasoning", {"user_id": "user123"})
"""

import json

import requests
import requests.auth
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.session import Session


class OrbitError(Exception):
    """Orbit refused, or could not answer.

    `correlation_id` finds the request in Orbit's log. `code` and `details` are those of Orbit's error page, `None` and
    `{}` if the answer came from elsewhere.
    """

    def __init__(self, response):
        answer = _json_object(response) or {}
        self.status = response.status_code
        self.code = answer.get("code")
        self.reason = answer.get("reason") or answer.get("error") or response.reason
        self.details = answer.get("details") or {}
        self.correlation_id = response.headers.get("X-Correlation-ID")
        super().__init__(f"{self.status} {self.code}: {self.reason} {self.details} [{self.correlation_id}]")


class Denied(OrbitError):
    """Governance does not allow it; `reason` says why."""


class OrbitClient:
    """Keeps its connections open. One per thread: requests does not promise that a session can be shared."""

    def __init__(self, url, region="us-east-1", credentials=None, timeout=(3.05, 70)):
        """
        credentials: botocore's; by default those of the AWS chain (environment, profile, container, instance), which
            renews temporary ones.
        timeout: seconds to connect and seconds without a byte. The second is above Orbit's own, so that Orbit's 503
            arrives.
        """
        credentials = credentials or Session().get_credentials()
        if credentials is None:
            raise ValueError("no AWS credentials found")
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._session = requests.Session()
        self._auth = _SigV4(credentials, region)

    def dispatch(self, intent, context=None, correlation_id=None):
        """Asks Orbit to dispatch; gives the answer as a dict, or as text if Axon's answer is no JSON object.

        Raises Denied, OrbitError, or an exception of requests if no answer came.
        """
        headers = {"Content-Type": "application/json"}
        if correlation_id:
            headers["X-Correlation-ID"] = correlation_id
        response = self._session.post(
            f"{self._url}/dispatch",
            data=json.dumps({"intent": intent, "context": context or {}}).encode(),
            headers=headers,
            auth=self._auth,
            timeout=self._timeout,
            # A signature holds for one host and path.
            allow_redirects=False,
        )
        if response.status_code == 403 and (_json_object(response) or {}).get("status") == "denied":
            raise Denied(response)
        if response.status_code != 200:
            raise OrbitError(response)
        answer = _json_object(response)
        return response.text if answer is None else answer

    def health_check(self):
        """`{"status": "healthy", …}`, or `"unhealthy"` with what is wrong in `checks`. Needs no signature."""
        response = self._session.get(f"{self._url}/health", timeout=self._timeout, allow_redirects=False)
        answer = _json_object(response)
        if response.status_code not in (200, 503) or answer is None or "status" not in answer:
            raise OrbitError(response)
        return answer


class _SigV4(requests.auth.AuthBase):
    """Signs what requests is about to send, after the body has become bytes."""

    def __init__(self, credentials, region):
        self._credentials = credentials
        self._region = region

    def __call__(self, request):
        # What is not given to the signer is not signed: headers that a proxy may change.
        signed = {"Content-Type": request.headers["Content-Type"]}
        to_sign = AWSRequest(request.method, request.url, headers=signed, data=request.body)
        # Key, secret and token of one moment, also while they are being renewed.
        frozen = self._credentials.get_frozen_credentials()
        SigV4Auth(frozen, "execute-api", self._region).add_auth(to_sign)
        request.headers.update(dict(to_sign.headers.items()))
        return request


def _json_object(response):
    try:
        answer = response.json()
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None

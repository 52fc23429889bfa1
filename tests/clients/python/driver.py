"""Sends signed requests as one Python client does; see tests/clients/driver.rs for the protocol.

    driver.py CLIENT <cases >answers
"""

import importlib.metadata
import json
import pathlib
import sys
import urllib.parse

TIMEOUT_SECONDS = 30


def by_botocore(case):
    """botocore's signer, which the AWS CLI uses too, and botocore's HTTP session: headers go out as they were signed."""
    from botocore.httpsession import URLLib3Session

    answer = URLLib3Session(timeout=TIMEOUT_SECONDS).send(signed_by_botocore(case))
    return answer.status_code, answer.text


def by_botocore_and_requests(case):
    """Signed with botocore, sent with `requests`, which adds headers of its own after the signature."""
    import requests

    prepared = signed_by_botocore(case)
    answer = requests.request(
        prepared.method, prepared.url, data=prepared.body, headers=dict(prepared.headers), timeout=TIMEOUT_SECONDS
    )
    return answer.status_code, answer.text


def signed_by_botocore(case):
    from botocore.auth import SigV4Auth, SigV4QueryAuth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    credentials = Credentials(case["access_key_id"], case["secret_access_key"], case["session_token"])
    request = AWSRequest(case["method"], case["url"], headers=case["headers"], data=case["body"].encode())
    if case["expires_seconds"]:
        signer = SigV4QueryAuth(credentials, case["service"], case["region"], expires=case["expires_seconds"])
    else:
        signer = SigV4Auth(credentials, case["service"], case["region"])
    signer.add_auth(request)
    return request.prepare()


def by_boto3(case):
    """A client that boto3 makes of a service model, whose signing name is execute-api.

    It takes a query as names and values and encodes them itself.
    """
    import boto3
    import botocore.session
    from botocore.config import Config

    url = urllib.parse.urlsplit(case["url"])
    session = botocore.session.Session()
    session.get_component("data_loader").search_paths.append(str(pathlib.Path(__file__).with_name("models")))
    client = boto3.Session(
        case["access_key_id"], case["secret_access_key"], case["session_token"], case["region"], session
    ).client(
        "orbit",
        endpoint_url=f"{url.scheme}://{url.netloc}",
        config=Config(retries={"total_max_attempts": 1}, read_timeout=TIMEOUT_SECONDS),
    )
    query = {}
    for name, value in urllib.parse.parse_qsl(url.query, keep_blank_values=True):
        query.setdefault(name, []).append(value)
    headers = dict(case["headers"])
    arguments = {
        "Body": case["body"].encode(),
        "ContentType": headers.pop("Content-Type"),
        "Headers": headers,
        "Query": query,
    }
    if case["expires_seconds"]:
        return presigned_by_boto3(case, client, arguments)
    answers = []
    client.meta.events.register(
        "before-parse.orbit.Dispatch", lambda response_dict, **_: answers.append(response_dict)
    )
    try:
        client.dispatch(**arguments)
    except client.exceptions.ClientError:
        pass
    return answers[0]["status_code"], answers[0]["body"].decode()


def presigned_by_boto3(case, client, arguments):
    """Whoever gets the URL has to send the headers that were signed."""
    import requests

    url = client.generate_presigned_url("dispatch", arguments, case["expires_seconds"])
    answer = requests.post(url, data=case["body"].encode(), headers=case["headers"], timeout=TIMEOUT_SECONDS)
    return answer.status_code, answer.text


def by_requests_aws4auth(case):
    import requests
    from requests_aws4auth import AWS4Auth

    auth = AWS4Auth(
        case["access_key_id"],
        case["secret_access_key"],
        case["region"],
        case["service"],
        session_token=case["session_token"],
    )
    return by_requests(case, auth)


def by_aws_requests_auth(case):
    from aws_requests_auth.aws_auth import AWSRequestsAuth

    auth = AWSRequestsAuth(
        aws_access_key=case["access_key_id"],
        aws_secret_access_key=case["secret_access_key"],
        aws_host=urllib.parse.urlsplit(case["url"]).netloc,
        aws_region=case["region"],
        aws_service=case["service"],
        aws_token=case["session_token"],
    )
    return by_requests(case, auth)


def by_requests(case, auth):
    import requests

    answer = requests.request(
        case["method"],
        case["url"],
        data=case["body"].encode(),
        headers=case["headers"],
        auth=auth,
        timeout=TIMEOUT_SECONDS,
    )
    return answer.status_code, answer.text


def by_awscurl(case):
    """The function behind the command, which parses options and prints."""
    from awscurl.awscurl import make_request

    answer = make_request(
        case["method"],
        case["service"],
        case["region"],
        case["url"],
        dict(case["headers"]),
        case["body"],
        case["access_key_id"],
        case["secret_access_key"],
        case["session_token"],
        data_binary=False,
    )
    return answer.status_code, answer.text


# name: distribution, way to send
CLIENTS = {
    "botocore": ("botocore", by_botocore),
    "botocore and requests": ("botocore", by_botocore_and_requests),
    "boto3": ("boto3", by_boto3),
    "requests-aws4auth": ("requests-aws4auth", by_requests_aws4auth),
    "aws-requests-auth": ("aws-requests-auth", by_aws_requests_auth),
    "awscurl": ("awscurl", by_awscurl),
}


def main(client):
    distribution, send = CLIENTS[client]
    print(json.dumps({"client": client, "version": importlib.metadata.version(distribution)}), flush=True)
    for line in sys.stdin:
        case = json.loads(line)
        status, body = send(case)
        print(json.dumps({"case": case["name"], "status": status, "body": body}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

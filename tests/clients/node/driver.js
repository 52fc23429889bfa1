// Sends signed requests as one JavaScript client does; see tests/clients/driver.rs for the protocol.
//
//     NODE_PATH=…/node_modules node driver.js CLIENT <cases >answers
"use strict";

const http = require("node:http");
const path = require("node:path");
const readline = require("node:readline");

const TIMEOUT_MILLISECONDS = 30_000;

/** AWS SDK for JavaScript v2: the signer behind its clients, and its HTTP client. */
function byAwsSdk(test) {
  process.env.AWS_SDK_JS_SUPPRESS_MAINTENANCE_MODE_MESSAGE = "1";
  const AWS = require("aws-sdk");
  const url = new URL(test.url);
  const endpoint = new AWS.Endpoint(url.origin);
  const request = new AWS.HttpRequest(endpoint, test.region);
  request.method = test.method;
  request.path = url.pathname + url.search;
  request.headers = { ...test.headers, Host: endpoint.host };
  request.body = test.body;
  const credentials = new AWS.Credentials(test.access_key_id, test.secret_access_key, test.session_token);
  new AWS.Signers.V4(request, test.service).addAuthorization(credentials, new Date());
  return new Promise((resolve, reject) => {
    new AWS.HttpClient().handleRequest(request, { timeout: TIMEOUT_MILLISECONDS }, collect(resolve, reject), reject);
  });
}

/** The signer of AWS SDK for JavaScript v3, with its parser of URLs and its HTTP handler. */
async function bySmithy(test) {
  const { Sha256 } = require("@aws-crypto/sha256-js");
  const { NodeHttpHandler } = require("@smithy/node-http-handler");
  const { HttpRequest } = require("@smithy/protocol-http");
  const { SignatureV4 } = require("@smithy/signature-v4");
  const { parseUrl } = require("@smithy/url-parser");
  const signer = new SignatureV4({
    credentials: {
      accessKeyId: test.access_key_id,
      secretAccessKey: test.secret_access_key,
      sessionToken: test.session_token ?? undefined,
    },
    region: test.region,
    service: test.service,
    sha256: Sha256,
  });
  const request = new HttpRequest({
    ...parseUrl(test.url),
    method: test.method,
    headers: { ...test.headers, host: new URL(test.url).host },
    body: test.body,
  });
  const signed = test.expires_seconds
    ? await signer.presign(request, { expiresIn: test.expires_seconds })
    : await signer.sign(request);
  const handler = new NodeHttpHandler({ requestTimeout: TIMEOUT_MILLISECONDS });
  const { response } = await handler.handle(signed);
  return new Promise((resolve, reject) => collect(resolve, reject)(response.body, response.statusCode));
}

/** aws4 with Node's own HTTP client, which takes what it returns. */
function byAws4(test) {
  const aws4 = require("aws4");
  const url = new URL(test.url);
  const signed = aws4.sign(
    {
      service: test.service,
      region: test.region,
      method: test.method,
      hostname: url.hostname,
      port: url.port,
      path: url.pathname + url.search,
      headers: test.headers,
      body: test.body,
      signQuery: Boolean(test.expires_seconds),
    },
    {
      accessKeyId: test.access_key_id,
      secretAccessKey: test.secret_access_key,
      sessionToken: test.session_token ?? undefined,
    },
  );
  return new Promise((resolve, reject) => {
    const request = http.request({ ...signed, timeout: TIMEOUT_MILLISECONDS }, collect(resolve, reject));
    request.on("error", reject);
    request.on("timeout", () => request.destroy(new Error("timeout")));
    request.end(signed.body);
  });
}

/** aws4fetch with Node's own `fetch`. */
async function byAws4fetch(test) {
  // Browsers and Node from 20 on have it.
  globalThis.crypto ??= require("node:crypto").webcrypto;
  const { AwsClient } = require("aws4fetch");
  const client = new AwsClient({
    accessKeyId: test.access_key_id,
    secretAccessKey: test.secret_access_key,
    sessionToken: test.session_token ?? undefined,
    service: test.service,
    region: test.region,
    retries: 0,
  });
  const response = await client.fetch(test.url, {
    method: test.method,
    headers: test.headers,
    body: test.body,
    signal: AbortSignal.timeout(TIMEOUT_MILLISECONDS),
    aws: { signQuery: Boolean(test.expires_seconds) },
  });
  return { status: response.status, body: await response.text() };
}

/** A callback that reads a response to its end. */
function collect(resolve, reject) {
  return (response, status) => {
    let body = "";
    response.setEncoding("utf8");
    response.on("data", (text) => (body += text));
    response.on("error", reject);
    response.on("end", () => resolve({ status: status ?? response.statusCode, body }));
  };
}

const CLIENTS = {
  "aws-sdk": byAwsSdk,
  "@smithy/signature-v4": bySmithy,
  aws4: byAws4,
  aws4fetch: byAws4fetch,
};

async function main(client) {
  const send = CLIENTS[client];
  // Not every package lets its package.json be required.
  const manifest = require(path.join(process.env.NODE_PATH, client, "package.json"));
  console.log(JSON.stringify({ client, version: manifest.version }));
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const test = JSON.parse(line);
    console.log(JSON.stringify({ case: test.name, ...(await send(test)) }));
  }
  // Idle connections would hold the process open.
  process.exit(0);
}

main(process.argv[2]).catch((error) => {
  console.error(error);
  process.exit(1);
});

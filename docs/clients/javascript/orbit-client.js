// A client of Orbit: signs with AWS's SigV4 signer, sends with axios. Node 20 and later.
//
//     npm install axios @smithy/signature-v4 @aws-crypto/sha256-js @aws-sdk/credential-provider-node
//
//     const { OrbitClient } = require("./orbit-client");
//     const client = new OrbitClient("https://orbit.example.com");
//     const answer = await client.dispatch("call_reasoning", { user_id: "user123" });
"use strict";

const axios = require("axios");
const { Sha256 } = require("@aws-crypto/sha256-js");
const { defaultProvider } = require("@aws-sdk/credential-provider-node");
const { SignatureV4 } = require("@smithy/signature-v4");

/**
 * Orbit refused, or could not answer. `correlationId` finds the request in Orbit's log; `code` and `details` are those
 * of Orbit's error page, undefined and {} if the answer came from elsewhere.
 */
class OrbitError extends Error {
  constructor({ status, statusText, headers, data }) {
    const answer = isObject(data) ? data : {};
    const reason = answer.reason ?? answer.error ?? statusText;
    const correlationId = headers["x-correlation-id"];
    super(`${status} ${answer.code ?? "no code"}: ${reason} [${correlationId ?? "no correlation id"}]`);
    this.name = new.target.name;
    this.status = status;
    this.code = answer.code;
    this.reason = reason;
    this.details = answer.details ?? {};
    this.correlationId = correlationId;
  }
}

/** Governance does not allow it; `reason` says why. */
class Denied extends OrbitError {}

class OrbitClient {
  /**
   * @param {string} url of Orbit, without a path
   * @param {object} [options]
   * @param {string} [options.region]
   * @param {object|Function} [options.credentials] `{accessKeyId, secretAccessKey, sessionToken}` or what gives them; by
   *   default those of the AWS chain (environment, profile, container, instance), which renews temporary ones
   * @param {number} [options.timeout] milliseconds; above Orbit's own, so that Orbit's 503 arrives
   */
  constructor(url, { region = "us-east-1", credentials = defaultProvider(), timeout = 70_000 } = {}) {
    this.url = new URL(url);
    this.timeout = timeout;
    this.signer = new SignatureV4({ service: "execute-api", region, credentials, sha256: Sha256 });
    this.http = axios.create({
      // A signature holds for one host and path.
      maxRedirects: 0,
      // Every answer is looked at here.
      validateStatus: () => true,
      // What was signed is sent: axios must not write the body once more.
      transformRequest: [(body) => body],
    });
  }

  /**
   * Asks Orbit to dispatch; gives the answer, or its text if Axon's answer is not JSON.
   *
   * @throws {Denied|OrbitError|axios.AxiosError} the last if no answer came
   */
  async dispatch(intent, context = {}, { correlationId } = {}) {
    const body = JSON.stringify({ intent, context });
    const headers = { "content-type": "application/json" };
    if (correlationId) headers["x-correlation-id"] = correlationId;
    const signed = await this.signer.sign({
      method: "POST",
      protocol: this.url.protocol,
      hostname: this.url.hostname,
      port: this.url.port ? Number(this.url.port) : undefined,
      path: "/dispatch",
      query: {},
      // With the port, unless it is the scheme's own: as it is sent.
      headers: { ...headers, host: this.url.host },
      body,
    });
    const response = await this.#send("POST", "/dispatch", signed.headers, body);
    if (response.status === 403 && response.data?.status === "denied") throw new Denied(response);
    if (response.status !== 200) throw new OrbitError(response);
    return response.data;
  }

  /** `{status: "healthy", …}`, or `"unhealthy"` with what is wrong in `checks`. Needs no signature. */
  async healthCheck() {
    const response = await this.#send("GET", "/health", {});
    if (![200, 503].includes(response.status) || !response.data?.status) throw new OrbitError(response);
    return response.data;
  }

  #send(method, path, headers, data) {
    // axios' own timeout does not cover connecting.
    const signal = AbortSignal.timeout(this.timeout);
    return this.http.request({ method, url: new URL(path, this.url).href, headers, data, signal });
  }
}

function isObject(value) {
  return typeof value === "object" && value !== null;
}

module.exports = { OrbitClient, OrbitError, Denied };

// Uses docs/clients/javascript as its readers would; see tests/clients/examples.rs.
//
//     NODE_PATH=…/node_modules node example.js ORBIT FAKE
"use strict";

const { Denied, OrbitClient, OrbitError } = require("../../../docs/clients/javascript");

async function tell(step, call) {
  let told;
  try {
    told = { answer: await call() };
  } catch (error) {
    if (!(error instanceof OrbitError)) throw error;
    const { status, code = null, reason, details, correlationId = null } = error;
    const denied = error instanceof Denied;
    told = { denied, status, code, reason, details, correlation_id: correlationId, text: error.message };
  }
  console.log(JSON.stringify({ step, ...told }));
}

async function main([orbitUrl, fakeUrl]) {
  const orbit = new OrbitClient(orbitUrl);
  const fake = new OrbitClient(fakeUrl);
  const wrong = { accessKeyId: "AKIDEXAMPLE", secretAccessKey: "wrong" };
  const stranger = new OrbitClient(orbitUrl, { credentials: wrong });
  const context = { user_id: "Zoë 日本" };
  await tell("healthy", () => orbit.healthCheck());
  await tell("dispatch", () => orbit.dispatch("call_reasoning", context, { correlationId: "from-example" }));
  await tell("denied", () => orbit.dispatch("forbidden"));
  await tell("refused", () => stranger.dispatch("call_reasoning"));
  await tell("unhealthy", () => fake.healthCheck());
  await tell("no answer of Orbit's", () => fake.dispatch("call_reasoning"));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(error);
  process.exit(1);
});

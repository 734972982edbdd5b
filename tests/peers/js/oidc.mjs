// A strict OAuth 2 and OpenID Connect server (oidc-provider) with what the tests need beside it:
// counts, faults on demand, and a resource that asks for a valid bearer token. Started by ../oidc.py.
import { randomBytes } from "node:crypto";
import { renameSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { pathToFileURL } from "node:url";

const { modules, portFile, clients, accessTokenTtl, refreshTokenTtl } = JSON.parse(process.env.JACKFIELD_OIDC);
const load = (path) => import(pathToFileURL(`${modules}/oidc-provider/lib/${path}`).href);
const { default: Provider } = await load("index.js");
const { default: MemoryAdapter } = await load("adapters/memory_adapter.js");

const settings = { accessTokenTtl, refreshTokenTtl };
let counts;
let faults;
const reset = () => {
  counts = { token: {}, success: {}, error: {}, revocation: 0, introspection: 0, authorization: 0, api: 0, denied: 0 };
  faults = {};
};
reset();
const bump = (group, key) => { group[key] = (group[key] ?? 0) + 1; };

// The library's own store forgets past a thousand entries, clients among them.
const store = new Map();
const adapter = (model) => new MemoryAdapter(model, store);
const register = (client) => adapter("Client").upsert(client.client_id, client);

const person = (id) => ({ sub: id, name: id, preferred_username: id, email: `${id}@example.com`, email_verified: true });

const configuration = {
  adapter,
  clockTolerance: 0,
  cookies: { keys: [randomBytes(16).toString("hex")] },
  scopes: ["openid", "offline_access", "profile", "email", "api:read", "api:write"],
  claims: { openid: ["sub"], profile: ["name", "preferred_username"], email: ["email", "email_verified"] },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  rotateRefreshToken: true,
  issueRefreshToken: async (_ctx, client) => client.grantTypeAllowed("refresh_token"),
  findAccount: async (_ctx, id) => ({ accountId: id, claims: async () => person(id) }),
  features: {
    devInteractions: { enabled: true },
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
  },
  ttl: {
    AccessToken: () => settings.accessTokenTtl,
    ClientCredentials: () => settings.accessTokenTtl,
    RefreshToken: () => settings.refreshTokenTtl,
    AuthorizationCode: 60,
    IdToken: 3600,
    Interaction: 3600,
    Session: 86400,
    Grant: 86400,
  },
};

const server = createServer();
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const provider = new Provider(`http://127.0.0.1:${server.address().port}`, configuration);
const serveProvider = provider.callback();
await Promise.all(clients.map(register));

provider.on("grant.success", (ctx) => bump(counts.success, ctx.oidc.params.grant_type));
provider.on("grant.error", (_ctx, error) => bump(counts.error, error.error));
provider.on("server_error", (_ctx, error) => console.error(error));

const read = async (request) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
};
const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const answer = (response, status, type, body, headers = {}) => {
  response.writeHead(status, { "content-type": type, "content-length": Buffer.byteLength(body), ...headers });
  response.end(body);
};
const json = (response, status, value, headers) => answer(response, status, "application/json", JSON.stringify(value), headers);

// Counted down when the fault was given a number of times.
const takeFault = (endpoint) => {
  const fault = faults[endpoint];
  if (fault?.times && --fault.times === 0) delete faults[endpoint];
  return fault;
};

// Whether the fault took the place of the real answer. "slow" only delays it; "lost" lets the server do its work
// and then drops the connection, which is how a rotated refresh token goes missing.
const misbehave = async (fault, response) => {
  switch (fault?.mode) {
    case "500": answer(response, 500, "text/plain", "broken"); return true;
    case "html": answer(response, 200, "text/html", "<html><body>Down for maintenance</body></html>"); return true;
    case "429": json(response, 429, { error: "slow_down" }, { "retry-after": "1" }); return true;
    case "slow": await sleep(fault.seconds); return false;
    case "lost": response.end = () => response.destroy(); return false;
    default: return false;
  }
};

const api = async (request, response) => {
  counts.api += 1;
  const value = /^Bearer (.+)$/i.exec(request.headers.authorization ?? "")?.[1] ?? "";
  const token = await provider.AccessToken.find(value) ?? await provider.ClientCredentials.find(value);
  if (!token || token.isExpired) {
    counts.denied += 1;
    json(response, 401, { error: "invalid_token" }, { "www-authenticate": 'Bearer error="invalid_token"' });
    return;
  }
  json(response, 200, { sub: token.accountId ?? token.clientId, scope: token.scope ?? "", client_id: token.clientId, counts });
};

const setFaults = (wanted) => {
  const { times = 0, seconds = 3, ...modes } = wanted;
  for (const [endpoint, mode] of Object.entries(modes)) {
    if (mode === null) delete faults[endpoint];
    else faults[endpoint] = { mode, times, seconds };
  }
};

const side = {
  "GET /_counts": (_body, response) => json(response, 200, counts),
  "POST /_reset": (_body, response) => { reset(); json(response, 200, counts); },
  "POST /_fault": (body, response) => { setFaults(body); json(response, 200, faults); },
  "POST /_settings": (body, response) => json(response, 200, Object.assign(settings, body)),
  "POST /_clients": async (body, response) => { await register(body); json(response, 201, body); },
};

const ENDPOINTS = { "/token": "token", "/token/revocation": "revocation", "/token/introspection": "introspection", "/auth": "authorization" };

server.on("request", async (request, response) => {
  const { pathname } = new URL(request.url, "http://peer");
  try {
    const handler = side[`${request.method} ${pathname}`];
    if (handler) return await handler(JSON.parse(await read(request) || "{}"), response);
    if (pathname === "/api/me") return await misbehave(takeFault("api"), response) || await api(request, response);
    const endpoint = ENDPOINTS[pathname];
    if (endpoint === "token") {
      request.body = await read(request);
      bump(counts.token, new URLSearchParams(request.body).get("grant_type") ?? "none");
    } else if (endpoint) {
      counts[endpoint] += 1;
    }
    if (endpoint && await misbehave(takeFault(endpoint), response)) return request.resume();
    return serveProvider(request, response);
  } catch (error) {
    console.error(error);
    return response.destroy();
  }
});

writeFileSync(`${portFile}.part`, String(server.address().port));
renameSync(`${portFile}.part`, portFile);

// A certified OpenID provider on 127.0.0.1:PORT, whose only signing key is new at each start and has the id KEY_ID.
//   node provider.mjs PORT KEY_ID AUDIENCE REDIRECT_URI

import { generateKeyPairSync } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(`${process.env.PACKAGES}/`);
const { default: Provider } = await import(require.resolve("oidc-provider"));
const [port, kid, audience, redirectUri] = process.argv.slice(2);
const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const alg = "ES256";

const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), kid, alg, use: "sig" }] },
  clients: [
    {
      client_id: "console", token_endpoint_auth_method: "none", redirect_uris: [redirectUri],
      grant_types: ["authorization_code"], response_types: ["code"], id_token_signed_response_alg: alg,
    },
    {
      client_id: "robot", client_secret: "robot's secret", redirect_uris: [], response_types: [],
      grant_types: ["client_credentials"], id_token_signed_response_alg: alg,
    },
  ],
  features: {
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => audience,
      getResourceServerInfo: () => ({
        scope: "api", audience, accessTokenFormat: "jwt", accessTokenTTL: 600, jwt: { sign: { alg } },
      }),
    },
  },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, groups: ["support"] }) }),
  claims: { openid: ["sub", "groups"] },
  conformIdTokenClaims: false,
  cookies: { keys: ["only for tests"] },
});
provider.listen(Number(port), "127.0.0.1", () => console.log("provider listens"));

import { lookup } from "node:dns";
import { request as requestHttp } from "node:http";
import { request as requestHttps } from "node:https";
import { isIP, type LookupFunction, type Socket } from "node:net";
import type { SecureContext } from "node:tls";
import { CastoreError, passWholeBodies } from "@castore/castore";
import type { buildConnector } from "undici";
import { type AddressScope, addressScope, isWithinReach, literalScope } from "./address-scope.ts";
import { undici } from "./lazy-modules.ts";
import { proxyAuthorization } from "./proxy-settings.ts";

/**
 * How long one address of several is tried before the next. Node gives an attempt up when its time
 * is over, so this must exceed a slow network's round trip.
 */
const ADDRESS_ATTEMPT_TIMEOUT_MS = 500;

export interface ConnectorOptions {
  readonly connectTimeoutMs: number;
  /** Called at the first https connection. */
  readonly tlsContext: () => SecureContext;
  /** The connection leads no nearer to this machine than this; undefined: anywhere. */
  readonly nearest: AddressScope | undefined;
  /** Told the scope of each address connected to, unless a proxy hides it. */
  readonly onConnected: (scope: AddressScope) => void;
  readonly proxy: URL | undefined;
  /** As dns.lookup. */
  readonly lookup: LookupFunction | undefined;
}

/**
 * Makes the connections of one pool: looks the name up, refuses addresses that `nearest` excludes
 * before a packet is sent to them, goes through the proxy where there is one (CONNECT for https;
 * for http the requests themselves go to the proxy). Behind a proxy only addresses and local names
 * that stand in the URL itself can be refused: the proxy does the lookup.
 */
export function createConnector(options: ConnectorOptions): buildConnector.connector {
  const { nearest, proxy } = options;
  const resolve = options.lookup ?? lookup;
  const connect = lazyConnector(options, lookupWithin(nearest, resolve));
  const connectProxy = lazyConnector(options, resolve);
  return (target, callback) => {
    const literal = literalScope(target.hostname);
    if (nearest !== undefined && literal !== undefined && !isWithinReach(literal, nearest)) {
      callback(outOfReach(target.hostname, nearest), null);
    } else if (proxy === undefined) {
      connect(target, (...[error, socket]) => {
        if (error !== null) return callback(error, null);
        const refusal = checkConnected(socket, options);
        if (refusal === undefined) return callback(null, socket);
        socket.destroy();
        return callback(refusal, null);
      });
    } else if (target.protocol === "https:") {
      openTunnel(proxy, target, options).then(
        (httpSocket) => connect({ ...target, httpSocket }, callback),
        (error: unknown) => callback(error instanceof Error ? error : new Error("proxy"), null),
      );
    } else {
      const { hostname, host, protocol, port } = proxy;
      connectProxy({ hostname: hostname.replace(/^\[|\]$/g, ""), host, protocol, port }, callback);
    }
  };
}

/** Reading the certificates takes 50 ms that an http cache must not pay for. */
function lazyConnector(
  { connectTimeoutMs, tlsContext }: ConnectorOptions,
  resolve: LookupFunction,
): buildConnector.connector {
  const plainOptions = {
    timeout: connectTimeoutMs,
    lookup: resolve,
    autoSelectFamily: true,
    autoSelectFamilyAttemptTimeout: ADDRESS_ATTEMPT_TIMEOUT_MS,
  };
  let plain: buildConnector.connector | undefined;
  let secure: buildConnector.connector | undefined;
  return (target, callback) => {
    try {
      if (target.protocol === "https:") {
        secure ??= passWholeBodies(
          undici().buildConnector({ ...plainOptions, secureContext: tlsContext() }),
        );
        secure(target, callback);
      } else {
        plain ??= passWholeBodies(undici().buildConnector(plainOptions));
        plain(target, callback);
      }
    } catch (error) {
      callback(error instanceof Error ? error : new Error("connect", { cause: error }), null);
    }
  };
}

function lookupWithin(nearest: AddressScope | undefined, resolve: LookupFunction): LookupFunction {
  if (nearest === undefined) return resolve;
  return (hostname, options, callback) => {
    resolve(hostname, { ...options, all: true }, (error, addresses) => {
      if (error !== null || typeof addresses === "string") return callback(error, addresses);
      const admitted = addresses.filter(({ address }) =>
        isWithinReach(addressScope(address), nearest),
      );
      const [first] = admitted;
      if (first === undefined) return callback(outOfReach(hostname, nearest), "");
      return options.all ? callback(null, admitted) : callback(null, first.address, first.family);
    });
  };
}

function checkConnected(socket: Socket, options: ConnectorOptions): CastoreError | undefined {
  const { remoteAddress } = socket;
  if (remoteAddress === undefined || isIP(remoteAddress.replace(/%.*$/, "")) === 0)
    return undefined;
  const scope = addressScope(remoteAddress);
  if (options.nearest !== undefined && !isWithinReach(scope, options.nearest)) {
    return outOfReach(remoteAddress, options.nearest);
  }
  options.onConnected(scope);
  return undefined;
}

function outOfReach(host: string, nearest: AddressScope): CastoreError {
  return new CastoreError(
    "DENIED",
    `${host}: a ${nearest} cache may not lead to an address nearer than that`,
  );
}

function openTunnel(
  proxy: URL,
  target: buildConnector.Options,
  { connectTimeoutMs, tlsContext }: ConnectorOptions,
): Promise<Socket> {
  const host = isIP(target.hostname) === 6 ? `[${target.hostname}]` : target.hostname;
  const authority = `${host}:${target.port || "443"}`;
  const authorization = proxyAuthorization(proxy);
  const request = proxy.protocol === "https:" ? requestHttps : requestHttp;
  return new Promise((resolve, reject) => {
    const fail = (reason: string, cause?: unknown) =>
      reject(new CastoreError("UNAVAILABLE", `proxy ${proxy.host}: ${reason}`, { cause }));
    const connect = request({
      host: proxy.hostname.replace(/^\[|\]$/g, ""),
      port: proxy.port || (proxy.protocol === "https:" ? 443 : 80),
      method: "CONNECT",
      path: authority,
      headers: {
        host: authority,
        ...(authorization === undefined ? {} : { "proxy-authorization": authorization }),
      },
      agent: false,
      ...(proxy.protocol === "https:" ? { secureContext: tlsContext() } : {}),
    });
    const timer = setTimeout(() => connect.destroy(new Error("timed out")), connectTimeoutMs);
    connect.once("close", () => clearTimeout(timer));
    connect.once("connect", (response, socket) => {
      clearTimeout(timer);
      if (response.statusCode === 200) return resolve(socket);
      socket.destroy();
      return fail(`CONNECT ${authority} answered ${response.statusCode}`);
    });
    connect.once("response", (response) => {
      response.destroy();
      fail(`CONNECT ${authority} answered ${response.statusCode}`);
    });
    connect.once("error", (cause) => fail(`CONNECT ${authority}: ${cause.message}`, cause));
    connect.end();
  });
}

import { once } from "node:events";
import { bytesField, uintField, WireFields } from "../model/wire-fields.ts";
import { type GrpcService, sendingMethod, unaryMethod } from "./grpc-handler.ts";
import type { GrpcMethod, MessageCodec } from "./grpc-method.ts";
import { GrpcStatusError } from "./grpc-status.ts";
import { grpcStatus as status } from "./grpc-status-codes.ts";

const SERVICE_NAME = "grpc.health.v1.Health";

/** The states of a service, as the protocol numbers them. */
export const SERVING_STATUS = { SERVING: 1, NOT_SERVING: 2, SERVICE_UNKNOWN: 3 } as const;

const request: MessageCodec<string> = {
  encode: (service) => bytesField(1, Buffer.from(service, "utf8")),
  decode(bytes) {
    const fields = new WireFields(bytes, "HealthCheckRequest");
    let service = "";
    for (let field = fields.next(); field !== 0; field = fields.next()) {
      if (field === 1) service = Buffer.from(fields.bytes()).toString("utf8");
      else fields.skip();
    }
    return service;
  },
};

const response: MessageCodec<number> = {
  encode: (value) => uintField(1, value),
  decode(bytes) {
    const fields = new WireFields(bytes, "HealthCheckResponse");
    let value = 0;
    for (let field = fields.next(); field !== 0; field = fields.next()) {
      if (field === 1) value = fields.uint();
      else fields.skip();
    }
    return value;
  },
};

export const healthCheckMethod: GrpcMethod<string, number> = {
  path: `/${SERVICE_NAME}/Check`,
  request,
  response,
};

export const healthWatchMethod: GrpcMethod<string, number> = {
  path: `/${SERVICE_NAME}/Watch`,
  request,
  response,
};

/** Says that each of `names`, and the server as a whole (""), is serving until `closing` aborts. */
export function createHealthGrpcService(
  names: readonly string[],
  closing: AbortSignal,
): GrpcService {
  const known = new Set(["", SERVICE_NAME, ...names]);
  const state = (): number =>
    closing.aborted ? SERVING_STATUS.NOT_SERVING : SERVING_STATUS.SERVING;
  return {
    name: SERVICE_NAME,
    methods: [
      unaryMethod(healthCheckMethod, async (service) => {
        if (known.has(service)) return state();
        throw new GrpcStatusError(status.NOT_FOUND, `service ${JSON.stringify(service)} not found`);
      }),
      sendingMethod(healthWatchMethod, async function* (service, { signal }) {
        if (!known.has(service)) {
          yield SERVING_STATUS.SERVICE_UNKNOWN;
          await once(closing, "abort", { signal });
          return;
        }
        yield state();
        if (closing.aborted) return;
        await once(closing, "abort", { signal });
        yield state();
      }),
    ],
  };
}

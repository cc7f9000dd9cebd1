import { CastoreError } from "../castore-error.ts";
import { breadthFirst, completeClosure } from "../model/closure-order.ts";
import { type Digest, digestBytes } from "../model/digest.ts";
import type { Directory } from "../model/directory.ts";
import { encodedDirectoryOf } from "../model/directory-closure.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import type { CallOptions } from "../streams/byte-source.ts";
import type { GrpcChannel } from "./grpc-channel.ts";
import { directoryGetMethod, directoryPutMethod } from "./grpc-directory-methods.ts";
import { isGrpcNotFound } from "./grpc-status.ts";

/**
 * The directories of a server of snix.castore.v1.DirectoryService. All is verified here. What a
 * closure refers to and the server has, but the caller did not give, is fetched and sent again,
 * as snix takes a closure only whole. The channel stays the caller's.
 */
export function createGrpcDirectoryService(channel: GrpcChannel): DirectoryService {
  return {
    get: (digest, options) => get(channel, digest, options),
    getClosure: (root, options) => getClosure(channel, root, options),
    async putClosure(directories, options = {}) {
      const want: { root?: Digest } = {};
      const stream = async function* (): AsyncGenerator<Directory, void, undefined> {
        const stored = (digest: Digest) => getClosure(channel, digest, options);
        want.root = yield* completeClosure(stored, directories, options);
      };
      const answer = await channel.send(directoryPutMethod, stream(), options);
      if (answer !== want.root) {
        const message = `${channel.target}: stored root ${answer}, want ${want.root}`;
        throw new CastoreError("CORRUPT", message);
      }
      return answer;
    },
  };
}

async function get(
  channel: GrpcChannel,
  digest: Digest,
  options?: CallOptions,
): Promise<Directory | undefined> {
  const request = { digest: digestBytes(digest), recursive: false };
  try {
    for await (const directory of channel.receive(directoryGetMethod, request, options)) {
      const got = encodedDirectoryOf(directory).digest;
      if (got === digest) return directory;
      throw new CastoreError("CORRUPT", `directory ${digest}: has digest ${got}`);
    }
  } catch (error) {
    if (!isGrpcNotFound(error)) throw error;
  }
  return undefined;
}

function getClosure(
  channel: GrpcChannel,
  root: Digest,
  options?: CallOptions,
): AsyncIterable<Directory> {
  const request = { digest: digestBytes(root), recursive: true };
  return breadthFirst(root, channel.receive(directoryGetMethod, request, options));
}

import { CastoreError } from "../castore-error.ts";
import { formatDigestText } from "../model/digest.ts";
import type { Directory } from "../model/directory.ts";
import type { DirectoryService } from "../services/directory-service.ts";
import { requestedDigest } from "./grpc-blob-handlers.ts";
import {
  DIRECTORY_SERVICE_NAME,
  directoryGetMethod,
  directoryPutMethod,
} from "./grpc-directory-methods.ts";
import { type GrpcService, receivingMethod, sendingMethod } from "./grpc-handler.ts";
import { GrpcStatusError } from "./grpc-status.ts";
import { grpcStatus as status } from "./grpc-status-codes.ts";

/** Offers `directories` as snix.castore.v1.DirectoryService. */
export function createDirectoryGrpcService(directories: DirectoryService): GrpcService {
  return {
    name: DIRECTORY_SERVICE_NAME,
    methods: [
      sendingMethod(directoryGetMethod, async function* (request, { signal }) {
        if (request.digest === undefined) {
          throw new GrpcStatusError(status.INVALID_ARGUMENT, "invalid by_what");
        }
        const digest = requestedDigest(request.digest);
        try {
          if (request.recursive) {
            yield* directories.getClosure(digest, { signal });
            return;
          }
          const directory = await directories.get(digest, { signal });
          if (directory !== undefined) {
            yield directory;
            return;
          }
        } catch (error) {
          throw internal(error);
        }
        const message = `directory ${formatDigestText(digest)} not found`;
        throw new GrpcStatusError(status.NOT_FOUND, message);
      }),
      receivingMethod(directoryPutMethod, async (messages, { signal }) => {
        let empty = true;
        const counted = async function* (): AsyncGenerator<Directory, void, undefined> {
          for await (const directory of messages) {
            empty = false;
            yield directory;
          }
        };
        try {
          return await directories.putClosure(counted(), { signal });
        } catch (error) {
          if (!empty || signal.aborted) throw internal(error);
          throw new GrpcStatusError(status.INTERNAL, "no directories received", { cause: error });
        }
      }),
    ],
  };
}

/** snix answers INTERNAL for all that a directory service rejects with. */
function internal(error: unknown): unknown {
  if (!(error instanceof CastoreError)) return error;
  return new GrpcStatusError(status.INTERNAL, error.message, { cause: error });
}

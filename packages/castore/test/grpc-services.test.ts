import { createBlobGrpcService } from "../src/grpc-blob-handlers.ts";
import { createGrpcBlobService } from "../src/grpc-blob-service.ts";
import { createDirectoryGrpcService } from "../src/grpc-directory-handlers.ts";
import { createGrpcDirectoryService } from "../src/grpc-directory-service.ts";
import { createMemoryBlobService } from "../src/memory-blob-service.ts";
import { createMemoryDirectoryService } from "../src/memory-directory-service.ts";
import { describeBlobService } from "./blob-service-suite.ts";
import { describeDirectoryService } from "./directory-service-suite.ts";
import { openGrpcPair } from "./grpc-fixture.ts";

for (const transport of ["tcp", "unix"] as const) {
  describeBlobService(`gRPC over ${transport}`, async () => {
    const blobs = createMemoryBlobService();
    const { channel, close } = await openGrpcPair([createBlobGrpcService(blobs)], transport);
    return { service: createGrpcBlobService(channel), close };
  });

  describeDirectoryService(`gRPC over ${transport}`, async () => {
    const directories = createMemoryDirectoryService();
    const services = [createDirectoryGrpcService(directories)];
    const { channel, close } = await openGrpcPair(services, transport);
    return { service: createGrpcDirectoryService(channel), close };
  });
}

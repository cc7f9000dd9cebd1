import { createMemoryPathInfoService } from "../src/path-infos/path-info-service.ts";
import { describePathInfoService } from "./path-info-service-suite.ts";

describePathInfoService("memory", async () => ({
  service: createMemoryPathInfoService(),
  close: async () => {},
}));

import { Command } from "commander";
import { mountCommand } from "../mount-command.ts";
import { runProgram } from "../run-program.ts";

// The castore command of a machine: it mounts, and can do nothing else. netboot/bundle.js makes one
// file of it and of all that it imports.
const program = async () => new Command("castore").addCommand(mountCommand());
void runProgram(process.argv, program).then((code) => {
  process.exitCode = code;
});

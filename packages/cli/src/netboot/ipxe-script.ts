export interface IpxeScriptOptions {
  /** What the kernel is told beside what the init needs. */
  readonly commandLine: string;
  /** Where kernel and initrd lie, for a script that may come from elsewhere. */
  readonly base?: string | undefined;
  /** Of `castore netboot serve`; without it a machine has no configuration but its initrd's. */
  readonly server?: string | undefined;
}

/** What every kernel is told: the network keeps the name under which the initrd brought it up. */
export const KERNEL_WORDS = ["net.ifnames=0"];

/** Loads kernel and initrd from beside the script, and boots them; tries again for ever. */
export function formatIpxeScript({ commandLine, base = "", server }: IpxeScriptOptions): string {
  const words = ["initrd=initrd", ...KERNEL_WORDS, `castore.machine=\${net0/mac}`];
  if (server !== undefined) words.push(`castore.server=${server}`);
  if (commandLine !== "") words.push(commandLine);
  return `#!ipxe
isset \${net0/ip} || dhcp net0
:load
kernel ${base}kernel ${words.join(" ")} || goto failed
initrd --name initrd ${base}initrd || goto failed
boot || goto failed
:failed
echo castore: kernel or initrd cannot be loaded; again in 5 seconds
sleep 5
goto load
`;
}

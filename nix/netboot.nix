# A NixOS configuration for machines that boot by castore netboot (docs/netboot.md): leaves to the
# initrd what the initrd has done already. Import it, and build config.system.build.toplevel.
{ config, lib, pkgs, ... }:
let
  cfg = config.castore.netboot;
in
{
  options.castore.netboot = {
    enable = lib.mkEnableOption "booting from an initrd of castore netboot build";
    interfaces = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ "eth*" ];
      description = "Network interfaces over which the store comes: nobody else may touch them.";
    };
  };

  config = lib.mkIf cfg.enable {
    # Stage 1 is castore's; there is no disk to boot from.
    boot.initrd.enable = false;
    boot.loader.grub.enable = false;

    # Both are there when the system starts. Named, so that NixOS does not miss them.
    fileSystems."/" = {
      device = "root";
      fsType = "tmpfs";
      options = [ "mode=755" ];
    };
    fileSystems."/nix/store" = {
      device = "store";
      fsType = "overlay";
      options = [ "nofail" "noauto" ];
    };

    # NetworkManager and networkd read what the initrd left in /run.
    networking.dhcpcd.denyInterfaces = cfg.interfaces;
    networking.usePredictableInterfaceNames = false;
    environment.etc."resolv.conf".source = lib.mkDefault "/run/castore/resolv.conf";

    # The initrd has loaded the registration, where it could run this system's Nix.
    boot.postBootCommands = ''
      if [ -e /run/castore/registration ]; then
        ${config.nix.package}/bin/nix-store --load-db < /run/castore/registration
        ${config.nix.package}/bin/nix-env --profile /nix/var/nix/profiles/system \
          --set /run/current-system
      fi
    '';
  };
}

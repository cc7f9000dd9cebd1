# A system for a machine in the tests: each Debian package is a store path, and a system path says
# what lies where. Its init runs machine-init.sh with busybox.
# `debs` names directories of PACKAGE.deb; `ballast` bytes of noise that nothing reads at boot.
{ debs, ballast ? "0" }:
let
  build = name: attrs: script: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    LC_ALL = "C";
    args = [ "-euc" "${script}\n:" ];
  } // attrs);
  directories = builtins.filter builtins.isString (builtins.split " " debs);
  unpack = deb: build (builtins.replaceStrings [ ".deb" ] [ "" ] (baseNameOf deb))
    { deb = builtins.path { path = deb; name = baseNameOf deb; }; }
    ''
      mkdir $out
      dpkg-deb --fsys-tarfile $deb | tar -x -C $out --no-same-owner
    '';
  unpackAll = directory: map (name: unpack (directory + "/${name}"))
    (builtins.attrNames (builtins.readDir directory));
  packages = builtins.concatMap unpackAll directories;
in
rec {
  noise = build "noise" { inherit ballast; } ''
    mkdir $out
    head -c $ballast /dev/zero | openssl enc -aes-128-ctr -nosalt -pbkdf2 -k noise > $out/noise
  '';

  # Links to the files of all packages: a program finds what it loads by the usual names.
  system = build "machine-system" { inherit packages noise; start = ./machine-init.sh; } ''
    mkdir -p $out/etc
    for package in $packages; do
      for top in bin etc lib lib64 sbin usr; do
        [ ! -d $package/$top ] || cp -rs --no-preserve=mode $package/$top $out/
      done
    done
    busybox=$(echo $packages | tr ' ' '\n' | grep busybox)/bin/busybox
    { echo "#!$busybox sh"; echo "busybox=$busybox system=$out"; cat $start; } > $out/init
    chmod +x $out/init
    echo root:x:0:0:root:/:/bin/sh > $out/etc/passwd
    echo systemd-network:x:998:998::/:/bin/false >> $out/etc/passwd
    echo dhcpcd:x:997:997::/:/bin/false >> $out/etc/passwd
    # A Nix that runs before its system does, as in a real one: it finds its libraries by itself.
    if [ -e $out/usr/bin/nix-store ]; then
      mkdir -p $out/sw/bin
      lib=lib/x86_64-linux-gnu
      { echo "#!$busybox sh"
        echo "exec $out/$lib/ld-linux-x86-64.so.2 --argv0 nix-store \\"
        echo "  --library-path $out/usr/lib/nix:$out/usr/$lib:$out/$lib $out/usr/bin/nix \"\$@\""
      } > $out/sw/bin/nix-store
      chmod +x $out/sw/bin/nix-store
    fi
    echo $noise > $out/etc/noise
  '';
}

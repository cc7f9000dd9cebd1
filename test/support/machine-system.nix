# A system for a machine in the tests: each Debian package is a store path, and a system path says
# what lies where. Its init runs machine-init.sh with busybox.
# `debs` is a directory of PACKAGE.deb; `ballast` bytes of noise that nothing reads at boot.
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
  names = builtins.filter (n: builtins.match ".*\\.deb" n != null)
    (builtins.attrNames (builtins.readDir debs));
  unpack = name: build (builtins.replaceStrings [ ".deb" ] [ "" ] name)
    { deb = builtins.path { path = debs + "/${name}"; inherit name; }; }
    ''
      mkdir $out
      dpkg-deb --fsys-tarfile $deb | tar -x -C $out --no-same-owner
    '';
  packages = map unpack names;
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
      for top in bin lib lib64 usr; do
        [ ! -d $package/$top ] || cp -rs --no-preserve=mode $package/$top $out/
      done
    done
    busybox=$(echo $packages | tr ' ' '\n' | grep busybox)/bin/busybox
    { echo "#!$busybox sh"; echo "busybox=$busybox system=$out"; cat $start; } > $out/init
    chmod +x $out/init
    echo root:x:0:0:root:/:/bin/sh > $out/etc/passwd
    echo $noise > $out/etc/noise
  '';
}

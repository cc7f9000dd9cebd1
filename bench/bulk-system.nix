# The machine of the tests with a closure as large as one likes: `shares` further store paths of
# `shareBytes` each, made of files that this machine has below /usr. Nothing reads them at boot.
{ debs, shares, shareBytes }:
let
  machine = (import ../test/support/machine-system.nix { inherit debs; }).system;
  build = name: attrs: script: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    LC_ALL = "C";
    args = [ "-euc" "${script}\n:" ];
  } // attrs);
  # By chance, but the same every time.
  share = index: build "share-${index}" { inherit index shareBytes; } ''
    mkdir $out
    cd /usr
    find bin lib share -type f -size -64M -printf '%s %p\n' | sort -k 2 |
      shuf --random-source=/bin/busybox |
      busybox awk -v from=$((index * shareBytes)) -v bytes=$shareBytes '{
        at = sum
        sum += $1
        if (at >= from && at < from + bytes) { sub(/^[0-9]+ /, ""); print }
      }' |
      tar -c -T - | tar -x --no-same-owner -C $out
    [ -n "$(ls $out)" ]
  '';
in
{
  system = build "bulk-system"
    {
      inherit machine;
      shares = map share (builtins.genList toString (builtins.fromJSON shares));
    } ''
    mkdir $out
    ln -s $machine/init $out/init
    echo $shares > $out/shares
  '';
}

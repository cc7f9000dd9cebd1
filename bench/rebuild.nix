# Packages that refer to one another. Another `salt` changes the names of all, and no byte but where
# they name each other: what a new compiler flag at the bottom of nixpkgs does to everything above.
{ salt, sources }:
let
  inherit (builtins) filter foldl' isString split storePath substring stringLength;
  run = name: attrs: script: derivation ({
    inherit name salt;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    LC_ALL = "C";
    args = [ "-euc" "${script}\n:" ];
  } // attrs);
  seed = run "seed" { } "echo seed > $out";
  nameOf = path: "rebuilt-${substring 44 (stringLength path) path}";
  # Every tenth file names the path and what it is built with at its end, as scripts do; programs
  # above 1 MB do it at three places, as run paths do.
  rebuild = earlier: source: earlier ++ [
    (run (nameOf source) { src = storePath source; inherit seed earlier; } ''
      cp -R $src $out
      chmod -R u+w $out
      number=0
      find $out -type f | sort | while read -r file; do
        number=$((number + 1))
        [ $((number % 10)) != 0 ] || printf '\n# %s\n' $out $seed $earlier >> "$file"
        size=$(stat -c %s "$file")
        [ $size -gt 1000000 ] || continue
        for at in 4096 $((size / 3)) $((size / 2)); do
          printf '%s/lib:' $seed $earlier $out | dd of="$file" bs=512 seek=$((at / 512)) conv=notrunc 2> /dev/null
        done
      done
    '')
  ];
in
run "environment" {
  paths = foldl' rebuild [ ] (filter isString (split " " sources));
} "for path in $paths; do echo $path >> $out; done"

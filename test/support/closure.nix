# A small closure with everything that a store path may hold. Deterministic: two builds anywhere are
# equal bytes. `version` 2 changes little in `data`, `lib` and `app`; `many` gets a new name only;
# what refers to `lib` follows its name; the rest stays.
# A builder never ends in an exec'ed program: Nix 2.8 would kill it.
{ version ? "1", bigBytes ? "104857600" }:
let
  build = name: attrs: script: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    LC_ALL = "C";
    args = [ "-euc" ''
      random() {
        head -c "$2" /dev/zero | openssl enc -aes-128-ctr -nosalt -iv 00000000000000000000000000000000 \
          -K "$(printf %032d "$1")"
      }
      ${script}
      :
    '' ];
  } // attrs);
in
rec {
  # Half noise, half text; version 2 inserts 16 bytes and replaces 5.
  data = build "data" { inherit version bigBytes; } ''
    half=$((bigBytes / 2))
    mkdir -p $out/share/data
    {
      random 1 $((half / 2))
      [ $version = 1 ] || printf 'sixteen bytes in'
      random 2 $((half - half / 2))
      seq 1 100000000 2>/dev/null | head -c $half | if [ $version = 1 ]; then cat; else sed s/^77777$/seven/; fi
    } > $out/share/data/big
    random 3 300000 > $out/share/data/middle
    echo "data $version" > $out/share/data/version
  '';

  lib = build "lib" { inherit version; } ''
    mkdir -p $out/lib/empty/inner $out/include
    random 4 900000 > $out/lib/libfoo.so.1.0
    chmod +x $out/lib/libfoo.so.1.0
    ln -s libfoo.so.1.0 $out/lib/libfoo.so
    ln -s $out/lib/libfoo.so $out/include/absolute
    ln -s ../nowhere/at/all $out/include/dangling
    : > $out/lib/empty-file
    echo "lib $version" > $out/include/foo.h
  '';

  # Equal contents in both versions but for the references in the middle of a large file.
  relinked = build "relinked" { inherit lib; } ''
    mkdir $out
    { random 5 700000; echo "$lib/lib/libfoo.so"; random 6 700000; echo "$out"; } > $out/linked
  '';

  odd = build "odd-1.0+b?=x" { } ''
    mkdir -p "$out/with space" $out/-dash $out/Case $out/case $out/.hidden
    for name in a a.b a-b a~ ab A '#' '%41' '?q' '*' "quo'te" 'quo"te' 'back\slash' '~' 'a:b'; do
      echo "$name" > "$out/$name"
    done
    echo tab > "$(printf '%s/tab\there' $out)"
    echo line > "$(printf '%s/new\nline' $out)"
    echo nfc > "$(printf '%s/\303\251' $out)"
    echo nfd > "$(printf '%s/e\314\201' $out)"
    echo bytes > "$(printf '%s/\377\001\200' $out)"
    echo long > "$out/$(printf %0255d 0)"
    ln -s "$(printf '\377 \n target')" "$out/with space/link"
    ln -s "$(printf %04095d 0)" $out/long-link
    chmod +x "$out/with space"/../a.b
  '';

  file = build "file.conf" { inherit lib; } ''
    echo "lib = $lib" > $out
  '';

  program = build "program" { } ''
    printf '#!/bin/sh\necho program\n' > $out
    chmod +x $out
  '';

  link = build "link" { inherit lib; } ''
    ln -s $lib/lib $out
  '';

  empty = build "empty" { } ''
    mkdir $out
  '';

  text = builtins.toFile "text" "a text path: named by its contents, valid without a signature\n";

  many = build "many" { inherit version; } ''
    mkdir $out
    for i in $(seq 1 300); do
      d=$out/d$((i % 10))
      mkdir -p $d
      echo "file number $i" > $d/f$i
    done
  '';

  app = build "app" { inherit version data lib relinked odd file program link empty text many; } ''
    mkdir -p $out/bin
    printf '#!/bin/sh\n# %s\nexec cat %s/share/version\n' "$lib" "$out" > $out/bin/app
    chmod +x $out/bin/app
    mkdir $out/share
    echo "app $version" > $out/share/version
    for path in $data $lib $relinked $odd $file $program $link $empty $text $many; do
      echo $path >> $out/share/inputs
    done
    echo "a line in the build log"
  '';
}

# PID 1 of a machine in the tests: binds the system over the root, and answers HTTP on port 8000.
for it in usr bin sbin lib lib64 etc; do
  [ -d $system/$it ] || continue
  $busybox mkdir -p /$it
  $busybox mount -o bind $system/$it /$it
done
$busybox mkdir -p /tmp /srv
# Applets stand before all else, so that commands are short.
$busybox mkdir -p /applets
$busybox --install -s /applets
export PATH=/applets:/usr/bin:/bin PYTHONHOME=/usr
cd /srv
$busybox ln -s /run/castore /srv/castore
echo "machine: starts python"
python3.11 -m http.server 8000 >/dev/null 2>&1 &

# usage: stop FILE   as systemd switches a machine off: who begins with "@" keeps the root mounted.
# FILE is read when all others are killed.
cat >/applets/stop <<'EOF'
#!/applets/sh
for it in /proc/[0-9]*; do
  pid=${it##*/}
  first=$(head -c 1 $it/cmdline 2>/dev/null)
  [ $pid = 1 ] || [ $pid = $$ ] || [ -z "$first" ] || [ "$first" = @ ] || kill -9 $pid
done
sha256sum <"$1"
poweroff -f
EOF
chmod +x /applets/stop

# What is typed at the console is run.
while :; do
  read -r line || sleep 1
  sh -c "$line"
done

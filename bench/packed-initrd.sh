#!/bin/busybox sh
# Of an initrd that holds a whole system: the network, and the system's own init.
/bin/busybox mkdir -p /proc /sys /dev /run
/bin/busybox mount -t proc proc /proc
export PATH=/bin
/bin/busybox --install -s /bin
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
exec </dev/console >/dev/console 2>&1
for module in failover net_failover virtio_net; do insmod /modules/$module.ko; done
ip link set lo up
ip link set eth0 up
udhcpc -i eth0 -s /dhcp -n -q
exec "$(cat /system)/init"

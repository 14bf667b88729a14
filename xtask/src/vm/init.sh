#!/bin/busybox sh
# The first process, in the initial root: finds the host's file system and goes there.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
share=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o "$share,ro,cache=loose" root /lower
$b mount -t tmpfs -o size=2g tmp /upper
$b mkdir /upper/changes /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work overlay /root
# Nothing of what runs on the host: no socket, no process id.
$b mount -t tmpfs run /root/run
$b mkdir -p /root/run/vm /root/lib/modules
$b mount -t 9p -o "$share" run /root/run/vm
$b ln -sfn "$($b cat /modules/directory)" "/root/lib/modules/$($b uname -r)"
for directory in proc sys dev; do $b mount --move "/$directory" "/root/$directory"; done
exec $b switch_root /root /bin/sh /run/vm/guest.sh

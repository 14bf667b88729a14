# The guest's first process on the host's file system (read-only below, changes are kept in
# memory): the rest of the mounts, the command, its exit status, the end.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
ip link set lo up
# The first clsact patches the kernel's receive path.
# Under emulation a CPU may go on executing the breakpoint that patching puts there, for good: better
# now, before there is any traffic.
tc qdisc add dev lo clsact
hostname vipshield-vm
# In the first 10 s after boot Open vSwitch counts no processors, and an ovs-vswitchd that has a bridge
# by then sets up no flows.
until [ "$(cut -d. -f1 /proc/uptime)" -ge 11 ]; do sleep 1; done
sh /run/vm/command.sh < /dev/null > /dev/hvc0 2>&1
echo $? > /run/vm/status
sync
exec busybox poweroff -f

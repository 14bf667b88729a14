# The eBPF programs ($1 is their test, $2 vipshield) where the kernel gives less than it could.
status=0

echo 'without a description of the kernel'"'"'s types:'
mount -t tmpfs none /sys/kernel/btf
for case in 'a removed address is withheld' 'tasks are reported'; do
  "$1" --color never "$case" || status=1
done
umount /sys/kernel/btf

# Before Linux 5.11 that is too little, and then it has to be said.
echo 'with 64 KiB to lock in memory, and no leave to ask for more:'
said=$(ulimit -l 64; setpriv --bounding-set=-sys_resource "$2" check -o json)
case $said in
  *"takes vipshield's programs"*) echo 'it is enough' ;;
  *LimitMEMLOCK=infinity*) echo 'it is not enough, and vipshield says so' ;;
  *) echo "$said"; status=1 ;;
esac
exit $status

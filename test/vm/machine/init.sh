#!/bin/busybox sh
# First program of the guest. It ends in the guest agent, with the host's file system as root and a tmpfs over it, so
# that every program of the host is there and nothing that is written reaches the host.
PATH=/bin

die() {
	echo "rds-csi-vm: $*"
	busybox poweroff -f
}

busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys

for module in /modules/*; do
	# A module may have nothing to do here (an accelerated checksum on a processor without it). What is really
	# missing shows at the first mount that needs it.
	busybox insmod "$module" || echo "rds-csi-vm: $module not loaded"
done

busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,msize=524288,cache=loose host /host ||
	die "the host's file system cannot be mounted"
busybox mount -t tmpfs -o size=75%,mode=755 overlay /overlay || die "no tmpfs"
busybox mkdir /overlay/upper /overlay/work
busybox mount -t overlay -o lowerdir=/host,upperdir=/overlay/upper,workdir=/overlay/work overlay /root ||
	die "no overlay"

read -r guest </guest
for mount in dev proc sys; do
	busybox mount --move "/$mount" "/root/$mount" || die "/$mount does not move"
done
exec busybox switch_root /root "$guest" rds-csi-vm-init

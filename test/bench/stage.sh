# What NodeStageVolume does to the kernel, typed by hand: connect, wait for the disk, map it, prove that it is blank,
# format it, mount it. With NVME_CLI set the connection is made by nvme-cli; with RECKLESS set nobody looks at what is on
# the disk. NQN, ADDRESS, PORT, HOSTNQN, HOSTID, NAME (of the mapping) and POINT come in the environment.
set -eu

if [ -n "${NVME_CLI:-}" ]; then
	nvme connect -t tcp -a "$ADDRESS" -s "$PORT" -n "$NQN" --hostnqn="$HOSTNQN" --hostid="$HOSTID" \
		--ctrl-loss-tmo=-1 --reconnect-delay=2 >/dev/null
else
	printf 'transport=tcp,traddr=%s,trsvcid=%s,nqn=%s,hostnqn=%s,hostid=%s,ctrl_loss_tmo=-1,reconnect_delay=2' \
		"$ADDRESS" "$PORT" "$NQN" "$HOSTNQN" "$HOSTID" >/dev/nvme-fabrics
fi

disk=
while [ -z "$disk" ]; do
	for subsystem in /sys/class/nvme-subsystem/*; do
		read -r is <"$subsystem/subsysnqn" || continue
		[ "$is" = "$NQN" ] || continue
		for namespace in "$subsystem"/nvme*n*; do
			[ -e "/sys/block/${namespace##*/}/size" ] && disk=${namespace##*/}
		done
	done
	[ -n "$disk" ] || sleep 0.05
done

read -r sectors <"/sys/block/$disk/size"
read -r number <"/sys/block/$disk/dev"
dmsetup create "$NAME" --noudevsync --table \
	"0 $sectors multipath 3 queue_if_no_path queue_mode bio 0 1 1 round-robin 0 1 1 $number 1"
for mapping in /sys/block/dm-*; do
	read -r is <"$mapping/dm/name"
	[ "$is" = "$NAME" ] && device=/dev/${mapping##*/}
done

if [ -z "${RECKLESS:-}" ]; then
	for mib in 0 $((sectors / 2048 - 1)); do
		dd if="$device" bs=1M skip="$mib" count=1 iflag=direct status=none | cmp -s -n 1048576 - /dev/zero
	done
	found=0
	blkid -p "$device" || found=$?
	[ "$found" -eq 2 ] # nothing
fi
mkfs.ext4 -q -F -b 4096 -m 0 -E nodiscard,lazy_itable_init=1 "$device"
mount -t ext4 "$device" "$POINT"

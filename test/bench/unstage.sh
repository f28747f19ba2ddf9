# What NodeUnstageVolume does to the kernel, typed by hand: unmount, remove the mapping, disconnect, and wait until the
# controller is gone. With NVME_CLI set nvme-cli disconnects.
set -eu

umount "$POINT"
dmsetup remove --noudevsync "$NAME"
if [ -n "${NVME_CLI:-}" ]; then
	nvme disconnect -n "$NQN" >/dev/null
	exit
fi

for controller in /sys/class/nvme/*; do
	read -r is <"$controller/subsysnqn" || continue
	[ "$is" = "$NQN" ] || continue
	echo 1 >"$controller/delete_controller"
	while [ -e "$controller/subsysnqn" ]; do sleep 0.05; done
done

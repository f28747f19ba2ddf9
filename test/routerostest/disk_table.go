package routerostest

import (
	"fmt"
	"strings"
)

// diskTable lists properties in the order of the captures in facts/routeros.md, 2.1.
var diskTable = &table{
	name: "slot",
	props: props(`type:bare slot slot-default parent fs-label fs-uuid fs:bare model serial interface size:spaced
 free:spaced total-inodes:spaced free-inodes:spaced use:bare mount-point mount-filesystem:yesno@7.17
 mount-read-only:yesno@7.17 compress:yesno@7.18 sector-size:bare raid-type:bare raid-device-count:bare raid-max-component-size:bare
 raid-chunk-size:bare raid-master:bare raid-role:bare raid-member-failed:yesno raid-member-state state raid-uuid
 nvme-tcp-export:yesno! nvme-tcp-server-port:bare! nvme-tcp-server-nqn@7.21! nvme-tcp-server-allow-host-name!
 iscsi-export:yesno! nfs-sharing:yesno smb-sharing:yesno media-sharing:yesno media-interface:bare swap:yesno@7.17
 file-path:bare@7.17 file-size:sized@7.17 file-offset:bare@7.17
 comment:hidden mount-point-template:hidden@7.17 disabled:flag block-device:flag mounted:flag formatting:flag
 raid-member:flag`),
	brief: []string{"slot", "model", "serial", "interface", "size", "free", "fs"},
	flags: []flag{
		{"X", "disabled"},
		{"B", "block-device"},
		{"M", "mounted"},
		{"F", "formatting"},
		{"r", "raid-member"},
		{"t", "nvme-tcp-export"},
		{"i", "iscsi-export"},
		{"s", "smb-sharing"},
		{"n", "nfs-sharing"},
		{"m", "media-sharing"},
	},
	rows: func(b *Box, wanted selection) []*row {
		var list []*row
		now := b.now()
		for i, d := range b.disks {
			id := idOf(d.id)
			if now.Before(d.visible) || wanted.leaves(id, d.slot) {
				continue
			}
			list = append(list, &row{id: id, num: i, ref: d, vals: b.diskValues(d)})
		}
		return list
	},
}

// diskValues gives the properties of a disk that have a value now.
func (b *Box) diskValues(d *disk) map[string]value {
	v := map[string]value{
		"type": d.typ, "slot": d.slot, "slot-default": "", "parent": "", "fs": "-", "size": d.size(),
		"mount-filesystem": d.mountFS, "mount-read-only": d.mountRO, "compress": d.compress,
		"mount-point-template": d.template, "sector-size": int64(512), "raid-master": "none",
		"nvme-tcp-export": d.export, "iscsi-export": false, "nfs-sharing": false, "smb-sharing": false,
		"media-sharing": false, "media-interface": "none", "swap": d.swap,
		"disabled": d.disabled, "block-device": !d.disabled, "mounted": d.guestMounted, "formatting": false,
		"raid-member": false,
	}
	if d.comment != "" {
		v["comment"] = d.comment
	}
	if d.pool != nil {
		b.poolValues(d.pool, v)
	} else {
		b.fileDiskValues(d, v)
	}
	if d.export {
		v["nvme-tcp-server-port"] = int64(d.port)
		v["nvme-tcp-server-nqn"] = d.subsystem(b.console.version)
		v["nvme-tcp-server-allow-host-name"] = d.allowHost
	}
	return v
}

func (b *Box) fileDiskValues(d *disk, v map[string]value) {
	shown := "/" + d.filePath
	if b.switches.FilePath == Plain {
		shown = d.filePath
	}
	v["model"], v["file-path"] = shown, shown
	v["file-size"], v["file-offset"] = d.file.size, d.offset
	if d.file.guest != "" {
		v["fs"] = d.file.guest
	}
	if d.guestMounted {
		v["mount-point"] = d.slot
	}
}

// poolValues are those of the capture of "raid10", with the figures of this pool.
func (b *Box) poolValues(p *Pool, v map[string]value) {
	v["fs"], v["fs-label"], v["fs-uuid"], v["state"] = p.FS, p.Label, madeUpUUID(p.Slot), p.State
	v["mounted"], v["mount-point-template"] = !p.Unmounted, "[slot]"
	v["model"] = "NVMe disk"
	if p.Type == "raid" {
		v["model"], v["raid-type"], v["raid-device-count"] = "RAID0 striped", "0", int64(4)
		v["raid-max-component-size"], v["raid-chunk-size"] = "none", "256K"
		h := strings.ReplaceAll(madeUpUUID("raid "+p.Slot), "-", "")
		v["raid-uuid"] = h[:8] + "-" + h[8:16] + "-" + h[16:24] + "-" + h[24:]
	}
	if p.Unmounted {
		return
	}
	free := b.free(p)
	v["free"], v["mount-point"] = free, p.Slot
	v["use"] = fmt.Sprintf("%d%%", ((p.Size-free)*100+p.Size-1)/p.Size)
	if p.FS == "xfs" {
		v["total-inodes"] = xfsInodes(p.Size)
		v["free-inodes"] = xfsInodes(p.Size) - 3 - b.entries(p) // root, two of the real-time bitmap
	}
}

// xfsInodes gives how many inodes of 512 bytes an XFS may have: a quarter of a small and a twentieth of a large device
// (mkfs.xfs, imaxpct), in chunks of 64, after the device was cut to whole stripes of 32 allocation groups. It hits the
// captured figure.
func xfsInodes(size int64) int64 {
	blocks, percent := size/4096/2048*2048, int64(25)
	if size >= 1<<40 {
		percent = 5
	}
	return blocks * percent / 100 / 8 * 64
}

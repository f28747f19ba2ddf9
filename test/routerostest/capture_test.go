package routerostest

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// rds2216 is the device that most captures of facts/routeros.md, 2.1 come from, with one volume of 1 TiB.
func rds2216(t *testing.T) *Box {
	t.Helper()
	b := newBox(t, Options{
		Pools: []Pool{{
			Slot: "raid10", Size: 16003143565312, Label: "ocp-storage",
			Overhead: 113736630272, // what the capture's file system kept for reflink and rmap
		}},
		Now: func() time.Time { return time.Date(2025, 11, 11, 14, 32, 41, 0, time.UTC) },
	})
	mustPrint(t, b, `/disk/add type=file file-path=raid10/vm-storage-001.img file-size=1T slot=vm-storage-001 mount-filesystem=no`, "")
	mustPrint(t, b, `/disk/set vm-storage-001 nvme-tcp-export=yes nvme-tcp-server-nqn="nqn.2026-09.com.mikrotik:rds2216.vm-storage-001"`, "")
	return b
}

// mustPrint runs a line as admin and compares what it prints, CRLF taken for LF.
func mustPrint(t *testing.T, b *Box, line, want string) {
	t.Helper()
	if got := lf(t, b.Exec("admin", line)); got != want {
		t.Errorf("> %s\n%s--- want:\n%s", line, got, want)
	}
}

// lf takes CRLF line ends away and finds any that are not.
func lf(t *testing.T, s string) string {
	t.Helper()
	plain := strings.ReplaceAll(s, "\r\n", "\n")
	if strings.Contains(plain, "\r") || strings.Count(plain, "\n") != strings.Count(s, "\r\n") {
		t.Errorf("line ends are not CRLF: %q", s)
	}
	return plain
}

// wide runs a line at the capture's terminal, 240 columns wide.
func wide(t *testing.T, b *Box, line string) string {
	t.Helper()
	var out strings.Builder
	if _, err := b.Run(t.Context(), Session{User: "admin", Width: 240}, line, &out); err != nil {
		t.Fatal(err)
	}
	return lf(t, out.String())
}

// TestCaptureDetailFile is the capture of SC-DOC, 7.24.4; only the item's number is another.
func TestCaptureDetailFile(t *testing.T) {
	const capture = `Flags: B - BLOCK-DEVICE; t - NVME-TCP-EXPORT
31 Bt type=file slot="vm-storage-001" slot-default="" parent="" fs=- model="/raid10/vm-storage-001.img" size=1 099 511 627 776 mount-filesystem=no mount-read-only=no compress=no sector-size=512 raid-master=none nvme-tcp-export=yes
      nvme-tcp-server-port=4420 nvme-tcp-server-nqn="nqn.2026-09.com.mikrotik:rds2216.vm-storage-001" nvme-tcp-server-allow-host-name="" iscsi-export=no nfs-sharing=no smb-sharing=no media-sharing=no media-interface=none swap=no
      file-path=/raid10/vm-storage-001.img file-size=1024.0GiB file-offset=0
`
	got := wide(t, rds2216(t), `/disk/print detail where slot="vm-storage-001"`)
	if want := strings.Replace(capture, "\n31 ", "\n 1 ", 1); got != want {
		t.Errorf("got:\n%s--- want:\n%s", got, want)
	}
}

var someUUID = regexp.MustCompile(`(fs|raid)-uuid="[0-9a-f-]*"`)

// TestCaptureDetailPool is the first item of the capture of slot~"raid10". Its third flag column, that of the RAID
// members, is here the one of an exported disk; the UUIDs are others.
func TestCaptureDetailPool(t *testing.T) {
	const capture = `26 BM  type=raid slot="raid10" slot-default="" parent="" fs-label="ocp-storage" fs-uuid="40437dbc-2318-45dc-817b-b3bb95cf48ab" fs=xfs model="RAID0 striped" size=16 003 143 565 312 free=14 789 895 307 264 total-inodes=1 562 806 656
       free-inodes=1 562 806 652 use=8% mount-point="raid10" mount-filesystem=yes mount-read-only=no compress=no sector-size=512 raid-type=0 raid-device-count=4 raid-max-component-size=none raid-chunk-size=256K raid-master=none
       state="clean" raid-uuid="eadca0af-ecff031c-239758ad-951a47de" nvme-tcp-export=no iscsi-export=no nfs-sharing=no smb-sharing=no media-sharing=no media-interface=none swap=no
 
`
	got := wide(t, rds2216(t), `/disk/print detail where slot~"raid10|vm"`)
	_, got, _ = strings.Cut(got, "\n")
	got = got[:strings.Index(got, "\n \n")+3]
	same := func(s string) string { return someUUID.ReplaceAllString(s, `$1-uuid="…"`) }
	if want := strings.Replace(capture, "26 ", " 0 ", 1); same(got) != same(want) {
		t.Errorf("got:\n%s--- want:\n%s", got, want)
	}
	if a, b := someUUID.FindAllString(got, -1), someUUID.FindAllString(capture, -1); len(a) != 2 || len(a[0]) != len(b[0]) ||
		len(a[1]) != len(b[1]) || strings.Count(a[1], "-") != strings.Count(b[1], "-") {
		t.Errorf("UUIDs %q do not look like %q", a, b)
	}
}

// TestCaptureNarrow is the 80-column form of RDS-CSI's test "Real RouterOS output format". Whoever made it public
// shortened the path in it: with the 53 characters that it had, the lines break where the capture has them.
func TestCaptureNarrow(t *testing.T) {
	const capture = `type=file slot="pvc-test-123" slot-default="" parent="" fs=-
               model="PATH"
               size=53 687 091 200 mount-filesystem=yes mount-read-only=no
               compress=no sector-size=512 raid-master=none
               nvme-tcp-export=yes nvme-tcp-server-port=4420
               nvme-tcp-server-nqn="nqn.2000-02.com.mikrotik:pvc-test-123"
               nvme-tcp-server-allow-host-name="" iscsi-export=no
               nfs-sharing=no smb-sharing=no media-sharing=no
               media-interface=none swap=no
               file-path=PATH
               file-size=50.0GiB file-offset=0
`
	path := "/storage-pool/" + strings.Repeat("x", 35) + ".img"
	capt := strings.ReplaceAll(capture, "PATH", path)
	numbers := strings.NewReplacer("53 687 091 200", "53_687_091_200").Replace(capt)
	parts := strings.Fields(numbers)
	for i := range parts {
		parts[i] = strings.ReplaceAll(parts[i], "53_687_091_200", "53 687 091 200")
	}
	if got, want := wrap(strings.Repeat(" ", 15), parts, 80), strings.Repeat(" ", 15)+capt; got != want {
		t.Errorf("got:\n%s--- want:\n%s", got, want)
	}
}

// TestCaptureBroken: RDS-CSI had to re-join a path that was broken in its middle.
func TestCaptureBroken(t *testing.T) {
	path := "/" + strings.Repeat("p", 80)
	got := wrap("  ", []string{"a=1", "file-path=" + path}, 42)
	if !strings.Contains(got, "\n  file-path=") || strings.Count(got, "\n") != 4 ||
		strings.Join(strings.Fields(strings.TrimPrefix(got, "  a=1")), "") != "file-path="+path {
		t.Errorf("got:\n%s", got)
	}
}

// TestCaptureBrief is the table of the manual, an USB stick. Its legend ("M, F - FORMATTING") is not understood.
func TestCaptureBrief(t *testing.T) {
	const manual = `Columns: SLOT, MODEL, SERIAL, INTERFACE, SIZE, FREE, FS
#    SLOT  MODEL           SERIAL            INTERFACE                  SIZE           FREE  FS
0 BM usb1  USB Flash Disk  FBA0911260071572  USB 2.00 480Mbps  2 004 877 312  1 921 835 008  ext4
`
	p := &printer{box: newBox(t, Options{}), table: diskTable, width: 120}
	got := p.brief([]*row{{id: "*1", vals: map[string]value{
		"slot": "usb1", "model": "USB Flash Disk", "serial": "FBA0911260071572", "interface": "USB 2.00 480Mbps",
		"size": int64(2004877312), "free": int64(1921835008), "fs": "ext4", "block-device": true, "mounted": true,
	}}})
	if _, got, _ = strings.Cut(got, "\n"); got != manual {
		t.Errorf("got:\n%s--- want:\n%s", got, manual)
	}
}

// TestCaptureFile is a line of RDS-CSI: unquoted values with blanks in them.
func TestCaptureFile(t *testing.T) {
	const capture = ` 2 name=storage-pool/metal-csi/pvc-1.img type=.img file size=10.0GiB last-modified=2025-11-11 14:32:41
`
	b := newBox(t, Options{
		Pools: []Pool{{Slot: "storage-pool", Size: 100 << 30}},
		Now:   func() time.Time { return time.Date(2025, 11, 11, 14, 32, 41, 0, time.UTC) },
	})
	mustPrint(t, b, `/file/add type=directory name=storage-pool/metal-csi`, "")
	mustPrint(t, b, `/disk/add type=file file-path=storage-pool/metal-csi/pvc-1.img file-size=10G slot=x`, "")
	if got := wide(t, b, `/file/print detail where name~"img"`); got != capture {
		t.Errorf("got:\n%s--- want:\n%s", got, capture)
	}
}

// TestCaptureJSON: the samples of 2.3.
func TestCaptureJSON(t *testing.T) {
	b := newBox(t, Options{})
	for line, want := range map[string]string{
		// [DOC]
		`:put [:serialize to=json value={"number"=1234;"string"="1234"}]`: `{"number":1234,"string":1234.000000}`,
		// "2048"->2048.000000, "7.1"->7.100000; ids and names stay strings
		`:put [:serialize to=json {".id"=*1;key-size="2048";name="7.1.1";none={}}]`:   `{".id":"*1","key-size":2048.000000,"name":"7.1.1","none":[]}`,
		`:put [:serialize to=json options=json.no-string-conversion {"size"="2048"}]`: `{"size":"2048"}`,
		// precision: a real number is exact, a string beyond 2^53 is not
		`:put [:serialize to=json {"n"=9007199254740993;"s"="9007199254740993"}]`: `{"n":9007199254740993,"s":9007199254740992.000000}`,
		`:put [:serialize to=json [/disk/print as-value where slot=nope]]`:        `[]`,
		`:put [:serialize to=json "a\"b\\c\n\01"]`:                                `"a\"b\\c\n\u0001"`,
	} {
		mustPrint(t, b, line, want+"\n")
	}
	// {"architecture-name":"x86_64","cpu-count":16,"cpu-load":0,"factory-software":7.100000,"uptime":"06:42:44","version":"7.23.2 (stable)"}
	got := wide(t, b, `:put [:serialize to=json [/system/resource/print as-value]]`)
	if !regexp.MustCompile(`^\{"architecture-name":"arm64",.*"cpu-count":16,"cpu-load":1,"factory-software":7\.100000,.*"uptime":"00:00:00","version":"7\.24\.4 \(stable\)"\}\n$`).MatchString(got) {
		t.Errorf("resource: %s", got)
	}
}

// TestCaptureAsValue: nothing at a console, one line inside of :put, unquoted, ".id" first (2.2).
func TestCaptureAsValue(t *testing.T) {
	b := rds2216(t)
	mustPrint(t, b, `/disk/print as-value`, "")
	mustPrint(t, b, `/disk/print detail as-value where slot="vm-storage-001"`, "")
	mustPrint(t, b, `:put [/disk/print as-value proplist=slot,size,fs,mounted]`,
		".id=*1;fs=xfs;mounted=true;size=16003143565312;slot=raid10;.id=*2;fs=-;mounted=false;size=1099511627776;slot=vm-storage-001\n")
	// the expected form of 2.2
	got := wide(t, b, `:put [/disk/print detail as-value where slot="vm-storage-001"]`)
	for _, part := range []string{
		".id=*2;block-device=true;", ";compress=false;disabled=false;file-offset=0;file-path=/raid10/vm-storage-001.img;file-size=1099511627776;",
		";nvme-tcp-export=true;nvme-tcp-server-allow-host-name=;nvme-tcp-server-nqn=nqn.2026-09.com.mikrotik:rds2216.vm-storage-001;nvme-tcp-server-port=4420;",
		";size=1099511627776;slot=vm-storage-001;slot-default=;", ";type=file\n",
	} {
		if !strings.Contains(";"+got, part) {
			t.Errorf("%q is not in %s", part, got)
		}
	}
	// $rows->0->"mounted" prints true
	mustPrint(t, b, `:local rows [/disk/print detail as-value where slot="raid10"]; :put ($rows->0->"mounted"); :put ($rows->0->"state")`, "true\nclean\n")
}

func TestPrintForms(t *testing.T) {
	b := newBox(t, Options{Pools: []Pool{{Slot: "pool", Size: 1 << 30, Type: "hardware"}}})
	mustPrint(t, b, `/disk/add type=file file-path=pool/x file-size=4M slot=x comment="two \"words\""`, "")
	mustPrint(t, b, `/disk/print count-only`, "2\n")
	mustPrint(t, b, `:put ([/disk/print count-only where type=file]+1)`, "2\n")
	mustPrint(t, b, `/disk/print detail where slot=none`, "Flags: B - BLOCK-DEVICE; M - MOUNTED\n") // header without items
	mustPrint(t, b, `/disk/print detail proplist=slot,size where slot=x`,
		"Flags: B - BLOCK-DEVICE\n 1 B ;;; two \"words\"\n     slot=\"x\" size=4 194 304\n")
	mustPrint(t, b, `/disk/print terse proplist=slot,size,file-size`,
		"0 BM slot=pool size=1073741824\n1 B  comment=two \"words\" slot=x size=4194304 file-size=4096.0KiB\n")
	mustPrint(t, b, `/disk/print detail show-ids proplist=slot where slot=x`,
		"Flags: B - BLOCK-DEVICE\n*2 B ;;; two \"words\"\n     slot=\"x\"\n")
	mustPrint(t, b, `/disk/print value-list where slot=x and !mounted and size=4194304`, `            type: file
            slot: x
    slot-default:
          parent:
              fs: -
           model: /pool/x
            size: 4194304
mount-filesystem: yes
 mount-read-only: no
        compress: no
     sector-size: 512
     raid-master: none
 nvme-tcp-export: no
    iscsi-export: no
     nfs-sharing: no
     smb-sharing: no
   media-sharing: no
 media-interface: none
            swap: no
       file-path: /pool/x
       file-size: 4096.0KiB
     file-offset: 0
`)
	mustPrint(t, b, `/system/identity/print`, "name: MikroTik-RDS\n")
	mustPrint(t, b, `/disk/btrfs/subvolume/print detail`, "")
}

func TestSizeText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0", 752: "752", 1970279: "1924.1KiB", 10 << 30: "10.0GiB", 50 << 30: "50.0GiB", 1 << 40: "1024.0GiB", 1 << 50: "1024.0TiB",
	} {
		if got := sizeText(n); got != want {
			t.Errorf("sizeText(%d) = %q, captured form %q", n, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1 000", 53687091200: "53 687 091 200", -1000: "-1 000"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q, want %q", n, got, want)
		}
	}
}

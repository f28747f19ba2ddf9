package nvme

import (
	"context"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"srvlab.io/rds-csi/safety"
	"srvlab.io/rds-csi/safety/kernel"
	"srvlab.io/rds-csi/test/kerneltest"
)

const mib = int64(1 << 20)

var (
	prefix = mustPrefix("nqn.2000-02.com.mikrotik:test-")
	volume = prefix.Export(safety.VolumeUUID(prefix, "a"), 1)
)

func mustPrefix(s string) safety.Prefix {
	p, err := safety.ParsePrefix(s)
	if err != nil {
		panic(err)
	}
	return p
}

func good() Target {
	return Target{
		NQN: volume, Address: netip.MustParseAddr("192.0.2.9"), Port: 4420,
		HostNQN: kerneltest.HostNQN, HostID: kerneltest.HostID, CtrlLossTmo: -1,
	}
}

func TestOptions(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *Target)
		want   string // part of the line, or of the error
		fails  bool
	}{
		"whole": {func(*Target) {}, "transport=tcp,traddr=192.0.2.9,trsvcid=4420,nqn=" + string(volume) +
			",hostnqn=" + kerneltest.HostNQN + ",hostid=" + kerneltest.HostID +
			",ctrl_loss_tmo=-1,reconnect_delay=2,keep_alive_tmo=5", false},
		"IPv6":              {func(t *Target) { t.Address = netip.MustParseAddr("2001:db8::9") }, "traddr=2001:db8::9,", false},
		"IPv4 in IPv6":      {func(t *Target) { t.Address = netip.MustParseAddr("::ffff:192.0.2.9") }, "traddr=192.0.2.9,", false},
		"zero loss timeout": {func(t *Target) { t.CtrlLossTmo = 0 }, "ctrl_loss_tmo=-1,", false},
		"loss timeout":      {func(t *Target) { t.CtrlLossTmo = 90 * time.Second }, "ctrl_loss_tmo=90,", false},
		"less than a second is not for ever": {
			func(t *Target) { t.CtrlLossTmo = time.Millisecond }, "ctrl_loss_tmo=1,", false,
		},
		"delay":              {func(t *Target) { t.ReconnectDelay = 7 * time.Second }, "reconnect_delay=7,", false},
		"half a second":      {func(t *Target) { t.ReconnectDelay = time.Second / 2 }, "reconnect delay", true},
		"no address":         {func(t *Target) { t.Address = netip.Addr{} }, "address", true},
		"zone with options":  {func(t *Target) { t.Address = netip.MustParseAddr("fe80::1").WithZone("x,nqn=y") }, "zone", true},
		"no port":            {func(t *Target) { t.Port = 0 }, "port", true},
		"comma in the NQN":   {func(t *Target) { t.NQN += ",hostnqn=x" }, "NQN", true},
		"newline in the NQN": {func(t *Target) { t.NQN += "\n" }, "NQN", true},
		"comma in the host":  {func(t *Target) { t.HostNQN += ",ctrl_loss_tmo=0" }, "NQN", true},
		"no host":            {func(t *Target) { t.HostNQN = "" }, "NQN", true},
		"comma in the ID":    {func(t *Target) { t.HostID += ",x" }, "UUID", true},
		"no ID":              {func(t *Target) { t.HostID = "" }, "UUID", true},
		"longer than Linux takes": {
			func(t *Target) { t.NQN += safety.NQN(strings.Repeat("x", 223-len(t.NQN))) }, "222 at most", true,
		},
		"as long as Linux takes": {
			func(t *Target) { t.NQN += safety.NQN(strings.Repeat("x", 222-len(t.NQN))) }, "xxx,hostnqn", false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			target := good()
			c.change(&target)
			line, err := target.options()
			text := line
			if err != nil {
				text = err.Error()
			}
			if (err != nil) != c.fails || !strings.Contains(text, c.want) {
				t.Errorf("got %q, %v; want %q", line, err, c.want)
			}
			if err == nil && strings.Count(line, ",") != 8 {
				t.Errorf("%q has not nine options", line)
			}
		})
	}
}

// No value brings an option of its own.
func FuzzOptions(f *testing.F) {
	f.Add(string(volume), kerneltest.HostNQN, kerneltest.HostID, "192.0.2.9")
	f.Add("nqn.x:a,b=c", "nqn.x:\n", "x", "fe80::1%a,b")
	f.Fuzz(func(t *testing.T, nqn, host, id, addr string) {
		address, _ := netip.ParseAddr(addr) // the zero one is refused
		target := good()
		target.NQN, target.HostNQN, target.HostID, target.Address = safety.NQN(nqn), safety.NQN(host), id, address
		line, err := target.options()
		if err != nil {
			return
		}
		want := []string{
			"transport", "traddr", "trsvcid", "nqn", "hostnqn", "hostid", "ctrl_loss_tmo", "reconnect_delay", "keep_alive_tmo",
		}
		if got := optionNames(line); !reflect.DeepEqual(got, want) || strings.ContainsAny(line, "\n\x00 ") {
			t.Fatalf("%q has the options %v", line, got)
		}
	})
}

func TestParseAddress(t *testing.T) {
	for s, want := range map[string]string{
		"traddr=192.0.2.9,trsvcid=4420,src_addr=192.0.2.7": "192.0.2.9:4420",
		"traddr=192.0.2.9,trsvcid=4420,host_iface=eth0":    "192.0.2.9:4420",
		"traddr=2001:db8::9,trsvcid=4420":                  "[2001:db8::9]:4420",
		"traddr=::ffff:192.0.2.9,trsvcid=4420":             "192.0.2.9:4420",
		"":                                                 "",
		"traddr=192.0.2.9":                                 "",
		"trsvcid=4420":                                     "",
		"traddr=x,trsvcid=4420":                            "",
		"traddr=192.0.2.9,trsvcid=70000":                   "",
		"0000:01:00.0":                                     "",
	} {
		got, err := parseAddress(s)
		if err != nil {
			got = netip.AddrPort{}
		}
		if want == "" && err == nil || want != "" && got.String() != want {
			t.Errorf("%q is read as %s, %v; want %q", s, got, err, want)
		}
	}
}

func TestParseInstance(t *testing.T) {
	for s, want := range map[string]int{
		"instance=0,cntlid=1": 0, "instance=17,cntlid=65519": 17,
		"": -1, "instance=-1,transport=%s": -1, "cntlid=1": -1, "instance=x": -1,
	} {
		got, err := parseInstance(s)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("%q is read as %d, %v", s, got, err)
		}
	}
}

func TestMissingOptions(t *testing.T) {
	const known = "instance=-1,cntlid=-1,transport=%s,traddr=%s,nqn=%s,duplicate_connect,tos=%d"
	if got := missingOptions(known, "transport=tcp,keep_alive_tmo=5,nqn=x"); !reflect.DeepEqual(got, []string{"keep_alive_tmo"}) {
		t.Errorf("missing: %v", got)
	}
	if got := missingOptions("", "transport=tcp"); got != nil {
		t.Errorf("without a list, missing: %v", got)
	}
}

func testHost(k *kerneltest.Tree) Host {
	return Host{FS: k.FS, Prefix: prefix, Registry: k.Path("registry")}
}

func reason(t *testing.T, err error, want safety.Reason) {
	t.Helper()
	if safety.ReasonOf(err) != want {
		t.Errorf("reason %q, want %q: %v", safety.ReasonOf(err), want, err)
	}
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// What is connected already is left alone, or refused where it is not what was asked for. The tree has no
// /dev/nvme-fabrics and 192.0.2.9 does not answer: a connect that went on would fail in another way.
func TestConnectWhenConnected(t *testing.T) {
	for name, c := range map[string]struct {
		attr, value string
		want        safety.Reason
		fails       bool
	}{
		"live":                 {"state", "live", "", false},
		"reconnecting":         {"state", "connecting", "", false},
		"resetting":            {"state", "resetting", "", false},
		"going, never gone":    {"state", "deleting", safety.PathLost, true},
		"going without I/O":    {"state", "deleting (no IO)", safety.PathLost, true},
		"dead":                 {"state", "dead", safety.PathLost, true},
		"another portal":       {"address", "traddr=192.0.2.10,trsvcid=4420", safety.PathLost, true},
		"another port":         {"address", "traddr=192.0.2.9,trsvcid=4421", safety.PathLost, true},
		"another transport":    {"transport", "rdma", safety.PathLost, true},
		"no address":           {"address", "", safety.PathLost, true},
		"another host":         {"hostnqn", "nqn.2014-08.org.nvmexpress:uuid:another", safety.ForeignNQN, true},
		"a longer portal name": {"address", "traddr=192.0.2.99,trsvcid=44200", safety.PathLost, true},
	} {
		t.Run(name, func(t *testing.T) {
			k := kerneltest.NewTree(t)
			d := k.Connect(volume, mib)
			k.Set(d.ControllerDir()+"/"+c.attr, c.value+"\n")
			err := testHost(k).Connect(within(t, 200*time.Millisecond), good())
			if (err != nil) != c.fails {
				t.Errorf("error %v", err)
			}
			reason(t, err, c.want)
		})
	}
}

// A controller on its way out is waited for, then a new connection is made.
func TestConnectWaitsForTheEnd(t *testing.T) {
	k := kerneltest.NewTree(t)
	d := k.Connect(volume, mib)
	k.Set(d.ControllerDir()+"/state", "deleting\n")
	time.AfterFunc(100*time.Millisecond, func() { k.Drop(d) })
	h, ctx := testHost(k), within(t, 10*time.Second)
	connected, err := h.connected(ctx, good())
	if connected || err != nil || ctx.Err() != nil {
		t.Errorf("connected %t, %v", connected, err)
	}
}

func TestConnectRefusesForeign(t *testing.T) {
	k := kerneltest.NewTree(t)
	for name, n := range map[string]safety.NQN{
		"another prefix":         kerneltest.ForeignNQN,
		"only the prefix":        "nqn.2000-02.com.mikrotik:test-",
		"not made by Export":     "nqn.2000-02.com.mikrotik:test-var",
		"another way of writing": volume[:len(volume)-1] + "01",
		"empty":                  "",
	} {
		t.Run(name, func(t *testing.T) {
			target := good()
			target.NQN = n
			ctx := within(t, time.Second)
			for _, h := range []Host{testHost(k), {FS: k.FS}} {
				reason(t, h.Connect(ctx, target), safety.ForeignNQN)
				reason(t, h.Disconnect(ctx, n), safety.ForeignNQN)
				reason(t, h.Rescan(ctx, n), safety.ForeignNQN)
				_, err := h.Wait(ctx, n)
				reason(t, err, safety.ForeignNQN)
			}
		})
	}
}

func TestConnectWithoutModule(t *testing.T) {
	k := kerneltest.NewTree(t)
	h := testHost(k)
	_, err := h.create("transport=tcp")
	reason(t, h.explain(good(), true, err), safety.NodeUnsuited)
}

func TestWait(t *testing.T) {
	for name, c := range map[string]struct {
		change func(k *kerneltest.Tree, d kerneltest.Device)
		size   int64
		want   safety.Reason
		says   string
	}{
		"ready":        {func(*kerneltest.Tree, kerneltest.Device) {}, mib, "", ""},
		"no namespace": {func(*kerneltest.Tree, kerneltest.Device) {}, 0, safety.PathLost, "no namespace: nvme0=live"},
		"no size": {func(k *kerneltest.Tree, d kerneltest.Device) {
			k.Set(d.SubsystemDir()+"/nvme0n1/size", "0\n")
		}, mib, safety.PathLost, "no size"},
		"not live": {func(k *kerneltest.Tree, d kerneltest.Device) {
			k.Set(d.ControllerDir()+"/state", "connecting\n")
		}, mib, safety.PathLost, "nvme0=connecting"},
		"gone": {func(k *kerneltest.Tree, d kerneltest.Device) { k.Drop(d) }, mib, safety.PathLost, "no controller"},
		"unreadable": {func(k *kerneltest.Tree, d kerneltest.Device) {
			k.Break(d.SubsystemDir() + "/nvme0n1/dev")
		}, mib, safety.PathLost, "could not tell"},
		"two namespaces": {func(k *kerneltest.Tree, d kerneltest.Device) {
			for _, attr := range []string{"dev", "size", "nsid"} {
				k.Set(d.SubsystemDir()+"/nvme0n2/"+attr, "2\n")
			}
			k.Set(d.SubsystemDir()+"/nvme0n2/dev", "259:7\n")
		}, mib, safety.WrongDevice, "2 namespaces"},
	} {
		t.Run(name, func(t *testing.T) {
			k := kerneltest.NewTree(t)
			d := k.Connect(volume, c.size)
			c.change(k, d)
			ns, err := testHost(k).Wait(within(t, 100*time.Millisecond), volume)
			reason(t, err, c.want)
			if c.want == "" && (ns.Name != "nvme0n1" || ns.SizeBytes != mib || ns.Dev != d.Dev) {
				t.Errorf("namespace %+v", ns)
			}
			if err != nil && (!strings.Contains(err.Error(), c.says) || ns != (kernel.Namespace{})) {
				t.Errorf("namespace %+v, error %v; want %q", ns, err, c.says)
			}
		})
	}
}

func TestWaitSeesItCome(t *testing.T) {
	k := kerneltest.NewTree(t)
	d := k.Connect(volume, mib)
	k.Set(d.ControllerDir()+"/state", "connecting\n")
	time.AfterFunc(50*time.Millisecond, func() { k.Set(d.ControllerDir()+"/state", "live\n") })
	if ns, err := testHost(k).Wait(within(t, 10*time.Second), volume); err != nil || ns.Name != "nvme0n1" {
		t.Errorf("%+v, %v", ns, err)
	}
}

func TestRescan(t *testing.T) {
	k := kerneltest.NewTree(t)
	h := testHost(k)
	reason(t, h.Rescan(within(t, time.Second), volume), safety.PathLost)
	k.Connect(kerneltest.ForeignNQN, mib)
	d := k.Connect(volume, mib)
	k.Set("sys/devices/virtual/nvme-fabrics/ctl/nvme0/rescan_controller", "")
	k.Set(d.ControllerDir()+"/rescan_controller", "")
	if err := h.Rescan(within(t, time.Second), volume); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"nvme0": "", "nvme1": "1"} {
		if got := read(t, k.Path("sys/devices/virtual/nvme-fabrics/ctl/"+name+"/rescan_controller")); got != want {
			t.Errorf("%s was told %q, want %q", name, got, want)
		}
	}
}

package routerostest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// allPolicies in the order of /user/group.
var allPolicies = []string{
	"local", "telnet", "ssh", "ftp", "reboot", "read", "write", "policy", "test", "winbox", "password", "web", "sniff",
	"sensitive", "api", "romon", "rest-api",
}

func without(list []string, drop ...string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(drop, s) })
}

// user gives the user of that name, nil if there is none.
func (b *Box) user(name string) *User {
	i := slices.IndexFunc(b.opts.Users, func(u User) bool { return u.Name == name })
	if i < 0 {
		return nil
	}
	return &b.opts.Users[i]
}

// permits tells whether a user's group holds a policy. A user that is not known has none.
func (b *Box) permits(user, policy string) bool {
	u := b.user(user)
	return u != nil && slices.Contains(b.groups[u.Group], policy)
}

func oneRow(vals map[string]value) []*row { return []*row{{vals: vals}} }

// single makes a menu that is one item to print and get.
func single(t *table) *menu {
	t.single = true
	return &menu{table: t, commands: map[string]*command{"print": printCommand(), "get": getSingle()}}
}

func list(t *table) *menu {
	return &menu{table: t, commands: map[string]*command{
		"print": printCommand(), "find": findCommand(), "get": getCommand(),
	}}
}

func init() {
	addMenu("system/resource", single(&table{
		props: props(`uptime:bare version:bare build-time:bare factory-software:bare free-memory:sized
 total-memory:sized cpu:bare cpu-count:bare cpu-load:bare free-hdd-space:sized total-hdd-space:sized
 architecture-name:bare board-name:bare platform:bare`),
		rows: func(b *Box, _ selection) []*row {
			return oneRow(map[string]value{
				"uptime": uptime(b.now().Sub(b.started)), "version": b.console.version.String() + " (stable)",
				"build-time": "2026-10-01 10:00:00", "factory-software": "7.1", "free-memory": int64(30 << 30),
				"total-memory": int64(32 << 30), "cpu": "ARM64", "cpu-count": int64(16), "cpu-load": int64(1),
				"free-hdd-space": b.free(nil), "total-hdd-space": flashSize, "architecture-name": "arm64",
				"board-name": "RDS2216", "platform": "MikroTik",
			})
		},
	}))
	addMenu("system/identity", single(&table{
		props: props("name:bare"),
		rows:  func(b *Box, _ selection) []*row { return oneRow(map[string]value{"name": b.opts.Identity}) },
	}))
	addMenu("system/clock", single(&table{
		props: props("time:bare date:bare time-zone-name:bare gmt-offset:bare"),
		rows: func(b *Box, _ selection) []*row {
			now := b.now().UTC()
			return oneRow(map[string]value{
				"time": now.Format("15:04:05"), "date": now.Format("2006-01-02"), "time-zone-name": "UTC",
				"gmt-offset": "+00:00",
			})
		},
	}))
	addMenu("system/package", list(&table{
		name:  "name",
		props: props("name version build-time:bare size:sized disabled:flag available:flag@7.18"),
		brief: []string{"name", "version", "build-time", "size"},
		flags: []flag{{"X", "disabled"}, {"A", "available"}},
		rows:  packageRows,
	}))
	addMenu("user", list(&table{
		name:  "name",
		props: props("name group address inactivity-policy:bare inactivity-timeout:bare disabled:flag"),
		brief: []string{"name", "group", "inactivity-policy"},
		flags: []flag{{"X", "disabled"}},
		rows:  userRows,
	}))
	addMenu("user/group", list(&table{
		name: "name", props: props("name policy:bare skin:bare"), brief: []string{"name", "policy", "skin"},
		rows: groupRows,
	}))
	services := list(&table{
		name:  "name",
		props: props("name port:bare address vrf:bare max-sessions:bare@7.16 disabled:flag invalid:flag"),
		brief: []string{"name", "port", "vrf", "max-sessions"},
		flags: []flag{{"X", "disabled"}, {"I", "invalid"}},
		rows: func(b *Box, _ selection) []*row {
			return []*row{{id: "*3", num: 0, vals: map[string]value{
				"name": "ssh", "port": int64(22), "address": "", "vrf": "main", "max-sessions": int64(b.sessions),
				"disabled": false, "invalid": false,
			}}}
		},
	})
	services.commands["set"] = &command{
		args: arguments("numbers* max-sessions@7.16"), order: []string{"numbers"}, policy: "write",
		do: locked(setService),
	}
	addMenu("ip/service", services)
}

// uptime writes 2h3m4s as RouterOS does: 02:03:04, with weeks and days in front.
func uptime(d time.Duration) string {
	s := int64(d / time.Second)
	text := fmt.Sprintf("%02d:%02d:%02d", s/3600%24, s/60%60, s%60)
	if days := s / 86400 % 7; days > 0 {
		text = fmt.Sprintf("%dd", days) + text
	}
	if weeks := s / 86400 / 7; weeks > 0 {
		text = fmt.Sprintf("%dw", weeks) + text
	}
	return text
}

// packageRows lists rose-storage even where it is not installed: from 7.18 on as available, which looks installed to
// whoever only counts rows.
func packageRows(b *Box, _ selection) []*row {
	version := b.console.version.String()
	pack := func(id itemID, num int, name string) *row {
		return &row{id: id, num: num, vals: map[string]value{
			"name": name, "version": version, "build-time": "2026-10-01 10:00:00", "size": int64(13 << 20),
			"disabled": false, "available": false,
		}}
	}
	rows := []*row{pack("*1", 0, "routeros")}
	rose := pack("*2", 1, "rose-storage")
	switch b.opts.Rose {
	case Missing:
		if b.console.version.before(v718) {
			return rows
		}
		rose.vals["available"], rose.vals["version"] = true, ""
	case Disabled:
		rose.vals["disabled"] = true
	case Installed:
	}
	return append(rows, rose)
}

func userRows(b *Box, _ selection) []*row {
	rows := make([]*row, len(b.opts.Users))
	for i, u := range b.opts.Users {
		rows[i] = &row{id: idOf(int64(i + 1)), num: i, vals: map[string]value{
			"name": u.Name, "group": u.Group, "address": "", "inactivity-policy": "none",
			"inactivity-timeout": "10m", "disabled": false,
		}}
	}
	return rows
}

// groupRows lists what a group may do, and with "!" what it may not.
func groupRows(b *Box, _ selection) []*row {
	var rows []*row
	for _, name := range slices.Sorted(maps.Keys(b.groups)) {
		var yes, no array
		for _, p := range allPolicies {
			if slices.Contains(b.groups[name], p) {
				yes = append(yes, element{val: p})
			} else {
				no = append(no, element{val: "!" + p})
			}
		}
		rows = append(rows, &row{id: idOf(int64(len(rows) + 1)), num: len(rows), vals: map[string]value{
			"name": name, "policy": append(yes, no...), "skin": "default",
		}})
	}
	return rows
}

func setService(r *run, a *args) (value, error) {
	if _, err := a.items(r); err != nil {
		return nil, err
	}
	if s := strings.TrimSpace(a.str("max-sessions")); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 1000 {
			return nil, failf("value of max-sessions out of range (1..1000)")
		}
		r.box.sessions = n
	}
	return nil, nil // RouterOS' nothing
}

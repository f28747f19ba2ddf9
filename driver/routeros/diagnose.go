package routeros

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// RouterOS's words only ever add to what was read back: they say why something is as it is, never what is.

// saysNoSpace tells whether the device named the want of space as the reason. What it says at /disk/add is not known
// (gap 1); it is Linux below, whose word is "No space left on device".
func (r reply) saysNoSpace() bool {
	text := strings.ToLower(r.text)
	return strings.Contains(text, "no space") || strings.Contains(text, "enough space")
}

// saysPermission tells whether the device named the user's policy as the reason: the console's and REST's words.
func (r reply) saysPermission() bool {
	return strings.Contains(r.text, "not enough permissions") || strings.Contains(r.text, "not allowed (9)")
}

// diagnose gives the error of a command that failed for no reason that its own guards or row tell. It asks what could
// make any command fail: the version, the package, the user's policies. cause may be nil.
func (a *Array) diagnose(ctx context.Context, c call, cause error) error {
	if err := errors.Join(a.checkVersion(ctx), a.checkPackage(ctx)); errors.Is(err, ErrUnsupported) {
		return c.fail(ErrUnsupported, errors.Join(err, cause))
	}
	if err := a.checkPolicies(ctx); errors.Is(err, ErrPermission) || err != nil && c.reply.saysPermission() {
		return c.fail(ErrPermission, errors.Join(err, cause))
	}
	if cause == nil {
		cause = errors.New("the command did not come to its end")
	}
	return c.fail(ErrUnknown, cause)
}

// version is RouterOS's: 7.24.4, 7.21beta2.
type version struct{ major, minor int }

// minVersion has nvme-tcp-server-nqn. Before, the NQN was the slot, and a node left behind could not be fenced by
// changing it.
var minVersion = version{7, 21}

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }

func (v version) before(w version) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}

// parseVersion reads "7.24.4 (stable)", "7.21beta2 (testing)", "7.22_ab123 (development)".
func parseVersion(s string) (version, error) {
	var v version
	first, rest, ok := strings.Cut(s, ".")
	digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
	var errMajor, errMinor error
	v.major, errMajor = strconv.Atoi(first)
	v.minor, errMinor = strconv.Atoi(rest[:digits])
	if !ok || errMajor != nil || errMinor != nil {
		return version{}, fmt.Errorf("RouterOS version %q: is not like 7.24.4", s)
	}
	return v, nil
}

// checkVersion asks for plain text: the option that JSON needs came with 7.17, and an older version must be told too.
func (a *Array) checkVersion(ctx context.Context) error {
	c, err := a.send(ctx, "read version", newScript(":put [/system/resource/get version]"))
	if err != nil {
		return err
	}
	if !c.reply.done {
		return c.fail(ErrUnknown, errUnfinished)
	}
	v, err := parseVersion(c.reply.text)
	if err != nil {
		return c.fail(ErrUnknown, err)
	}
	if v.before(minVersion) {
		return c.fail(ErrUnsupported, fmt.Errorf("RouterOS is %s; at least %s is needed, which has nvme-tcp-server-nqn; "+
			"upgrade with /system/package/update/install", v, minVersion))
	}
	return nil
}

const rosePackage = "rose-storage"

func (a *Array) checkPackage(ctx context.Context) error {
	c, rows, err := a.look(ctx, "read packages",
		asJSON("/system/package/print detail as-value where name="+quote(rosePackage)))
	if err != nil {
		return err
	}
	// Since 7.18 the list also shows what could be installed.
	rows = slices.DeleteFunc(rows, func(r row) bool { return r.text("name") != rosePackage || r.flag("available") })
	switch {
	case len(rows) == 0:
		return c.fail(ErrUnsupported, errors.New("the package rose-storage is not installed; install it: "+
			"/system/package/update/check-for-updates, /system/package/enable rose-storage, /system/package/apply-changes"))
	case rows[0].flag("disabled"):
		return c.fail(ErrUnsupported, errors.New("the package rose-storage is disabled; enable it: /system/package/enable "+
			"rose-storage, /system/package/apply-changes"))
	}
	return nil
}

// neededPolicies are the user's: ssh to come in, read and write to read and change disks and files.
var neededPolicies = []string{"ssh", "read", "write"}

// needsPolicies says what to do where the user's group cannot even be read.
func (a *Array) needsPolicies() error {
	return fmt.Errorf("the user %q needs the policies %s in its group; see /user/print and /user/group/print",
		a.config.SSH.User, strings.Join(neededPolicies, ", "))
}

// checkPolicies gives ErrPermission if the user's group positively lacks a policy.
func (a *Array) checkPolicies(ctx context.Context) error {
	// RouterOS takes "user+flags" at login; the flags are no part of the name.
	user, _, _ := strings.Cut(a.config.SSH.User, "+")
	c, users, err := a.look(ctx, "read user", asJSON("/user/print detail as-value where name="+quote(user)))
	if err != nil {
		return err
	}
	if len(users) != 1 {
		return c.fail(ErrUnknown, fmt.Errorf("the array does not show the user %q in /user", user))
	}
	group := users[0].text("group")
	c, groups, err := a.look(ctx, "read group", asJSON("/user/group/print detail as-value where name="+quote(group)))
	if err != nil {
		return err
	}
	if len(groups) != 1 {
		return c.fail(ErrUnknown, fmt.Errorf("the array does not show the group %q in /user/group", group))
	}
	granted := strings.FieldsFunc(groups[0].text("policy"), func(r rune) bool { return r == ',' || r == ';' || r == ' ' })
	granted = slices.DeleteFunc(granted, func(p string) bool { return p[0] == '!' }) // "!ftp" is one that is not granted
	missing := slices.DeleteFunc(slices.Clone(neededPolicies), func(p string) bool { return slices.Contains(granted, p) })
	if len(missing) > 0 {
		return c.fail(ErrPermission, fmt.Errorf("the group %q of user %q lacks the policies %s; add them: /user/group/set "+
			"%s policy=%s",
			group, user, strings.Join(missing, ","), group, strings.Join(append(granted, missing...), ",")))
	}
	return nil
}

package routerostest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Options say what a Box is at its start. The zero value is a 7.24.4 with rose-storage, one XFS pool "pool" of
// 100 GiB, and the user "admin" of the group "full" without password or key.
type Options struct {
	Version  Version // zero: DefaultVersion
	Identity string  // "" : MikroTik-RDS
	Pools    []Pool
	Users    []User
	Groups   map[string][]string // policies of more groups, beside full, write and read
	Switches Switches
	Rose     Presence // the package rose-storage
	Backend  Backend  // nil: memory

	// MaxSessions is /ip/service ssh max-sessions. 0: 20, RouterOS' default.
	MaxSessions int
	// Latency is the time that each line takes before it is executed.
	Latency time.Duration
	// FilePrintDelay is the time that listing /file takes for each file: it walks the whole tree.
	FilePrintDelay time.Duration
	// RowDelay and SpaceDelay belong to the switches row-visible and space-return. 0: 300 ms.
	RowDelay, SpaceDelay time.Duration
	// PromptLimit is how long Run waits at a prompt or a hang for a client to give up. 0: until its context ends.
	PromptLimit time.Duration
	// Trace, if not nil, is told each line that reaches the box, and what it answers.
	Trace func(user, line, answer string)
	// Now is the box's clock. nil: time.Now.
	Now func() time.Time
}

// Pool is a file system that volumes live on, on a disk of its own.
type Pool struct {
	Slot      string
	Size      int64  // bytes
	FS        string // xfs or btrfs; "": xfs
	Label     string // "": "<slot>-fs"
	Type      string // raid or hardware; "": raid
	State     string // "": clean
	Overhead  int64  // bytes that the file system keeps for itself
	Unmounted bool
}

// User may log in. Keys forbid the password (password-authentication=yes-if-no-key).
type User struct {
	Name     string
	Group    string // "": full
	Password string
	Keys     []ssh.PublicKey
}

// Presence tells whether a package is there.
type Presence int

// The states of a package.
const (
	Installed Presence = iota
	Missing            // 7.18 and later list it as available
	Disabled
)

// Session is who sends a line, and how wide the terminal is.
type Session struct {
	User  string
	Width int // 0: 80, as an exec channel without a terminal has it
}

// The outcomes of Run that are no output.
var (
	// ErrDown: the box is rebooting. Nothing of the line was executed.
	ErrDown = errors.New("the box is down")
	// ErrDropped: a fault dropped the connection, before or after the line took effect.
	ErrDropped = errors.New("the connection is dropped")
	// ErrHung: the line hung at a prompt or by a fault for longer than Options.PromptLimit.
	ErrHung = errors.New("the line hangs")
)

// Box is one RouterOS device. Its methods may be called by several goroutines; as on the device, every command is
// atomic and a line of several is not.
type Box struct {
	opts     Options
	switches Switches
	console  *console
	now      func() time.Time

	mu       sync.Mutex
	nextID   int64
	disks    []*disk // in the order of their numbers
	files    map[string]*file
	subvols  []*subvolume
	exports  map[string]*export // by NQN
	later    []returned         // space that is not yet free again
	conns    []*Connection
	faults   []*armed
	phase    phase
	restart  *time.Timer
	started  time.Time
	sessions int // max-sessions
	groups   map[string][]string
	watchers map[int]func() // told of a reboot
	watchID  int
	trouble  error
	lines    int64
}

// NewBox makes a device. The back end, if one is given, belongs to the Box from then on; Close ends it.
func NewBox(o Options) (*Box, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	b := &Box{
		opts: o, switches: o.Switches.fill(), now: o.Now, files: map[string]*file{}, exports: map[string]*export{},
		started: o.Now(), sessions: o.MaxSessions, watchers: map[int]func(){},
		groups: map[string][]string{
			"full": allPolicies, "write": without(allPolicies, "ftp", "policy"),
			"read": without(allPolicies, "ftp", "write", "policy"),
		},
	}
	maps.Copy(b.groups, o.Groups)
	b.console = &console{version: o.Version, rose: o.Rose == Installed, switches: &b.switches}
	for _, p := range o.Pools {
		b.addPool(p)
	}
	for _, u := range o.Users {
		if b.groups[u.Group] == nil {
			return nil, fmt.Errorf("user %q: there is no group %q", u.Name, u.Group)
		}
	}
	return b, b.adopt()
}

func (o *Options) fill() error {
	if err := o.Switches.check(); err != nil {
		return err
	}
	if o.Version == (Version{}) {
		o.Version = DefaultVersion
	}
	setDefault(&o.Identity, "MikroTik-RDS")
	setDefault(&o.MaxSessions, 20)
	setDefault(&o.RowDelay, 300*time.Millisecond)
	setDefault(&o.SpaceDelay, 300*time.Millisecond)
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Backend == nil {
		o.Backend = memory{}
	}
	if o.Pools == nil {
		o.Pools = []Pool{{Slot: "pool", Size: 100 << 30}}
	}
	if o.Users == nil {
		o.Users = []User{{Name: "admin"}}
	}
	o.Users = slices.Clone(o.Users)
	for i := range o.Users {
		setDefault(&o.Users[i].Group, "full")
	}
	return nil
}

func setDefault[T comparable](field *T, val T) {
	var zero T
	if *field == zero {
		*field = val
	}
}

// Exec runs one line as user and gives what a terminal would show, with CRLF line ends. It does not wait at a prompt;
// of a line that a fault drops it gives what arrived. Run tells these apart.
func (b *Box) Exec(user, line string) string {
	var out bytes.Buffer
	hang := func(context.Context) error { return ErrHung }
	_, _ = b.runLine(context.Background(), Session{User: user}, line, &out, hang) // documented: Run tells
	return out.String()
}

// Run runs one line and writes what the device answers, with CRLF line ends. The exit status is 0 whatever happens
// (facts/routeros.md, 3.1), unless a fault says otherwise. The error is ErrDown, ErrDropped, ErrHung or the context's;
// what a console command says of its own failure is output.
func (b *Box) Run(ctx context.Context, s Session, line string, out io.Writer) (exit int, err error) {
	return b.runLine(ctx, s, line, out, b.hang)
}

// hang waits until the client gives up, or until Options.PromptLimit.
func (b *Box) hang(ctx context.Context) error {
	if b.opts.PromptLimit == 0 {
		<-ctx.Done()
		return ctx.Err()
	}
	if err := wait(ctx, b.opts.PromptLimit); err != nil {
		return err
	}
	return ErrHung
}

func (b *Box) runLine(
	ctx context.Context, s Session, line string, out io.Writer, hang func(context.Context) error,
) (exit int, err error) {
	f, err := b.arrive(ctx, line, hang)
	if err != nil {
		return 0, err
	}
	var buf bytes.Buffer
	r := &run{ctx: ctx, box: b, session: s, out: &buf, vars: []map[string]value{{}}, full: f.Kind == OutOfSpace}
	err = b.execute(r, line)
	text := crlf(buf.String())
	if b.opts.Trace != nil {
		b.opts.Trace(s.User, line, text)
	}
	if f.Kind == Partial && f.Bytes < len(text) {
		text = text[:f.Bytes]
	}
	if f.Kind != DropAfter || err != nil {
		if _, errWrite := io.WriteString(out, text); errWrite != nil && err == nil {
			err = errWrite
		}
	}
	var p *prompt
	switch {
	case errors.As(err, &p):
		return 0, hang(ctx)
	case err != nil:
		return 0, err
	case f.Kind == DropAfter, f.Kind == Partial:
		return 0, ErrDropped
	case f.Kind == RebootFault:
		return 0, errors.Join(ErrDropped, b.Reboot(f.Down, f.ListenerFirst))
	}
	return f.Exit, nil
}

// arrive lets the faults and the latency have their way with a line before it is executed.
func (b *Box) arrive(ctx context.Context, line string, hang func(context.Context) error) (Fault, error) {
	b.mu.Lock()
	down := b.phase.off()
	f := Fault{}
	if !down {
		f = b.takeFault(line)
		b.lines++
	}
	b.mu.Unlock()
	if down {
		return f, ErrDown
	}
	if err := wait(ctx, b.opts.Latency+f.Delay); err != nil {
		return f, err
	}
	switch f.Kind {
	case DropBefore:
		return f, ErrDropped
	case Hang:
		return f, hang(ctx)
	default:
		return f, nil
	}
}

// execute parses the whole line and then runs it. A line that cannot be parsed changes nothing, unless the switch
// parse-errors says otherwise.
func (b *Box) execute(r *run, line string) error {
	list, errParse := b.console.parseLine(line)
	if errParse != nil && b.switches.ParseErrors != Statement {
		list = nil
	}
	_, err := statements(list).eval(r)
	if isRunError(err) {
		r.printf("%s\n", err)
		return nil
	}
	var p *prompt
	if errors.As(err, &p) {
		r.printf("%s", p.text)
	}
	if err == nil && errParse != nil {
		r.printf("%s\n", errParse)
	}
	return err
}

// crlf ends lines as a terminal wants them.
func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// wait is a sleep that a context ends.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// missing is what becomes of a command without its mandatory argument.
func (b *Box) missing(name string) error {
	if b.switches.MissingArgument == Refused {
		return failf("missing value(s) of argument(s) %s", name)
	}
	return &prompt{name + ": "}
}

// failure is a refusal of the back end, in the wording of the switch error-texts.
func (b *Box) failure(place, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	switch b.switches.ErrorTexts {
	case Bare:
		return failf("%s", text)
	case Located:
		return failf("failure: %s (%s; line 1)", text, place)
	case Generic:
		return failf("action failed (6)")
	default:
		return failf("failure: %s", text)
	}
}

// takeID gives the next internal number. They only ever grow.
func (b *Box) takeID() int64 {
	b.nextID++
	return b.nextID
}

// Close ends exports, connections and the back end, once and for ever.
func (b *Box) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.phase == phaseClosed {
		return nil
	}
	if b.restart != nil {
		b.restart.Stop()
	}
	b.phase = phaseClosed
	b.endConnections(func(*Connection) bool { return true })
	return b.opts.Backend.Close()
}

// String prints the state, sorted, for a test's want block.
func (b *Box) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settle()
	var lines []string
	for _, d := range b.disks {
		lines = append(lines, b.describe(d))
	}
	for _, path := range slices.Sorted(maps.Keys(b.files)) {
		f := b.files[path]
		line := fmt.Sprintf("file %s %s", path, f.kind)
		if f.kind == regular {
			line += fmt.Sprintf(" size=%d", f.size)
		}
		lines = append(lines, line)
	}
	for _, nqn := range slices.Sorted(maps.Keys(b.exports)) {
		e := b.exports[nqn]
		lines = append(lines, fmt.Sprintf("export %s path=%s port=%d allow-host=%q", nqn, e.Path, e.Port, e.AllowHost))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func (b *Box) describe(d *disk) string {
	if p := d.pool; p != nil {
		return fmt.Sprintf("pool %s fs=%s size=%d free=%d mounted=%t state=%q",
			d.slot, p.FS, p.Size, b.free(p), !p.Unmounted, p.State)
	}
	s := fmt.Sprintf("disk %s path=%s size=%d export=%t comment=%q", d.slot, d.filePath, d.size(), d.export, d.comment)
	if d.guestMounted {
		s += " GUEST-FILESYSTEM-MOUNTED"
	}
	return s
}

package routerostest

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
)

// ControlHelp describes the commands of ServeControl, for a program's --help.
const ControlHelp = `fault SPEC                                   arm a fault (see FAULTS)
clear                                        disarm all faults
reboot [down=3s] [listener-first=5s]         no SSH and no NVMe for "down"; then the NVMe port answers for
                                             "listener-first" before the exports exist
pool NAME mounted|unmounted [STATE]          stop or start a pool, or change its state ("clean")
guest PATH FS|none                           what a probe is to find in a file
run USER LINE                                execute a console line as USER
state                                        print disks, files, pools and exports
phase                                        up, down, or listener
`

// ServeControl answers commands on a socket of its own, so that a demonstration can make things happen at a moment of
// its choosing. One command a line; the answer ends with a line that is "ok" or starts with "error: ". It returns when
// ctx ends or the listener fails.
func ServeControl(ctx context.Context, l net.Listener, b *Box) error {
	end := context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // Accept tells
	defer end()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on control socket: %w", err)
		}
		wg.Go(func() { serveControl(ctx, c, b) })
	}
}

func serveControl(ctx context.Context, c net.Conn, b *Box) {
	end := context.AfterFunc(ctx, func() { c.Close() }) //nolint:errcheck // it is gone either way
	defer end()
	defer c.Close() //nolint:errcheck // the client is gone then
	for in := bufio.NewScanner(c); in.Scan(); {
		answer, err := b.control(in.Text())
		if err != nil {
			answer += fmt.Sprintf("error: %v\n", err)
		} else {
			answer += "ok\n"
		}
		if _, err := c.Write([]byte(answer)); err != nil {
			return
		}
	}
}

func (b *Box) control(line string) (answer string, err error) {
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	rest = strings.TrimSpace(rest)
	switch word {
	case "fault":
		var f Fault
		if f, err = ParseFault(rest); err == nil {
			b.Inject(f)
		}
	case "clear":
		b.ClearFaults()
	case "reboot":
		return "", b.controlReboot(rest)
	case "pool":
		return "", b.controlPool(strings.Fields(rest))
	case "guest":
		path, fs, _ := strings.Cut(rest, " ")
		if fs == "none" {
			fs = ""
		}
		b.SetGuest(path, fs)
	case "run":
		user, line, _ := strings.Cut(rest, " ")
		answer := strings.ReplaceAll(b.Exec(user, line), "\r\n", "\n")
		if answer != "" && !strings.HasSuffix(answer, "\n") {
			answer += "\n" // a prompt, or what a fault left
		}
		return answer, nil
	case "state":
		return b.String(), b.Trouble()
	case "phase":
		return b.Phase() + "\n", nil
	default:
		err = fmt.Errorf("there is no command %q", word)
	}
	return "", err
}

func (b *Box) controlReboot(spec string) error {
	f, err := ParseFault(strings.TrimSuffix("reboot:down=3s,"+strings.Join(strings.Fields(spec), ","), ","))
	if err != nil {
		return err
	}
	return b.Reboot(f.Down, f.ListenerFirst)
}

func (b *Box) controlPool(words []string) error {
	if len(words) < 2 || words[1] != "mounted" && words[1] != "unmounted" {
		return fmt.Errorf("pool NAME mounted|unmounted [STATE]: got %q", strings.Join(words, " "))
	}
	return b.SetPool(words[0], words[1] == "mounted", strings.Join(words[2:], " "))
}

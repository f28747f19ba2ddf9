package report

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Table prints the steps with their seconds, and the promises with what was measured.
func (r *Report) Table(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var err error
	row := func(format string, cells ...any) {
		if err == nil { // the first error is the one that tells
			_, err = fmt.Fprintf(t, format+"\n", cells...)
		}
	}
	row("STEP\tSECONDS\tRESULT")
	for _, s := range r.Steps {
		row("%s\t%7.1f\t%s", s.Name, s.Seconds, either(s.Error == "", "ok", "FAILED"))
	}
	row("") // ends the columns of the steps
	row("PROMISE\tRESULT\tMEASURED")
	for _, p := range r.Promises {
		row("%s\t%s\t%s", p.Name, either(p.Kept, "kept", "BROKEN"), p.Measured)
	}
	row("")
	row("Linux %s", r.Kernel)
	if err != nil {
		return err
	}
	return t.Flush()
}

func either(good bool, yes, no string) string {
	if good {
		return yes
	}
	return no
}

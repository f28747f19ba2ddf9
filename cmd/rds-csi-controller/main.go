// Command rds-csi-controller is the CSI controller of RouterOS arrays: it alone has the arrays' SSH keys, and it
// refuses to start without a valid managed NQN prefix.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"

	"srvlab.io/rds-csi/cmd/internal/program"
	"srvlab.io/rds-csi/driver"
	"srvlab.io/rds-csi/driver/controller"
	"srvlab.io/rds-csi/driver/routeros"
	"srvlab.io/rds-csi/metrics"
)

func main() {
	var f flags
	program.Main(program.Program{
		Name: "rds-csi-controller",
		About: "The CSI controller of RouterOS arrays: it creates, deletes, grows, lists and fences volumes over SSH.\n" +
			"It keeps no state; several may run behind the sidecars' leader election.",
		MetricsAddress: ":9808",
		Flags:          f.declare,
		Required:       []string{"endpoint", "arrays", "cluster-id"},
		Run:            f.run,
	})
}

type flags struct {
	endpoint driver.Endpoint
	arrays   string
	cluster  string
}

func (f *flags) declare(fs *flag.FlagSet) {
	fs.TextVar(&f.endpoint, "endpoint", driver.Endpoint(""), "`SOCKET` to serve CSI on, unix:///absolute/path (required)")
	fs.StringVar(&f.arrays, "arrays", "", "`FILE` that lists the arrays, YAML (required)")
	fs.StringVar(&f.cluster, "cluster-id", "", "`ID` of this cluster, the same as the nodes have (required)")
}

func (f *flags) run(ctx context.Context, env *program.Env) (err error) {
	arrays, err := open(f.arrays, routeros.Options{Prefix: env.Prefix, Cluster: f.cluster})
	if err != nil {
		return err
	}
	defer func() {
		for _, a := range arrays {
			err = errors.Join(err, a.Close())
		}
	}()
	for _, a := range arrays {
		for _, w := range a.Warnings() {
			env.Log.Warn("unwise configuration", "op", "start", "err", w)
		}
	}
	c, err := controller.New(controller.Config{Arrays: arrays, Prefix: env.Prefix, Cluster: f.cluster})
	if err != nil {
		return err
	}
	env.Metrics.Register(metrics.Arrays(c.Readiness))
	answerMetrics, err := env.ServeMetrics(ctx, checks(c)...)
	if err != nil {
		return err
	}
	lis, err := driver.Listen(ctx, f.endpoint)
	if err != nil {
		return err
	}
	server := driver.NewServer(driver.Config{
		Version:    env.Version,
		Controller: c,
		Log:        env.Log,
		Begin:      env.Metrics.BeginRPC,
	})
	env.Log.Info("serving", "op", "start")
	return program.Together(ctx,
		func(ctx context.Context) error { return server.Serve(ctx, lis) },
		func(ctx context.Context) error { return c.Watch(ctx, env.Log) },
		answerMetrics,
	)
}

// open opens all arrays of the file. None is connected to: one that is down must not keep the others from working.
func open(file string, o routeros.Options) (arrays []*routeros.Array, err error) {
	config, err := routeros.LoadConfig(file)
	if err != nil {
		return nil, err
	}
	for _, ac := range config.Arrays {
		a, err := routeros.Open(ac, o)
		if err != nil {
			for _, opened := range arrays {
				err = errors.Join(err, opened.Close())
			}
			return nil, err
		}
		arrays = append(arrays, a)
	}
	return arrays, nil
}

// checks gives one line of /readyz for each array.
func checks(c *controller.Controller) []metrics.Check {
	var all []metrics.Check
	for _, name := range slices.Sorted(maps.Keys(c.Readiness())) {
		all = append(all, metrics.Check{
			Name:  fmt.Sprintf("array %s", name),
			Ready: func() error { return c.Readiness()[name] },
		})
	}
	return all
}
